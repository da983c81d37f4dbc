"""From what lines say to recorded events, which `prtrace replay` takes.

An event has what its line has.  A line that does not tell when, where or what is refused with
the reason; nothing is filled in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from prtrace.errors import UsageError
from prtrace.paste.seen import Seen
from prtrace.paste.stamp import SECOND_NS, Clock, Stamp
from prtrace.scsi.codes import Opcode, Status, status_title
from prtrace.scsi.commands import medium_command
from prtrace.scsi.sense import FIXED, UNIT_ATTENTION, Sense, attention, may_be_attention
from prtrace.state.decode import COMMANDS, TIMEOUT
from prtrace.state.event import Command, Event

_APART_NS: Final = 10 * SECOND_NS
"""By which lines of several processors are not out of their order."""
_MONTHS: Final = timedelta(days=120)
"""By which a time without a year is earlier than the one before where a year began between."""


@dataclass(slots=True)
class Import:
    """What became of the lines of all files."""

    host: str = ""
    """The host whose log it is, "" where no line names it."""

    events: list[Event] = field(default_factory=list)
    refused: list[tuple[Seen, str]] = field(default_factory=list)
    """Lines about reservations that lack what an event needs, and what that is."""
    silent: int = 0
    """Commands that say nothing about reservations."""
    repeated: int = 0
    """Lines about a conflict that another line has told of."""
    again: int = 0
    """Events of lines that a file before has, too."""

    def add(self, seen: Iterable[Seen], clock: Clock, units: Mapping[str, str]) -> None:
        """Take what one file says.  units: H:C:T:L or disk name to the unit's designator.

        UsageError where the file has the lines of several hosts, whose disks have the same names.
        """
        listed = tuple(seen)
        hosts = sorted({self.host, *(each.host for each in listed)} - {""})
        if len(hosts) > 1:
            raise UsageError(
                f"the log is of several hosts: {', '.join(hosts[:4])}",
                hint="import the lines of each host on their own: their disks have the same names",
            )
        self.host = next(iter(hosts), "")
        names = _Names(listed)
        before = Counter(map(_same, self.events))
        for each in listed:
            command = _command(each)
            if command is None:
                self.silent += 1
                continue
            if command is Command.CONFLICT and each.perhaps:
                self.repeated += 1
                continue
            try:
                event = _event(each, command, clock, units, names)
            except UsageError as error:
                hint = f" ({error.hint})" if error.hint else ""
                self.refused.append((each, error.message + hint))
                continue
            if before[_same(event)] > 0:
                before[_same(event)] -= 1
                self.again += 1
            else:
                self.events.append(event)

    def numbered(self) -> list[Event]:
        """The events in the order of their times, numbered from 1."""
        ordered = sorted(self.events, key=lambda event: event.time)
        return [event._replace(seq=seq) for seq, event in enumerate(ordered, 1)]


def _same(event: Event) -> Event:
    """What two logs of one host that overlap have in common: one may have whole seconds."""
    return event._replace(time=event.time // SECOND_NS)


def of_one_year(seen: Iterable[Seen]) -> None:
    """Make sure that times without a year, in the order of their lines, can be of one year.

    UsageError where a line's time is months before that of a line above it.
    """
    last: Seen | None = None
    for each in seen:
        if each.stamp is None or each.stamp.year or each.stamp.local is None:
            continue
        newest = None if last is None or last.stamp is None else last.stamp.local
        if newest is not None and newest - each.stamp.local > _MONTHS and last is not None:
            raise UsageError(
                f"line {each.line} is of another year than a line before it",
                hint="import the lines of each year on their own, with its --year",
            )
        last = each


class _Names:
    """What the lines of one file say of each other's disks and commands."""

    def __init__(self, listed: Iterable[Seen]) -> None:
        self._nexuses: dict[str, set[str]] = {}
        self._devices: dict[str, set[str]] = {}
        self._perhaps: dict[int, str] = {}
        self._attached: dict[str, int] = {}
        """By address and by disk: the last line that tells that it was attached."""
        self._started = 0
        """The last line that tells that the machine started, or is behind a start."""
        since = 0
        for each in listed:
            now = None if each.stamp is None else each.stamp.since_boot_ns
            if each.started or (now is not None and now < since - _APART_NS):
                self._started = each.line
            since = since if now is None else now
            if each.attached:
                self._attached |= dict.fromkeys((each.nexus, each.device), each.line)
            if each.device and each.nexus:
                self._nexuses.setdefault(each.device, set()).add(each.nexus)
                self._devices.setdefault(each.nexus, set()).add(each.device)
            if each.perhaps and each.cdb:
                command = medium_command(each.cdb)
                block = "" if command.lba is None else f" at block {command.lba}"
                self._perhaps.setdefault(each.perhaps, f"{command.name}{block}")

    def nexus(self, seen: Seen) -> str:
        """Its address; that of its disk where the file gives the disk one address only."""
        if seen.nexus:
            return seen.nexus
        known = self._nexuses.get(seen.device, set())
        if len(known) > 1:
            raise UsageError(
                f"it names {seen.device} only, which was {' and '.join(sorted(known))}",
                hint="import the time before and after the change on their own",
            )
        return next(iter(known), "")

    def device(self, seen: Seen) -> str:
        """Its disk; that of its address where the file gives the address one disk only."""
        known = self._devices.get(seen.nexus, set())
        return seen.device or (next(iter(known)) if len(known) == 1 else "")

    def unit(self, seen: Seen, nexus: str, device: str, units: Mapping[str, str]) -> str:
        """The unit behind its address or its disk, "" where units has neither.

        UsageError where a disk was attached there later: units tells of that one.
        """
        name = next((name for name in (nexus, device) if name in units), "")
        if name and self._started > seen.line:
            raise UsageError(
                f"it is of before the machine started on line {self._started}: which unit {name} "
                "was then is not told",
                hint="import the lines before that on their own, with --unit",
            )
        if self._attached.get(name, 0) > seen.line:
            raise UsageError(
                f"{name} was attached anew on line {self._attached[name]}: which unit it was "
                "before is not told",
                hint="import the lines before that on their own, with --unit",
            )
        return units.get(name, "")

    def time(self, seen: Seen, stamp: Stamp, clock: Clock) -> int:
        """When it was; UsageError as Stamp.ns, and for a time since another start."""
        if stamp.since_boot_ns is not None and self._started > seen.line:
            raise UsageError(
                f"its time is counted from a start before that of line {self._started}",
                hint="import the lines before that on their own, with their --boot",
            )
        return stamp.ns(clock)

    def perhaps(self, seen: Seen) -> str:
        """The command that may be this conflict's."""
        return self._perhaps.get(seen.line, "")


