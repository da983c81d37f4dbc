"""Lines of the Linux kernel's log, and of its SCSI tracepoints.

drivers/scsi/scsi_error.c prints "sd H:C:T:L: reservation conflict" without a tag, scsi_logging.c
"sd H:C:T:L: [sdX] tag#N Result: …" and then sense and CDB with the same tag, block/blk-core.c
"reservation conflict error, dev sdX, sector N …" ("critical nexus error" before 6.5) without one.
include/trace/events/scsi.h defines the tracepoints.

Several processors print at once, so lines of several commands interleave.  Only lines that carry
the same tag of the same nexus are joined, and not even these where two commands with that tag are
open.  A line without a tag is an observation of its own; where the log has a conflict of the same
nexus at the same moment, Seen.perhaps names its line.  The block layer's line tells that the
command at its sector was the one in conflict: where a CDB above it asks for that sector, the
conflict is that command's.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from prtrace.paste.seen import Seen, SenseTriple
from prtrace.paste.sense_words import additional_sense, sense_key
from prtrace.paste.stamp import MOMENT_NS, SECOND_NS, Stamp, split_stamp
from prtrace.scsi.codes import Status
from prtrace.scsi.commands import medium_command
from prtrace.scsi.sense import UNIT_ATTENTION

SOURCE: Final = "Linux kernel"
TRACE: Final = "Linux tracepoint"

_DEVICE: Final = re.compile(
    r"(?:(?P<host>.*?)\bkernel: )?(?:\[\s*\d+\.\d+\] )?(?:sd|sr|st|ch|ses|scsi) "
    r"(?P<nexus>\d{1,10}:\d{1,10}:\d{1,10}:\d{1,20}):(?: \[(?P<device>[a-z]+\d*)\])?"
    r"(?: tag#(?P<tag>\d+))? (?P<words>.+)"
)
_BLOCK: Final = re.compile(
    r"(?:(?P<host>.*?)\bkernel: )?(?:\[\s*\d+\.\d+\] )?(?:blk_update_request: )?"
    r"(?:critical nexus error|reservation conflict error), dev (?P<device>\w+), "
    r"sector (?P<sector>\d{1,20})\b(?: op (?P<op>0x[0-9a-f]+:\(\w+\)))?.*"
)
_CDB: Final = re.compile(r"CDB: .*?(?P<bytes>\b[0-9a-f]{2}(?: [0-9a-f]{2})*)\s*")
"""A name, which may end in a service action's, and the bytes, up to the end of the line."""
_SENT: Final = re.compile(r"Send: scmd\b")
"""With scsi_logging_level: the command goes out; its CDB follows, and again at its end."""
_RESULT: Final = re.compile(r".*\bResult: hostbyte=(?P<host>\w+)")
_STARTED: Final = re.compile(
    r"(?:(?P<host>.*?)\bkernel: )?(?:\[\s*\d+\.\d+\] )?Linux version \d.*"
)
_NEWS: Final = {
    "Parameters changed": SenseTriple(UNIT_ATTENTION, 0x2A),
    "Inquiry data has changed": SenseTriple(UNIT_ATTENTION, 0x3F, 0x03),
    "LUN assignments on this target have changed": SenseTriple(UNIT_ATTENTION, 0x3F, 0x0E),
    "Power-on or device reset occurred": SenseTriple(UNIT_ATTENTION, 0x29),
}
"""Unit attentions that scsi_report_sense() (drivers/scsi/scsi_error.c) names, by how a
line begins.  2A/01, 2A/06 and 2A/09 have other words; "Parameters changed" is any other of 2A."""
_HOLE: Final = re.compile(
    r"\bprintk messages? dropped\b|\bmissed \d+ kernel messages\b|\bsuppressed \d+ messages\b",
    re.IGNORECASE,
)
"""Lines were lost here: what was open cannot be told from what came meanwhile."""
_TRACED: Final = re.compile(
    r"(?P<tags>driver_tag=\d+ scheduler_tag=\d+ )?cmnd=\((?P<name>\w+).*? "
    r"raw=(?P<bytes>[0-9a-f]{2}(?: [0-9a-f]{2})*)\)(?P<rest>.*)"
)
_TRACED_PLACE: Final = re.compile(
    r"(?:(?P<seconds>\b\d{1,10})\.(?P<part>\d{6}): )?"
    r"scsi_dispatch_cmd_(?P<event>start|done|timeout|error): "
    r"host_no=(?P<host>\d{1,10}) channel=(?P<channel>\d{1,10}) id=(?P<id>\d{1,10}) "
    r"lun=(?P<lun>\d{1,20}) "
)
_TRACED_RESULT: Final = re.compile(r"host=(?P<host>\w+).*?status=(?:SAM_STAT_)?(?P<status>\w+)")
_BYTE: Final = r"0x[0-9a-f]{1,2}|0"
"""As printf's %#x writes a byte."""
_TRACED_SENSE: Final = re.compile(
    rf"sense=\(key=(?P<key>0x[0-9a-f]|0) asc=(?P<asc>{_BYTE}) ascq=(?P<ascq>{_BYTE})\)"
)
_STATUSES: Final = {
    name: code for name, code in vars(Status).items() if name.isupper() and isinstance(code, int)
}


