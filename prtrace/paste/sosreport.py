"""A sosreport: what sos of a host collected about its disks, as recorded events (pure).

sos (sos/report/plugins/scsi.py) asks every disk by sg_persist for keys, reservation and full
status; the outputs lie in files that are named after the commands.  The kernel's log is among
them.  What a file does not tell is not filled in: a disk whose designator nobody printed is known
by its address only, and a log whose times have no zone is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

from prtrace.errors import PrtraceError
from prtrace.paste.reader import read_text
from prtrace.paste.recorded import Import
from prtrace.paste.seen import Seen
from prtrace.paste.stamp import Clock, parse_zone
from prtrace.scsi.cdb import PrInCdb
from prtrace.scsi.codes import InAction, Status, status_title, titled_type
from prtrace.scsi.reply import FullStatusDescriptor, ReadFullStatus
from prtrace.scsi.transportid import IscsiPort, SasPort, TransportId
from prtrace.state.decode import NOT_WATCHED
from prtrace.state.event import Command, Event

_ASKED: Final = re.compile(
    r"sos_commands/scsi/sg_persist_--in_-(?P<what>[krs])_-d_\.dev\.(?P<disk>sd[a-z]+)"
)
_ACTIONS: Final = {
    "k": InAction.READ_KEYS,
    "r": InAction.READ_RESERVATION,
    "s": InAction.READ_FULL_STATUS,
}
_BY_ID: Final = re.compile(
    r"\bwwn-0x(?P<naa>[0-9a-f]{16,32}) -> \S*/(?P<disk>sd[a-z]+)$", re.MULTILINE
)
_LISTED: Final = re.compile(
    r"^\[(?P<nexus>\d+:\d+:\d+:\d+)\]\s+disk\s.*\s/dev/(?P<disk>sd[a-z]+)\b", re.MULTILINE
)
_ZONE: Final = re.compile(r"Time zone: .*\((?:\w+, )?(?P<zone>[+-]\d{4})\)")
_LOGS: Final = (
    "sos_commands/logs/journalctl_--no-pager_--boot",
    "sos_commands/logs/journalctl_--no-pager_--catalog_--boot",
    "var/log/messages",
    "var/log/kern.log",
    "var/log/syslog",
)
_NAMES: Final = ("hostname", "sos_commands/host/hostname", "etc/hostname")
_WANTED: Final = re.compile(
    r"sos_commands/(?:scsi/(?:sg_persist_--in_-[krs]_-d_|lsscsi$)|block/ls_-la|"
    r"systemd/timedatectl$|host/(?:hostname|timedatectl)$|logs/journalctl_--no-pager)"
)
_SAS: Final = re.compile(r"0x[2356][0-9a-f]{15}")
"""A SAS address: 64 bits that begin with an NAA; a parallel SCSI address is shorter."""
_ALLOCATION: Final = 8192
"""sg_persist's ALLOCATION LENGTH where nobody gives one."""
_NS: Final = 1_000_000_000


class SosFile(NamedTuple):
    """One file of a report."""

    text: str
    time: int
    """When it was written, seconds since the epoch."""


