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
from datetime import UTC, datetime, tzinfo
from typing import Final, NamedTuple

from prtrace.errors import PrtraceError, UsageError
from prtrace.paste.reader import read_text
from prtrace.paste.recorded import Import
from prtrace.paste.seen import Seen
from prtrace.paste.stamp import SECOND_NS, Clock, parse_zone
from prtrace.scsi.cdb import PrInCdb
from prtrace.scsi.codes import InAction, Status, status_title, titled_type
from prtrace.scsi.reply import FullStatusDescriptor, ReadFullStatus
from prtrace.scsi.transportid import FcPort, IscsiPort, SasPort, SrpPort, TransportId
from prtrace.state.decode import NOT_WATCHED
from prtrace.state.event import Command, Event, path_from_json

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
_MAP: Final = re.compile(
    r"^(?:(?P<alias>\S+) \()?3(?P<naa>[0-9a-f]{16,32})\)? dm-\d+ .*\n"
    r"(?P<lines>(?:[^\n]*\n)*?)(?=^\S+ .*dm-\d+ |\Z)",
    re.MULTILINE,
)
"""A map of multipath -ll: 3 and the NAA name of its unit, then its paths."""
_PATH: Final = re.compile(
    r"^[ |`+-]+ (?P<nexus>\d+:\d+:\d+:\d+) +(?P<disk>sd[a-z]+) ", re.MULTILINE
)
_FC_PORT: Final = re.compile(r"sys/(?:class|devices/.+)/fc_host/host(?P<host>\d+)/port_name")
_PORT_NAME: Final = re.compile(r"0x(?P<name>[0-9a-f]{16})\s*")
_LISTED: Final = re.compile(
    r"^\[(?P<nexus>\d+:\d+:\d+:\d+)\]\s+disk\s.*\s/dev/(?P<disk>sd[a-z]+)\b", re.MULTILINE
)
_ZONE: Final = re.compile(r"Time zone: (?P<name>\S+) \((?:[^,)]+, )?(?P<offset>[+-]\d{4})\)")
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
    r"systemd/timedatectl$|host/(?:hostname|timedatectl)$|logs/journalctl_--no-pager|"
    r"multipath/multipath_(?:-v\d_)?-ll$)"
)
_SAS: Final = re.compile(r"0x[2356][0-9a-f]{15}")
"""A SAS address: 64 bits that begin with an NAA; a parallel SCSI address is shorter."""
_FC_DIGITS: Final = 16
_SRP_DIGITS: Final = 32
_ALLOCATION: Final = 8192
"""sg_persist's ALLOCATION LENGTH where nobody gives one."""


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
    ports: tuple[str, ...] = ()
    """The host's Fibre Channel ports, by their canonical names."""
    names: dict[str, str] = field(default_factory=dict)
    """The unit behind each disk, each address and each alias of multipath's."""


def is_wanted(name: str) -> bool:
    """Whether a file of a report, by its path in it, is worth reading."""
    listed = name in (*_LOGS, *_NAMES)
    return listed or any(form.match(name) for form in (_WANTED, _FC_PORT))


def read_report(files: Mapping[str, SosFile]) -> SosReport:
    """The events that files tell of, in the order of their times.  files: path in the report."""
    host = next((files[name].text.strip() for name in _NAMES if name in files), "")
    report = SosReport(host.splitlines()[0] if host else "")
    disks = _Disks(files)
    found = Import()
    _logged(report, files, disks, found)
    events = list(found.events)
    first = min((files[name].time for name in files if _ASKED.fullmatch(name)), default=0)
    for lu in dict.fromkeys(disks.lu(name) for name in disks.asked):
        lost = Event(command=Command.LOST, lu=lu, time=first * SECOND_NS, problem=NOT_WATCHED)
        events += (lost, disks.paths(lu)._replace(time=lost.time))
    for name in sorted(files, key=lambda each: files[each].time):
        asked = _ASKED.fullmatch(name)
        if asked is not None:
            events += _answered(report, files[name], asked["what"], asked["disk"], disks)
    events.sort(key=lambda event: event.time)
    report.ports = tuple(dict.fromkeys(disks.ports.values()))
    report.names = disks.named() | disks.maps
    report.events = [event._replace(seq=seq) for seq, event in enumerate(events, 1)]
    return report