def is_line(text: str) -> bool:
    """Whether a line is one of the kernel's about a SCSI device."""
    return _TRACED.search(text) is not None or any(
        form.match(split_stamp(text)[1]) for form in (_DEVICE, _BLOCK)
    )


_CONFLICT_BYTE: Final = "DID_NEXUS_FAILURE"
"""The host byte that kernels before 5.18 make of RESERVATION CONFLICT."""
_SECTORS_PER_BLOCK: Final = 8


_Tagged: TypeAlias = tuple[str, str, str]
"""Host, nexus and tag."""


@dataclass(slots=True)
class _Open:
    """A command, or a line that stands alone."""

    seen: Seen
    sent: bool = False
    """Whether "Send:" began it, and not "Result:"."""
    shared: bool = False
    """Whether another command with this tag was open beside it: no further line is its own."""
    repeated: bool = False
    """Whether it is there a second time, with its end."""


def read(lines: list[str]) -> Iterator[Seen]:
    """What the lines say, in the order of the first line of each command."""
    log = _Log()
    for number, line in enumerate(lines, 1):
        stamp, text = split_stamp(line)
        if (traced := _TRACED.search(line)) is not None:
            log.trace(_traced(number, traced, _TRACED_PLACE.search(line)), traced["tags"] or "")
        elif (block := _BLOCK.match(text)) is not None:
            log.found.append(_Open(_blocked(number, stamp, block)))
        elif (device := _DEVICE.match(text)) is not None:
            log.add(number, stamp, device)
        elif _HOLE.search(text):
            log.open.clear()
        elif (started := _STARTED.match(text)) is not None:
            log.open.clear()
            facts = (("started", "the machine: disks may have other addresses than before"),)
            told = Seen(source=SOURCE, line=number, stamp=stamp, host=_host(started), facts=facts)
            log.found.append(_Open(replace(told, started=True)))
    seen = _perhaps([each.seen for each in log.found if not each.repeated])
    yield from _with_command(list(seen))


