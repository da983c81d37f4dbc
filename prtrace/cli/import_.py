"""prtrace import."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import click

from prtrace.cli.decode import read_file
from prtrace.cli.text import line, plain, warn
from prtrace.errors import InDoubtError, UsageError
from prtrace.explain.recording import Recording
from prtrace.paste.reader import read_text
from prtrace.paste.recorded import Import, of_one_year
from prtrace.paste.seen import Seen
from prtrace.paste.stamp import Clock, parse_zone

_NANOSECONDS: Final = 1_000_000_000
_DESIGNATOR: Final = re.compile(
    r"(?:naa\.(?:[0-9a-f]{16}|[0-9a-f]{32})|eui\.(?:[0-9a-f]{16}|[0-9a-f]{24}|[0-9a-f]{32})|"
    r"(?:uuid|t10|name|hctl)\..+)"
)
"""What prtrace names a unit by (SPC-5 7.7.6)."""
_SPEAKS: Final = re.compile(r"(?<![a-z])reserv(?:ation|e)(?![a-z])", re.IGNORECASE)
_SHOWN: Final = 10
"""Refused lines that are printed; the rest is counted."""


@click.command(
    "import",
    epilog="""\b
Exit status 4: lines about reservations were left out, and named.
\b
Examples:
  prtrace import kernel.log -o kernel.jsonl   (journalctl -k -o short-iso)
  prtrace explain 2:0:1:0 kernel.jsonl
  prtrace import dmesg.txt --boot 2026-11-27T18:00:00Z -o events.jsonl
  prtrace import vmkernel.log messages --year 2026 --zone +01:00 -o all.jsonl
  prtrace import kernel.log --unit sdb=naa.6001405... -o events.jsonl
""",
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option(
    "-o", "--output", metavar="RECORDING", required=True, type=click.Path(path_type=Path),
    help="the file to write; it must not exist",
)  # fmt: skip
@click.option("--boot", metavar="TIME", help="when the machine started, for times since then")
@click.option("--year", type=click.IntRange(1990, 2100), help="for times without a year")
@click.option("--zone", metavar="ZONE", help="for times without a zone: +01:00, Europe/Berlin")
@click.option(
    "--unit", "units", metavar="NAME=DESIGNATOR", multiple=True,
    help="the logical unit behind a disk (sdb) or an H:C:T:L",
)  # fmt: skip
def command(
    files: tuple[str, ...],
    *,
    output: Path,
    boot: str | None,
    year: int | None,
    zone: str | None,
    units: tuple[str, ...],
) -> int:
    """Turn other programs' log lines into recorded events.

    Lines that carry a time, a device and a command or its outcome become
    events, in a recording of the host that the log names: explain, events,
    report and replay take it.  What a line does not tell stays absent.  The
    lines are the kernel's log, its SCSI tracepoints, and ESXi's vmkernel log.
    """
    clock = Clock(_boot(boot), year, None if zone is None else parse_zone(zone))
    named = dict(_unit(each) for each in units)
    found = Import()
    unread: list[str] = []
    above: tuple[Seen, ...] = ()
    for name in files:
        content = read_file(name)
        read = content if isinstance(content, bytes) else read_text(content)
        if isinstance(read, bytes):
            raise UsageError(
                f"{plain(name)} holds bytes, not lines of a log", hint="prtrace decode takes bytes"
            )
        try:
            of_one_year((*above, *read))
        except UsageError as error:
            raise UsageError(f"{plain(name)}: {error.message}", hint=error.hint) from error
        above = read
        found.add(read, clock, named)
        unread += (f"{plain(name)}: {text}" for text in _not_read(content, read))
    for seen, reason in found.refused[:_SHOWN]:
        source = f", {seen.source}" if seen.source else ""
        warn(f"prtrace: line {seen.line}{source}: {reason}")
    if len(found.refused) > _SHOWN:
        reasons = Counter(reason for _, reason in found.refused[_SHOWN:])
        for reason, count in reasons.most_common():
            warn(f"prtrace: {count} more: {reason}")
    for text in unread[:_SHOWN]:
        warn(f"prtrace: {text}")
    if len(unread) > _SHOWN:
        warn(f"prtrace: {len(unread) - _SHOWN} more lines speak of reservations and were not read")
    events = found.numbered()
    if not events:
        raise UsageError(
            "no line has a time, a device and a command or its outcome",
            hint="prtrace decode says what such lines mean, without a time and a device",
        )
    recording = Recording(found.host, tuple(events))
    _write(output, "".join(f"{text}\n" for text in recording.lines()))
    left_out = len(found.refused) + len(unread)
    line(f"{len(events)} events in {plain(str(output))}, {left_out} lines left out")
    if found.silent:
        line(f"{found.silent} commands are no events: nothing about reservations is told of them")
    if found.again:
        line(f"{found.again} events are in a file before, too, and are counted once")
    if found.repeated:
        line(f"{found.repeated} lines told of a conflict that a line before had told of")
    return InDoubtError.exit_code if left_out else 0


def _not_read(content: str | bytes, read: Iterable[Seen]) -> Iterator[str]:
    """The lines that speak of reservations, and that nothing was read from."""
    if isinstance(content, bytes):
        return
    known = {line for seen in read for line in (seen.line, *seen.more)}
    for number, text in enumerate(content.splitlines(), 1):
        if number not in known and _SPEAKS.search(text):
            yield f"line {number} speaks of reservations and was not read: {plain(text[:100])}"


def _write(path: Path, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise UsageError(f"{plain(str(path))} exists", hint="name another file") from None
    except OSError as error:
        raise UsageError(f"{plain(str(path))}: {os.strerror(error.errno or 0)}") from error


def _boot(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise UsageError(f"--boot {text!r} is no time with a zone", hint="2026-11-27T18:00:00Z")
    return int(moment.timestamp() * 1000) * (_NANOSECONDS // 1000)


def _unit(text: str) -> tuple[str, str]:
    name, equals, designator = text.partition("=")
    if not (name and equals and designator):
        raise UsageError(
            f"--unit {text!r} is no NAME=DESIGNATOR", hint="--unit sdb=naa.6001405..."
        )
    if _DESIGNATOR.fullmatch(designator) is None:
        raise UsageError(
            f"--unit {text!r}: {designator!r} is no whole designator",
            hint="as prtrace show and /dev/disk/by-id have it: naa. and 16 or 32 hex digits, "
            "eui. and 16, 24 or 32, uuid., t10. or name.",
        )
    return name, designator
