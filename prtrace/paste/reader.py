"""From a pasted text to what it says: finds whose words they are, or refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from prtrace.errors import MalformedError
from prtrace.paste import iscsi, kernel, lio, multipath, qemu, sg_utils, tshark, vmkernel
from prtrace.paste.hexdump import Run, parse_runs
from prtrace.paste.joined import joined
from prtrace.paste.seen import Seen, SenseTriple
from prtrace.paste.sense_words import additional_sense, sense_in, sense_key, sense_triple
from prtrace.scsi.sense import CODES

_LONGEST: Final = 8192
"""Characters of a line of a log that are looked at."""
_TRIPLE_SIZE: Final = 3
_SENSE_KEY_MAX: Final = 0xF
_DEVICE_STATUS: Final = re.compile(r"D:0x(?P<status>[0-9a-f]{1,2})", re.IGNORECASE)
_LOGS: Final = (kernel, vmkernel, qemu, multipath)
"""Rooms whose lines each say of themselves whose they are."""
_KNOWN: Final = (
    "what is read: hex of any form, sg_persist and sg_raw, the Linux kernel's log and SCSI "
    "tracepoints, ESXi's vmkernel log, QEMU's trace events, sense of libiscsi and LTFS, LIO's "
    "configfs and aptpl files, multipathd's reservation_key"
)


def read_text(text: str) -> bytes | tuple[Seen, ...]:
    """The bytes that a text spells, or what its lines say, in their order.

    MalformedError where it is neither.
    """
    if (triple := sense_triple(text)) is not None:
        return (Seen(source="", line=1, triple=triple),)
    if (status := _DEVICE_STATUS.fullmatch(text.strip())) is not None:
        return (Seen(source=vmkernel.SOURCE, line=1, status=int(status["status"], 16)),)
    lines = [line[:_LONGEST] for line in text.splitlines()]
    if number := tshark.tree(lines):
        raise MalformedError(
            "tshark -V", f"line {number}: a tree of fields is not read", hint=tshark.HINT
        )
    columns = [tshark.is_columns(line) for line in lines]
    if any(columns):
        return _captured(
            ["" if left_out else line for line, left_out in zip(lines, columns, strict=True)]
        )
    found = sorted(_said(lines), key=lambda each: each.line)
    if found:
        return tuple(found)
    try:
        runs = parse_runs(text)
    except MalformedError as error:
        if len(lines) <= 1 and error.hint:
            raise
        raise MalformedError(error.what, error.problem, hint=error.hint or _KNOWN) from error
    if any(iscsi.is_frame(run.raw) for run in runs):
        return tuple(sorted(iscsi.read(runs), key=lambda each: each.line))
    if len(runs) > 1:
        return tuple(joined(_dumped(run) for run in runs))
    raw = runs[0].raw
    if runs[0].by_sg_utils:
        return (_dumped(runs[0]),)
    if len(raw) == _TRIPLE_SIZE and raw[0] <= _SENSE_KEY_MAX and tuple(raw[1:]) in CODES:
        return (Seen(source="", line=1, triple=SenseTriple(*raw)),)
    return raw


def _dumped(run: Run) -> Seen:
    header = None if run.by_sg_utils else True
    return Seen(source="", line=run.line, raw=run.raw, header=header)


def _captured(lines: list[str]) -> tuple[Seen, ...]:
    """What the frames below tshark's columns say."""
    if not any(line.strip() for line in lines):
        raise MalformedError(
            "tshark",
            "its columns have neither service action nor keys",
            hint=tshark.HINT,
        )
    runs = parse_runs("\n".join(lines))
    if not any(iscsi.is_frame(run.raw) for run in runs):
        raise MalformedError("tshark", "no frame has whole iSCSI PDUs", hint=tshark.HINT)
    return tuple(sorted(iscsi.read(runs), key=lambda each: each.line))


def _said(lines: list[str]) -> Iterator[Seen]:
    """What the lines say; those of a log inside a transcript of sg_persist are no part of it."""
    if not sg_utils.is_transcript(_different(lines)):
        yield from _lines(lines)
        return
    logged = {line for line in _different(lines) if any(room.is_line(line) for room in _LOGS)}
    if logged:
        yield from _lines([line if line in logged else "" for line in lines])
    yield from sg_utils.read(["" if line in logged else line for line in lines])


def _different(lines: list[str]) -> set[str]:
    """The lines without blank ones and repeats: what has to be looked at to recognise them."""
    return {line for line in lines if line.strip()}


def _lines(lines: list[str]) -> Iterator[Seen]:
    different = _different(lines)
    for room in (*_LOGS, lio):
        if any(room.is_line(line) for line in different):
            yield from room.read(lines)
    worded: Seen | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        before, worded = worded, None
        if before is not None and before.triple and (code := additional_sense(line)) is not None:
            yield replace(before, triple=SenseTriple(before.triple.key, *code))
            continue
        if before is not None:
            yield before  # what stands further below is somebody else's
        if (triple := sense_in(line)) is not None:
            yield Seen(source="", line=number, triple=triple)
        elif not kernel.is_line(line) and (key := sense_key(line)) is not None:
            worded = Seen(source="", line=number, triple=SenseTriple(key))
    if worded is not None:
        yield worded