def _command(seen: Seen) -> Command | None:
    """What kind of event it is, None where it says nothing about reservations."""
    if seen.cdb and seen.cdb[0] in COMMANDS:
        return COMMANDS[seen.cdb[0]]
    if seen.status == Status.RESERVATION_CONFLICT:
        return Command.CONFLICT
    sense = _sense(seen)
    if sense is not None and sense.key == UNIT_ATTENTION and _tells(sense):
        return Command.UNIT_ATTENTION
    if seen.opcode is not None and seen.opcode != Opcode.PR_IN:
        return COMMANDS.get(seen.opcode)
    return None


def _tells(sense: Sense) -> bool:
    """Whether a unit attention speaks of reservations, or may do so."""
    return attention(sense) is not None or may_be_attention(sense)


def _event(
    seen: Seen,
    command: Command,
    clock: Clock,
    units: Mapping[str, str],
    names: _Names,
) -> Event:
    if not seen.cdb and command in COMMANDS.values():
        # What it asked for decides what it can have changed.
        raise UsageError(f"of the CDB it has only the operation code, {seen.opcode or 0:#04x}")
    if seen.under_way:
        raise UsageError("it began, and its end is not here: whether it took effect is not told")
    if seen.stamp is None:
        raise UsageError(
            "there is no time in it", hint="prtrace decode says what it means without one"
        )
    nexus, device = names.nexus(seen), names.device(seen)
    lu = seen.lu or names.unit(seen, nexus, device, units) or (f"hctl.{nexus}" if nexus else "")
    if not lu:
        raise UsageError(
            f"it names {seen.device} only" if seen.device else "it names no device",
            hint="name its unit with --unit NAME=DESIGNATOR" if seen.device else "",
        )
    sense = _sense(seen)
    return Event(
        command=command,
        time=names.time(seen, seen.stamp, clock),
        lu=lu,
        nexus=nexus,
        device=f"/dev/{device}" if device else "",
        status=_status(seen),
        host_byte=seen.host_byte,
        problem=_absent(seen, command, names.perhaps(seen)),
        cdb=seen.cdb or (b"" if seen.opcode is None else bytes((seen.opcode,))),
        data=seen.parameter_list or seen.reply,
        sense_bytes=b"" if sense is None else seen.sense or sense.build(),
    )


def _status(seen: Seen) -> str:
    if seen.timed_out:
        return TIMEOUT
    return "" if seen.status is None else status_title(seen.status)


def _sense(seen: Seen) -> Sense | None:
    if seen.sense:
        return Sense.parse(seen.sense)
    if seen.triple is None:
        return None
    return Sense(FIXED, seen.triple.key, seen.triple.asc, seen.triple.ascq)


def _absent(seen: Seen, command: Command, perhaps: str) -> str:
    """What the lines do not tell of the command."""
    if seen.cdb:
        return ""
    if seen.opcode is not None:
        return f"the log has of the CDB only the operation code, {seen.opcode:#04x}"
    if command is not Command.CONFLICT:
        return ""
    told = "the log does not name the command"
    return f"{told}; {perhaps} failed at that moment, too, and may be it" if perhaps else told
