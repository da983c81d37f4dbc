"""The host around the records: which unit and nexus they speak of, and who asked."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from prtrace.agent.claims import Claims, sent_by_proxy
from prtrace.agent.formerunits import FormerUnits
from prtrace.agent.remapped import Remapped
from prtrace.errors import MalformedError
from prtrace.linux.nodes import bsg_major
from prtrace.linux.process import COMM_LIMIT, ProcessCache
from prtrace.linux.qemu import NAME_LIMIT, UUID
from prtrace.linux.sgio import SG_IO, SG_MAJOR
from prtrace.linux.sysfs import SYS, inode
from prtrace.linux.text import clean
from prtrace.linux.units import Inventory, local_name, scan
from prtrace.model import IssuePath, Issuer, LocalNexus
from prtrace.probe.record import Flag, Issue, Record
from prtrace.scsi.codes import Opcode
from prtrace.scsi.designator import lu_name_partial
from prtrace.scsi.forms import PR_OUT_CDB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from prtrace.agent.claims import Opened
    from prtrace.prhelper.attribution import Attribution

Found = TypeVar("Found")

_PR_IOCTLS: Final = ord("p")
_BLOCK_IOCTLS: Final = {
    SG_IO: IssuePath.BLOCK_SG_IO,
    1: IssuePath.SEND_COMMAND,
    0x5393: IssuePath.SEND_PACKET,
    **{_PR_IOCTLS << 8 | number: IssuePath.IOC_PR for number in range(200, 208)},
}
"""By type and number of an ioctl (scsi/sg.h, scsi/scsi_ioctl.h, uapi/linux/cdrom.h and pr.h)."""
_DEVICES: Final = SYS / "bus/scsi/devices"
_RESCAN_INTERVAL_NS: Final = 1_000_000_000
"""Between two scans that unknown nexuses cause: a burst of them costs one scan."""
_NAMES: Final = 65536

_log = logging.getLogger("prtrace.surroundings")


class Asked(NamedTuple):
    """Who asked for a command."""

    issuer: Issuer | None
    exe: str = ""
    """The issuer's program file, "" where the process is gone."""
    unit: str = ""
    """The issuer's systemd unit, "" where the process is gone or in none."""
    cdb: bytes = b""
    """What the issuer's client asked for, b"" where that is what was issued."""
    parameter: bytes = b""
    """The client's parameter list; as cdb."""


