"""Who else uses this host's SCSI devices: processes, mounted file systems, volumes.

That somebody uses a device is seen; that nobody does is known only where everything could be
looked at.  What a look could not see is therefore told with what it saw.

Not seen: a process that opened the node of a device under a name that is not below /dev (looking
at any other name can wait for a network's file system for ever), and users in the kernel that
leave no holder in sysfs, as a LIO backstore does.
"""

from __future__ import annotations

import enum
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from prtrace.errors import PrtraceError
from prtrace.linux.process import PROC
from prtrace.linux.sysfs import names, read_text, target

if TYPE_CHECKING:
    from prtrace.linux.directory import Directory

_FIRST_NAMESPACE: Final = "pid:[4026531836]"
"""PROC_PID_INIT_INO, include/linux/proc_ns.h: the namespace in which every process is seen."""
_INIT: Final = "1"


class Use(enum.IntEnum):
    """Whether somebody else uses a device; the more, the more it speaks against sending to it."""

    NOT_OPENED = 0
    NOT_KNOWN = 1
    OPENED = 2


class Users(NamedTuple):
    """What a look at the users of all devices came to."""

    opened: frozenset[str] = frozenset()
    """The "H:C:T:L" of devices that were seen in use."""
    unseen: str = ""
    """What could not be looked at, for the log; "" where everything was."""

    def of(self, hctl: str) -> Use:
        """Whether the device with this address is in use."""
        if hctl in self.opened:
            return Use.OPENED
        return Use.NOT_KNOWN if self.unseen else Use.NOT_OPENED


class Nodes(NamedTuple):
    """Nodes in use: ("block" or "char", "MAJOR:MINOR").  unseen: as in Users."""

    found: frozenset[tuple[str, str]]
    unseen: str = ""


def users_of(directory: Directory, proc: Path = PROC, nodes: Nodes | None = None) -> Users:
    """The devices that other processes have open, mounted, or build volumes on.

    nodes: what somebody saw who may look at every process; None: this process looks itself.
    """
    seen = nodes_in_use(proc) if nodes is None else nodes
    look = _Look(proc)
    look.unseen = seen.unseen
    used = set()
    for kind, number in seen.found:
        table = directory.block if kind == "block" else directory.char
        hctl = table.get(number) or (kind == "block" and look.whole_disk(directory, number))
        if hctl:
            used.add(hctl)
    for nexus in directory.nexuses.values():
        disk = Path(nexus.device).name
        if disk and look.has_holders(directory.sys / "block" / disk):
            used.add(nexus.nexus)
    return Users(frozenset(used), look.unseen)


def nodes_in_use(proc: Path = PROC) -> Nodes:
    """The nodes that other processes have open, and those of mounted file systems.

    To see all of them takes CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH.
    """
    look = _Look(proc)
    look.at_processes()
    look.at_mounts()
    return Nodes(frozenset(look.found), look.unseen)


class _Look:
    """One look.  found: ("block" or "char", "MAJOR:MINOR") of what is in use.

    unseen: the first thing that could not be looked at.
    """

    def __init__(self, proc: Path) -> None:
        self._proc = proc
        self.found: set[tuple[str, str]] = set()
        self.unseen = ""

    def at_processes(self) -> None:
        """The nodes that other processes have open."""
        try:
            if os.readlink(self._proc / "self/ns/pid") != _FIRST_NAMESPACE:
                self._missed("processes outside of this one's PID namespace")
            pids = [name for name in os.listdir(self._proc) if name.isdecimal()]
        except OSError as error:
            self._missed(f"{self._proc}: {error.strerror}")
            return
        if _INIT not in pids:
            self._missed(f"{self._proc} hides processes")
        for pid in pids:
            if pid != str(os.getpid()):
                self._at_process(f"{self._proc}/{pid}/fd")

    def _at_process(self, directory: str) -> None:
        try:
            numbers = os.listdir(directory)
        except OSError as error:
            self._missed_unless_gone(directory, error)
            return
        for number in numbers:
            name = f"{directory}/{number}"
            try:
                if not os.readlink(name).startswith("/dev/"):
                    continue
                status = os.stat(name)
            except OSError as error:
                self._missed_unless_gone(name, error)
                continue
            node = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
            if stat.S_ISBLK(status.st_mode):
                self.found.add(("block", node))
            elif stat.S_ISCHR(status.st_mode):
                self.found.add(("char", node))

    def at_mounts(self) -> None:
        """The devices of mounted file systems, by field 3 of mountinfo (proc(5)).

        Those of the first process: this one may have a mount namespace of its own.
        """
        try:
            text = (self._proc / _INIT / "mountinfo").read_text(errors="replace")
        except OSError as error:
            self._missed(f"{self._proc}/{_INIT}/mountinfo: {error.strerror}")
            return
        lines = text.splitlines()
        self.found |= {("block", fields[2]) for line in lines if len(fields := line.split()) > 2}

    def whole_disk(self, directory: Directory, number: str) -> str:
        """The nexus of the disk whose partition has this number, "" where it is none."""
        try:
            place = target(directory.sys / "dev/block" / number)
            if place is None or read_text(place / "partition") is None:
                return ""
            return directory.block.get(read_text(place.parent / "dev") or "", "")
        except PrtraceError as error:
            self._missed(error.message)
            return ""

    def has_holders(self, disk: Path) -> bool:
        """Whether a volume stands on a disk, or on a partition of it."""
        try:
            return any(
                names(place / "holders")
                for place in (
                    disk,
                    *(disk / part for part in names(disk) if part.startswith(disk.name)),
                )
            )
        except PrtraceError as error:
            self._missed(error.message)
            return False

    def _missed_unless_gone(self, what: str, error: OSError) -> None:
        # A process may end, and a descriptor be closed, at any moment.
        if not isinstance(error, FileNotFoundError | ProcessLookupError):
            self._missed(f"{what}: {error.strerror}")

    def _missed(self, what: str) -> None:
        self.unseen = self.unseen or what