class _Disks:
    """Which unit and which address a disk of the host is."""

    def __init__(self, files: Mapping[str, SosFile]) -> None:
        self.nexuses: dict[str, str] = {}
        self.units: dict[str, str] = {}
        self.maps: dict[str, str] = {}
        """The unit behind each map of multipath's that has an alias."""
        self.ports: dict[str, str] = {}
        """By the number of a SCSI host."""
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
            elif name.startswith("sos_commands/multipath/"):
                self._mapped(file.text)
            elif (host := _FC_PORT.fullmatch(name)) is not None:
                port = _PORT_NAME.fullmatch(file.text)
                if port is not None:
                    self.ports[host["host"]] = f"naa.{port['name']}"

    def _mapped(self, text: str) -> None:
        """The units and addresses of the paths that multipath -ll lists."""
        for each in _MAP.finditer(text):
            if each["alias"]:
                self.maps[each["alias"]] = f"naa.{each['naa']}"
            for path in _PATH.finditer(each["lines"]):
                self.units.setdefault(path["disk"], f"naa.{each['naa']}")
                self.nexuses.setdefault(path["disk"], path["nexus"])

    def paths(self, lu: str) -> Event:
        """The unit's paths that have an address; the target port of one is not told."""
        found = (
            {
                "nexus": nexus,
                "device": f"/dev/{disk}",
                "initiator_port": self.ports.get(nexus.partition(":")[0]),
            }
            for disk, nexus in sorted(self.nexuses.items())
            if self.lu(disk) == lu
        )
        paths = tuple(path_from_json(lu, path) for path in found)
        return Event(command=Command.PATHS, lu=lu, paths=paths)

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
            if what == "s" and seen.facts:
                report.notes.append(
                    f"sg_persist -s {disk}: a registration is not told in words that are known"
                )
            continue
        yield Event(
            command=Command.PR_IN,
            time=file.time * SECOND_NS,
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
        if port is None or "reservation key" not in group or (holder and kind is None):
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
    """The port as prtrace.paste.sg_utils names it, None where it is another protocol's."""
    name, mark, isid = text.partition(",i,0x")
    kind, _, digits = text.partition(".")
    try:
        if _SAS.fullmatch(text):
            return SasPort(int(text, 16))
        if kind == "naa" and len(digits) == _FC_DIGITS:
            return FcPort(int(digits, 16))
        if kind == "srp" and len(digits) == _SRP_DIGITS:
            return SrpPort(int(digits, 16))
        if kind in ("iqn", "eui", "naa"):
            return IscsiPort(name.encode(), int(isid, 16) if mark else None)
    except ValueError:
        pass
    return None


def _logged(report: SosReport, files: Mapping[str, SosFile], disks: _Disks, found: Import) -> None:
    """The conflicts of the first log that can be read."""
    zone = None
    for name in ("sos_commands/systemd/timedatectl", "sos_commands/host/timedatectl"):
        told = _ZONE.search(files[name].text) if name in files else None
        zone = _zone(report, told) if told is not None else zone
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


def _zone(report: SosReport, told: re.Match[str]) -> tzinfo | None:
    """The zone of the host's logs: its offset today is not that of every line."""
    if not int(told["offset"]) and told["name"].endswith("UTC"):
        return UTC
    try:
        return parse_zone(told["name"])
    except UsageError:
        report.notes.append(f"the zone {told['name']} is not known here: tzdata has it")
        return None


def _drop_the_future(report: SosReport, name: str, found: Import, now: int) -> None:
    """A log without years that goes back over a New Year has lines of another year."""
    late = [event for event in found.events if event.time > (now + 86_400) * SECOND_NS]
    if late:
        report.notes.append(f"{name}: {len(late)} lines are of another year, and left out")
        found.events = [event for event in found.events if event not in late]