class Surroundings:
    """What sysfs and /proc know, kept up to date by rescan(), and what proxies say.

    claims: the directories in which proxies say for whom they send a command.  opened: see Claims.
    scanned_at, scanned_ns: when the inventory was complete, nanoseconds since the epoch and
    CLOCK_MONOTONIC.
    """

    def __init__(self, claims: Iterable[Path] = (), opened: Opened | None = None) -> None:
        self.inventory: Inventory
        self._remapped = Remapped()
        self._former = FormerUnits()
        self.scanned_at = self.scanned_ns = 0
        self.rescan()
        self._names: dict[bytes, str | None] = {}
        self._processes = ProcessCache()
        self._claims = Claims(claims, opened)

    def rescan(self) -> None:
        """Look at every device again; no command is sent."""
        self._scanned(scan())

    def refresh(self, addresses: Iterable[str], *, maps: bool) -> None:
        """Look at the devices with these addresses again; maps: at device-mapper nodes too."""
        # The kernel may by now remember the unit that a device says it is.
        looked = {*addresses, *self._remapped.addresses}
        self._scanned(self.inventory.refreshed(looked, maps=maps))

    def believes(self, hctl: str, lu: str) -> bool:
        """Whether the device at an address is believed that it is the unit lu."""
        return self._remapped.believes(hctl, lu)

    def correct(self, hctl: str, lu: str) -> None:
        """Believe a device that says which unit it is, and not what the kernel remembers of it."""
        known = self.inventory.nexus(hctl)
        if known is not None:
            self._remapped.note(known, lu)
        self.refresh((hctl,), maps=False)

    def _scanned(self, inventory: Inventory) -> None:
        inventory = self._remapped.applied(inventory)
        if self.scanned_ns:
            self.note_former(self.inventory.directory.nexuses.values(), inventory)
        self.inventory = inventory
        self.scanned_at, self.scanned_ns = time.time_ns(), time.monotonic_ns()

    def note_former(
        self, nexuses: Iterable[LocalNexus], inventory: Inventory | None = None
    ) -> None:
        """Note nexuses that were known before the inventory; None: the present one."""
        self._former.note(nexuses, inventory or self.inventory, time.monotonic_ns())

    def former_units(self, hctl: str) -> frozenset[str]:
        """The designators of units that an address led to until a moment ago."""
        return self._former.of(hctl, time.monotonic_ns())

    def unit(self, hctl: str, page83: bytes) -> str:
        """The unit's designator: from the record's own page 83h, else from sysfs.

        A record says which unit it met; sysfs says what is at the address now, and is asked
        only where the captured part of the page does not settle it.
        """
        name = self._named(page83)
        if name is not None:
            return self._remapped.unit(hctl, name)
        nexus = self.nexus(hctl)
        return local_name(hctl) if nexus is None else nexus.lu

    def unit_of(self, hctl: str, page83: bytes, life: int = 0) -> str:
        """The unit's designator, "" where it is not certain.

        page83: of a time that has passed, b"" where it was not seen.  life: of the device that was
        at the address then, 0 where it is not known.
        """
        name = self._named(page83)
        if name is not None:
            return self._remapped.unit(hctl, name)
        nexus = self.nexus(hctl)
        return nexus.lu if nexus is not None and life and nexus.life == life else ""

    def _named(self, page83: bytes) -> str | None:
        if page83 not in self._names:
            if len(self._names) >= _NAMES:
                self._names.clear()
            try:
                name = lu_name_partial(page83) if page83 else None
            except MalformedError:
                name = None
            # A vendor specific designator need not be unique.
            self._names[page83] = None if name and name.startswith("vendor.") else name
        return self._names[page83]

    def nexus(self, hctl: str) -> LocalNexus | None:
        """The local nexus at an address; a device that just appeared is looked for.

        So is one that has another's address: the kernel reuses it, and no uevent is as early
        as the first record.
        """
        found = self.inventory.nexus(hctl)
        if found is None:
            if time.monotonic_ns() - self.scanned_ns > _RESCAN_INTERVAL_NS:
                self.rescan()
        elif inode(_DEVICES / hctl) not in (found.life, 0):
            self.rescan()
        else:
            return found
        return self.inventory.nexus(hctl)

    def is_here(self, hctl: str) -> bool:
        """Whether there is a scsi_device at an address, of whatever kind."""
        return self.inventory.nexus(hctl) is not None or (_DEVICES / hctl).exists()

    def paths(self, lu: str) -> tuple[LocalNexus, ...]:
        """This host's nexuses to a unit."""
        unit = self.inventory.units.get(lu)
        return () if unit is None else unit.nexuses

    def asked(self, record: Record) -> Asked:
        """Who asked: the process that issued the command, and for whom where a proxy says so."""
        header, comm = record.header, record.comm
        if header.flags & Flag.NOT_SUBMITTED:
            return Asked(None)
        identity = None
        if not header.issue & Issue.KTHREAD:
            # A proxy's thread has another name for each command; the process is the same.
            known_as = "" if sent_by_proxy(comm) else comm
            identity = _attempted(
                "who sent a command",
                lambda: self._processes.identify(
                    header.pid, header.issuer_start_ns, known_as, record.exe
                ),
            )
        requested = ""
        if header.issue & Issue.BLOCK:
            major, minor = header.requested >> 20, header.requested & 0xFFFFF
            requested = self._requested(f"{major}:{minor}", record.nexus)
        guest = identity.guest if identity is not None else None
        issuer = Issuer(
            pid=header.pid,
            comm=clean(comm, 16),
            start_ns=header.issuer_start_ns,
            cgroup=header.cgroup,
            path=_path(header.issue, header.ioctl, header.requested >> 20),
            requested=requested,
            guest="" if guest is None else guest.name or guest.uuid,
            uuid="" if guest is None else guest.uuid,
        )
        exe, unit = (identity.exe, identity.unit) if identity is not None else ("", "")
        # What the kernel had at the submission; the process may be another program by now.
        exe = record.exe or exe
        asked = Asked(issuer, exe, unit)
        claim = _attempted("for whom a proxy sent it", lambda: self._claims.of(record, exe))
        return asked if claim is None else _for_client(asked, issuer, claim, record)

    def _requested(self, number: str, hctl: str) -> str:
        """The node that was opened, where it is not the disk the command went to."""
        name = self.inventory.requested_name(number)
        nexus = self.inventory.nexus(hctl)
        return "" if nexus is not None and name == nexus.device else name


def _attempted(what: str, look: Callable[[], Found | None]) -> Found | None:
    """What look finds; None where it fails: who asked may be unknown, what happened may not."""
    try:
        return look()
    except Exception as error:
        _log.warning("it is not known %s: %r", what, error)
        return None


def _for_client(asked: Asked, issuer: Issuer, claim: Attribution, record: Record) -> Asked:
    """The same with what the attribution record says.

    A guest that only its own process names is shown as claimed; the word stands first, so that
    no long name pushes it out of a table.
    """
    uuid = claim.claimed_uuid if UUID.fullmatch(claim.claimed_uuid) else ""
    claimed = clean(claim.claimed_guest, NAME_LIMIT) or uuid
    issuer = replace(
        issuer,
        guest=clean(claim.guest, NAME_LIMIT) or (f"(claimed) {claimed}" if claimed else ""),
        uuid=uuid,
        client_pid=claim.client_pid,
        client_comm=clean(claim.client_comm, COMM_LIMIT),
    )
    length = min(len(claim.cdb), len(record.cdb), PR_OUT_CDB.size)
    out = claim.cdb[:1] == bytes((Opcode.PR_OUT,))
    same = claim.cdb[:length] == record.cdb[:length]
    if out:
        same = same and record.data == claim.parameter[: len(record.data)]
    if same:
        return asked._replace(issuer=issuer)
    return asked._replace(issuer=issuer, cdb=claim.cdb, parameter=claim.parameter)


def _path(issue: int, ioctl: int, major: int) -> IssuePath:
    if issue & Issue.KTHREAD:
        return IssuePath.KERNEL
    if issue & Issue.BSG:
        return IssuePath.BSG
    if issue & Issue.BLOCK:
        return _BLOCK_IOCTLS.get(ioctl & 0xFFFF, IssuePath.UNKNOWN)
    if issue & Issue.CHARACTER:
        if major == SG_MAJOR:
            return IssuePath.SG_NODE
        return IssuePath.BSG if major == bsg_major() else IssuePath.UNKNOWN
    if issue & Issue.NOWAIT:
        # io_uring on a node of sg's: no system call names the node.
        return IssuePath.SG_NODE
    return IssuePath.UNKNOWN