@dataclass(slots=True)
class SosReport:
    """What a sosreport tells."""

    host: str
    events: list[Event] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was left out, and why."""


def is_wanted(name: str) -> bool:
    """Whether a file of a report, by its path in it, is worth reading."""
    return name in (*_LOGS, *_NAMES) or _WANTED.match(name) is not None


def read_report(files: Mapping[str, SosFile]) -> SosReport:
    """The events that files tell of, in the order of their times.  files: path in the report."""
    host = next((files[name].text.strip() for name in _NAMES if name in files), "")
    report = SosReport(host.splitlines()[0] if host else "")
    disks = _Disks(files)
    found = Import()
    _logged(report, files, disks, found)
    events = list(found.events)
    first = min((files[name].time for name in files if _ASKED.fullmatch(name)), default=0)
    events += (
        Event(command=Command.LOST, lu=lu, time=first * _NS, problem=NOT_WATCHED)
        for lu in dict.fromkeys(disks.lu(name) for name in disks.asked)
    )
    for name in sorted(files, key=lambda each: files[each].time):
        asked = _ASKED.fullmatch(name)
        if asked is not None:
            events += _answered(report, files[name], asked["what"], asked["disk"], disks)
    events.sort(key=lambda event: event.time)
    report.events = [event._replace(seq=seq) for seq, event in enumerate(events, 1)]
    return report


class _Disks:
    """Which unit and which address a disk of the host is."""

    def __init__(self, files: Mapping[str, SosFile]) -> None:
        self.nexuses: dict[str, str] = {}
        self.units: dict[str, str] = {}
        self.asked = sorted({asked["disk"] for name in files if (asked := _ASKED.fullmatch(name))})
        for name, file in files.items():
            if name == "sos_commands/scsi/lsscsi":
                self.nexuses |= {
                    each["disk"]: each["nexus"] for each in _LISTED.finditer(file.text)
                }
            elif name.startswith("sos_commands/block/ls_-la"):
                self.units |= {
                    each["disk"]: f"naa.{each['naa']}" for each in _BY_ID.finditer(file.text)
                }

    def nexus(self, disk: str) -> str:
        """Its address, "" where it is not told."""
        return self.nexuses.get(disk, "")

    def lu(self, disk: str) -> str:
        """Its designator; a name of this report alone where it is not told."""
        nexus = self.nexus(disk)
        return self.units.get(disk) or (f"hctl.{nexus}" if nexus else f"disk.{disk}")

    def named(self) -> dict[str, str]:
        """The unit of each disk and of each address."""
        return {
            name: self.lu(disk)
            for disk in {*self.nexuses, *self.units}
            for name in (disk, self.nexus(disk))
            if name
        }


def _answered(
    report: SosReport, file: SosFile, what: str, disk: str, disks: _Disks
) -> Iterator[Event]:
    """The reply that one sg_persist printed."""
    try:
        read = read_text(file.text)
    except PrtraceError as error:
        report.notes.append(f"sg_persist -{what} {disk}: {error.message}")
        return
    for seen in () if isinstance(read, bytes) else read:
        reply = _full_status(seen) if what == "s" else seen.reply
        if not reply:
            continue
        yield Event(
            command=Command.PR_IN,
            time=file.time * _NS,
            lu=disks.lu(disk),
            nexus=disks.nexus(disk),
            device=f"/dev/{disk}",
            status=status_title(Status.GOOD),
            cdb=PrInCdb(_ACTIONS[what], _ALLOCATION).build(),
            data=reply,
        )


def _full_status(seen: Seen) -> bytes:
    """READ FULL STATUS as its words tell it; b"" where a TransportID is not in them."""
    told = list(seen.facts)
    if not told or told[0][0] != "prgeneration":
        return b""
    each: dict[str, str] = {}
    groups = [each]
    for name, value in told[1:]:
        if name == "reservation key" and each:
            each = {}
            groups.append(each)
        each[name] = value
    found: list[FullStatusDescriptor] = []
    for group in filter(None, groups):
        port = _port(group.get("transportid", ""))
        holder = group.get("r_holder") == "1"
        kind = titled_type(group.get("type", "")) if holder else None
        if port is None or (holder and kind is None):
            return b""
        found.append(
            FullStatusDescriptor(
                int(group["reservation key"], 16),
                int(group.get("relative target port identifier", "0")),
                port,
                holder=holder,
                type=kind,
                all_tg_pt=group.get("all_tg_pt") == "1",
            )
        )
    return ReadFullStatus.of(int(told[0][1]), *found).build()


def _port(text: str) -> TransportId | None:
    name, mark, isid = text.partition(",i,0x")
    try:
        if _SAS.fullmatch(text):
            return SasPort(int(text, 16))
        if text.startswith(("iqn.", "eui.", "naa.")):
            return IscsiPort(name.encode(), int(isid, 16) if mark else None)
    except ValueError:
        pass
    return None


def _logged(report: SosReport, files: Mapping[str, SosFile], disks: _Disks, found: Import) -> None:
    """The conflicts of the first log that can be read."""
    zone = None
    for name in ("sos_commands/systemd/timedatectl", "sos_commands/host/timedatectl"):
        told = _ZONE.search(files[name].text) if name in files else None
        zone = parse_zone(told["zone"]) if told is not None else zone
    for name in _LOGS:
        if name not in files:
            continue
        year = datetime.fromtimestamp(files[name].time, zone).year
        lines = [line for line in files[name].text.splitlines() if "kernel:" in line]
        try:
            seen = read_text("\n".join(lines))
            if isinstance(seen, bytes):
                continue
            found.add(seen, Clock(year=year, zone=zone), disks.named())
        except PrtraceError as error:
            report.notes.append(f"{name}: {error.message}")
            continue
        _drop_the_future(report, name, found, files[name].time)
        report.notes += sorted({f"{name}: {reason}" for _, reason in found.refused})
        return


def _drop_the_future(report: SosReport, name: str, found: Import, now: int) -> None:
    """A log without years that goes back over a New Year has lines of another year."""
    late = [event for event in found.events if event.time > (now + 86_400) * _NS]
    if late:
        report.notes.append(f"{name}: {len(late)} lines are of another year, and left out")
        found.events = [event for event in found.events if event not in late]
