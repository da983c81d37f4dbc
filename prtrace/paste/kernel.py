"""Lines of the Linux kernel's log, and of its SCSI tracepoints.

drivers/scsi/scsi_logging.c and scsi_error.c print "sd H:C:T:L: [sdX] tag#N …", block/blk-core.c
prints "reservation conflict error, dev sdX, sector N …" ("critical nexus error" before 6.5),
include/trace/events/scsi.h defines the tracepoints.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from prtrace.paste.seen import Seen, SenseTriple
from prtrace.paste.sense_words import additional_sense, sense_key
from prtrace.paste.stamp import Stamp, split_stamp
from prtrace.scsi.codes import Status

SOURCE: Final = "Linux kernel"
TRACE: Final = "Linux tracepoint"

_DEVICE: Final = re.compile(
    r"(?:.*?\bkernel: )?(?:\[\s*\d+\.\d+\] )?(?:sd|sr|st|ch|ses|scsi) "
    r"(?P<nexus>\d+:\d+:\d+:\d+):(?: \[(?P<device>[a-z]+\d*)\])?"
    r"(?: tag#(?P<tag>\d+))? (?P<words>.+)"
)
_BLOCK: Final = re.compile(
    r"(?:.*\bkernel: )?(?:\[\s*\d+\.\d+\] )?(?:blk_update_request: )?"
    r"(?:critical nexus error|reservation conflict error), dev (?P<device>\w+), "
    r"sector (?P<sector>\d+)(?: op (?P<op>0x[0-9a-f]+:\(\w+\)))?.*"
)
_CDB: Final = re.compile(r"CDB: .*?(?P<bytes>\b[0-9a-f]{2}(?: [0-9a-f]{2})*)\s*")
"""A name, which may end in a service action's, and the bytes, up to the end of the line."""
_SENT: Final = re.compile(r"Send: scmd\b")
"""With scsi_logging_level: the command goes out; its CDB follows, and again at its end."""
_RESULT: Final = re.compile(r".*\bResult: hostbyte=(?P<host>\w+)")
_TRACED: Final = re.compile(
    r"cmnd=\((?P<name>\w+).*? raw=(?P<bytes>[0-9a-f]{2}(?: [0-9a-f]{2})*)\)(?P<rest>.*)"
)
_TRACED_PLACE: Final = re.compile(
    r"(?:(?P<seconds>\d+)\.(?P<part>\d{6}): )?"
    r"scsi_dispatch_cmd_(?P<event>start|done|timeout|error): "
    r"host_no=(?P<host>\d+) channel=(?P<channel>\d+) id=(?P<id>\d+) lun=(?P<lun>\d+) "
)
_TRACED_RESULT: Final = re.compile(r"host=(?P<host>\w+).*?status=(?:SAM_STAT_)?(?P<status>\w+)")
_TRACED_SENSE: Final = re.compile(
    r"sense=\(key=(?P<key>\w+) asc=(?P<asc>\w+) ascq=(?P<ascq>\w+)\)"
)
_STATUSES: Final = {
    name: code for name, code in vars(Status).items() if name.isupper() and isinstance(code, int)
}


def is_line(text: str) -> bool:
    """Whether a line is one of the kernel's about a SCSI device."""
    return _TRACED.search(text) is not None or any(
        form.match(split_stamp(text)[1]) for form in (_DEVICE, _BLOCK)
    )


_MOMENT_NS: Final = 100_000_000
"""Between lines of one command, at most."""


@dataclass(slots=True)
class _Open:
    """A command whose lines may not be over."""

    seen: Seen
    tag: str = ""
    sent: bool = False
    """Whether all that was there is that it was sent."""
    resulted: bool = False
    """Whether its "Result:" line was there, which the lines of CDB and sense follow."""
    blocked: bool = False
    """Whether the block layer's line was there."""


def read(lines: list[str]) -> Iterator[Seen]:
    """Each command that the lines speak of, in the order of the first line of each.

    The kernel prints "reservation conflict" without a tag, at once the "Result:" with the tag of
    the command, and then sense and CDB with the same tag.  What does not follow in this way is a
    command of its own.
    """
    found: list[_Open] = []
    for number, line in enumerate(lines, 1):
        stamp, text = split_stamp(line)
        if (traced := _TRACED.search(line)) is not None:
            place = _TRACED_PLACE.search(line)
            if place is None or place["event"] != "start":
                found.append(_Open(_traced(number, traced, place)))
        elif (block := _BLOCK.match(text)) is not None:
            _blocked(found, number, stamp, block)
        elif (device := _DEVICE.match(text)) is not None:
            _of_device(found, number, stamp, device)
    for each in found:
        yield each.seen