class _Log:
    """The lines of SCSI devices so far."""

    def __init__(self) -> None:
        self.found: list[_Open] = []
        self.open: dict[_Tagged, list[_Open]] = {}
        """The commands whose CDB was not there yet."""
        self._sent: dict[_Tagged, list[_Open]] = {}
        """The commands whose sending was logged, and not their end."""
        self._begun: dict[tuple[str, str, bytes], deque[_Open]] = {}
        """The commands of which a tracepoint told the start, and none the end."""

    def add(self, number: int, stamp: Stamp | None, line: re.Match[str]) -> None:
        """Take one line."""
        words, tag = line["words"].strip(), line["tag"] or ""
        seen = Seen(
            source=SOURCE,
            line=number,
            stamp=stamp,
            host=_host(line),
            nexus=line["nexus"],
            device=line["device"] or "",
        )
        place = seen.host, seen.nexus, tag
        if words.lower() == "reservation conflict":
            self.found.append(_Open(replace(seen, status=Status.RESERVATION_CONFLICT)))
            return
        if words == "Attached SCSI disk":
            facts = (("attached", "a disk, which may be another one than had this name before"),)
            self.found.append(_Open(replace(seen, attached=True, facts=facts)))
            return
        news = next((news for said, news in _NEWS.items() if words.startswith(said)), None)
        if news is not None:
            self.found.append(_Open(replace(seen, triple=news, status=Status.CHECK_CONDITION)))
            return
        if _SENT.match(words):
            self._begin(place, _Open(seen, sent=True))
            return
        cdb, result = _CDB.fullmatch(words), _RESULT.match(words)
        key, code = sense_key(words), additional_sense(words)
        if result is not None:
            host_byte = "" if result["host"] == "DID_OK" else result["host"]
            self._begin(place, _Open(replace(seen, host_byte=host_byte)))
        elif cdb is not None:
            self._end(place, replace(seen, cdb=bytes.fromhex(cdb["bytes"])))
        elif key is not None or code is not None:
            self._sense(place, seen, key, code)

    def trace(self, seen: Seen, tags: str) -> None:
        """Take a tracepoint's line.  tags: of the command, "" before 6.8."""
        begun = self._begun.setdefault((seen.nexus, tags, seen.cdb), deque())
        new = _Open(seen)
        if seen.under_way:
            begun.append(new)
        elif seen.nexus and begun:
            start = begun.popleft()
            start.repeated = True
            new.seen = replace(seen, more=(start.seen.line,))
        self.found.append(new)

    def _begin(self, place: _Tagged, new: _Open) -> None:
        beside = self.open.setdefault(place, [])
        beside.append(new)
        for each in beside:
            each.shared = each.shared or len(beside) > 1
        self.found.append(new)

    def _end(self, place: _Tagged, seen: Seen) -> None:
        """The CDB, which is the last line of a command."""
        now = self._one(place, seen)
        if now is None:
            self.found.append(_Open(seen))
            if self.open.get(place):
                self.open[place].pop()  # one of them is over, and none gets a further line
            return
        self.open[place].clear()
        more = (*now.seen.more, seen.line)
        device = now.seen.device or seen.device
        now.seen = replace(now.seen, cdb=seen.cdb, device=device, more=more)
        sendings = self._sent.setdefault(place, [])
        if now.sent:
            sendings.append(now)
            return
        for at, each in enumerate(sendings):
            if each.seen.cdb == seen.cdb:
                # With scsi_logging_level a command is there twice.
                each.repeated = True
                now.seen = replace(now.seen, more=(*more, each.seen.line, *each.seen.more))
                del sendings[at]
                return

    def _sense(
        self, place: _Tagged, seen: Seen, key: int | None, code: tuple[int, int] | None
    ) -> None:
        now = self._one(place, seen)
        if now is None:
            if key is None:
                return  # an additional sense code says nothing without its sense key
            now = _Open(seen)
            self.found.append(now)
            if not self.open.get(place):
                self.open[place] = [now]
        else:
            now.seen = replace(now.seen, more=(*now.seen.more, seen.line))
        if key is not None:
            triple = SenseTriple(key)
            now.seen = replace(now.seen, triple=triple, status=Status.CHECK_CONDITION)
        elif now.seen.triple is not None and code is not None:
            now.seen = replace(now.seen, triple=SenseTriple(now.seen.triple.key, *code))

    def _one(self, place: _Tagged, seen: Seen) -> _Open | None:
        """The one command that a line of this tag can belong to."""
        beside = self.open.get(place, [])
        if len(beside) != 1 or beside[0].shared:
            return None
        return beside[0] if _together(beside[0].seen.stamp, seen.stamp) else None


def _perhaps(found: list[Seen]) -> Iterator[Seen]:
    """Each of found, those that may speak of the conflict of another line with that line.

    The kernel prints "reservation conflict" for each command that was answered so, before it
    prints anything else of it.  A block layer's line is therefore the conflict of one of the
    nexus's lines before it, where the log has these; a command whose end has no sense may be.
    """
    nexuses = _nexuses(found)
    told: dict[tuple[str, str], deque[Seen]] = {}
    newest: dict[tuple[str, str], Seen] = {}
    for seen in found:
        if seen.source != SOURCE:
            yield seen
            continue
        place = seen.host, seen.nexus or nexuses.get((seen.host, seen.device), "")
        if seen.status == Status.RESERVATION_CONFLICT and seen.nexus:
            told.setdefault(place, deque()).append(seen)
            newest[place] = seen
            yield seen
            continue
        before = None
        if seen.status == Status.RESERVATION_CONFLICT:
            waiting = told.get(place, deque())
            while waiting and before is None:
                before = _before(waiting.popleft(), seen)
        elif seen.status is None and seen.host_byte in ("", _CONFLICT_BYTE):
            before = _before(newest.get(place), seen)
        yield seen if before is None else replace(seen, perhaps=before.line)