def _of_device(found: list[_Open], number: int, stamp: Stamp | None, line: re.Match[str]) -> None:
    words, nexus, tag = line["words"].strip(), line["nexus"], line["tag"] or ""
    if words.lower() == "reservation conflict":
        found.append(
            _Open(
                Seen(
                    source=SOURCE,
                    line=number,
                    stamp=stamp,
                    nexus=nexus,
                    device=line["device"] or "",
                    status=Status.RESERVATION_CONFLICT,
                )
            )
        )
        return
    if _SENT.match(words):
        sent = Seen(source=SOURCE, line=number, stamp=stamp, nexus=nexus)
        found.append(_Open(sent, tag, sent=True))
        return
    cdb, result = _CDB.fullmatch(words), _RESULT.match(words)
    key, code = sense_key(words), additional_sense(words)
    if cdb is None and result is None and key is None and code is None:
        return
    if result is not None:
        found[:] = [
            each
            for each in found
            if not (each.sent and each.seen.nexus == nexus and each.tag == tag)
        ]
        now = _conflicting(found, nexus, stamp)
    else:
        now = _resulted(found, nexus, tag, again=cdb is not None)
    if now is None:
        now = _Open(Seen(source=SOURCE, line=number, stamp=stamp, nexus=nexus))
        found.append(now)
    now.tag = tag
    now.resulted = now.resulted or result is not None
    seen = now.seen
    if line["device"]:
        seen = replace(seen, device=line["device"])
    if cdb is not None:
        seen = replace(seen, cdb=bytes.fromhex(cdb["bytes"]))
    if result is not None and result["host"] != "DID_OK":
        seen = replace(seen, host_byte=result["host"])
    if key is not None:
        seen = replace(seen, triple=SenseTriple(key), status=Status.CHECK_CONDITION)
    if code is not None and seen.triple is not None:
        seen = replace(seen, triple=SenseTriple(seen.triple.key, *code))
    now.seen = seen


def _conflicting(found: list[_Open], nexus: str, stamp: Stamp | None) -> _Open | None:
    """The command whose "reservation conflict" is the nexus's last line, just before stamp."""
    each = _last(found, nexus)
    if each is None or each.resulted or each.blocked or each.seen.cdb or each.tag:
        return None
    return each if _together(each.seen.stamp, stamp) else None


def _resulted(found: list[_Open], nexus: str, tag: str, *, again: bool) -> _Open | None:
    """The command with this tag whose "Result:" or "Send:" was there.

    again: not if its CDB was there, too.
    """
    each = _last(found, nexus)
    if each is None or not (each.resulted or each.sent) or each.blocked or each.tag != tag:
        return None
    return None if again and each.seen.cdb else each


def _last(found: list[_Open], nexus: str) -> _Open | None:
    return next(
        (
            each
            for each in reversed(found)
            if each.seen.nexus == nexus and each.seen.source == SOURCE
        ),
        None,
    )


def _together(one: Stamp | None, other: Stamp | None) -> bool:
    """Whether two lines can be of one moment."""
    if one is None or other is None:
        return one is other
    if one.since_boot_ns is not None and other.since_boot_ns is not None:
        return 0 <= other.since_boot_ns - one.since_boot_ns <= _MOMENT_NS
    if (
        one.local is None
        or other.local is None
        or (one.local.tzinfo is None) != (other.local.tzinfo is None)
    ):
        return False
    return 0 <= (other.local - one.local).total_seconds() <= 1


def _blocked(found: list[_Open], number: int, stamp: Stamp | None, line: re.Match[str]) -> None:
    """The block layer's line: it ends the last command of that disk, or stands alone."""
    facts = (("sector", line["sector"]),) + ((("operation", line["op"]),) if line["op"] else ())
    for each in reversed(found):
        if each.seen.device == line["device"]:
            if each.blocked or each.seen.status != Status.RESERVATION_CONFLICT:
                break
            if not _together(each.seen.stamp, stamp):
                break
            each.blocked = True
            each.seen = replace(each.seen, status=Status.RESERVATION_CONFLICT, facts=facts)
            return
    found.append(
        _Open(
            Seen(
                source=SOURCE,
                line=number,
                stamp=stamp,
                device=line["device"],
                status=Status.RESERVATION_CONFLICT,
                facts=facts,
            ),
            blocked=True,
        )
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