def _with_command(found: list[Seen]) -> list[Seen]:
    """found, each conflict with the CDB of the command that the block layer's line names."""
    places = {seen.line: place for place, seen in enumerate(found)}
    failed: dict[tuple[str, str], list[Seen]] = {}
    """By host and disk: the commands that failed and may have met a conflict."""
    for seen in list(found):
        if seen.source == SOURCE and seen.cdb:
            if seen.status is None and seen.host_byte in ("", _CONFLICT_BYTE):
                failed.setdefault((seen.host, seen.device), []).append(seen)
        elif seen.source == SOURCE and seen.perhaps:
            above = failed.get((seen.host, seen.device), [])
            fitting = [each for each in above if _is_at(each, seen)]
            if len({each.cdb for each in fitting}) == 1:
                place, command = places[seen.perhaps], fitting[-1]
                lines = (*found[place].more, command.line, seen.line)
                found[place] = replace(found[place], cdb=command.cdb, more=lines)
    return found


def _is_at(command: Seen, line: Seen) -> bool:
    """Whether a command of the line's moment asked for what the block layer's line names.

    The line has a sector of 512 bytes; a disk's blocks have as many, or 4096.
    """
    facts = dict(line.facts)
    if "operation" not in facts or not _together(command.stamp, line.stamp):
        return False
    asked, sector = medium_command(command.cdb), int(facts["sector"])
    blocks = (sector,) if sector % _SECTORS_PER_BLOCK else (sector, sector // _SECTORS_PER_BLOCK)
    return asked.lba in blocks and facts["operation"].endswith(f"({asked.access.name})")


def _nexuses(found: Iterable[Seen]) -> dict[tuple[str, str], str]:
    """The nexus of each host's disk that has one only in these lines."""
    known: dict[tuple[str, str], set[str]] = {}
    for seen in found:
        if seen.device and seen.nexus:
            known.setdefault((seen.host, seen.device), set()).add(seen.nexus)
    return {place: each.pop() for place, each in known.items() if len(each) == 1}


def _before(one: Seen | None, other: Seen) -> Seen | None:
    """one, if it is there and of other's moment."""
    return one if one is not None and _together(one.stamp, other.stamp) else None


def _together(one: Stamp | None, other: Stamp | None) -> bool:
    """Whether two lines can be of one moment."""
    if one is None or other is None:
        return one is other
    if one.since_boot_ns is not None and other.since_boot_ns is not None:
        return 0 <= other.since_boot_ns - one.since_boot_ns <= MOMENT_NS
    if (
        one.local is None
        or other.local is None
        or (one.local.tzinfo is None) != (other.local.tzinfo is None)
    ):
        return False
    apart = (
        int((other.local - one.local).total_seconds()) * SECOND_NS + other.part_ns - one.part_ns
    )
    # A log of whole seconds puts lines of one moment a second apart.
    return 0 <= apart <= (MOMENT_NS if one.part_ns or other.part_ns else SECOND_NS)


def _host(line: re.Match[str]) -> str:
    """The host as the log names it, "" where it does not."""
    return (line["host"] or "").strip()


def _blocked(number: int, stamp: Stamp | None, line: re.Match[str]) -> Seen:
    """The block layer's line: a disk, a sector, and the conflict."""
    facts = (("sector", line["sector"]),) + ((("operation", line["op"]),) if line["op"] else ())
    return Seen(
        source=SOURCE,
        line=number,
        stamp=stamp,
        host=_host(line),
        device=line["device"],
        status=Status.RESERVATION_CONFLICT,
        facts=facts,
    )


def _traced(number: int, line: re.Match[str], place: re.Match[str] | None) -> Seen:
    """A command by a tracepoint; place is what stands in front, which a copied part may lack."""
    seen = Seen(source=TRACE, line=number, cdb=bytes.fromhex(line["bytes"]))
    event = "done"
    if place is not None:
        event = place["event"]
        names = ("host", "channel", "id", "lun")
        seen = replace(
            seen,
            nexus=":".join(place[name] for name in names),
            timed_out=event == "timeout",
            under_way=event == "start",
        )
        if place["seconds"]:
            since = int(place["seconds"]) * 1_000_000_000 + int(place["part"]) * 1000
            seen = replace(seen, stamp=Stamp(since_boot_ns=since))
    result = _TRACED_RESULT.search(line["rest"])
    if result is not None and event == "done":
        host = "" if result["host"] == "DID_OK" else result["host"]
        seen = replace(seen, host_byte=host, status=_STATUSES.get(result["status"]))
    sense = _TRACED_SENSE.search(line["rest"])
    if sense is not None and seen.status == Status.CHECK_CONDITION:
        numbers = (int(sense[name], 0) for name in ("key", "asc", "ascq"))
        seen = replace(seen, triple=SenseTriple(*numbers))
    return seen
