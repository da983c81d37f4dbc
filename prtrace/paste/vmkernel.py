"""Lines of ESXi's vmkernel log: "Cmd(0x…) 0x5f … to dev "naa.…" failed H:0x0 D:0x18 P:0x0 …".

The log has the operation code alone, and the statuses: H of the host (ESXi's own numbers), D of
the device (SAM), P of the plug-in.  ScsiDeviceIO and the multipathing plug-in (NMP) both log a
command that failed; the address in parentheses, which is the command's in memory, is the same.
From 7.0 on the plug-in breaks its line before the statuses.

Source: knowledge.broadcom.com 338435, 430813 and 435349 (lines as ESXi 4 to 8 print them).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from prtrace.paste.seen import Seen, SenseTriple
from prtrace.paste.stamp import MOMENT_NS, SECOND_NS, Stamp, split_stamp
from prtrace.scsi.codes import Status

SOURCE: Final = "ESXi"
"""Between the two lines of one command, at most."""

_STATUSES: Final = re.compile(
    r"\bH:0x(?P<host>[0-9a-f]{1,2}) D:0x(?P<status>[0-9a-f]{1,2}) P:0x(?P<plugin>[0-9a-f]{1,2})"
    r"(?:\.?\s*(?P<valid>Valid|Possible) sense data: 0x(?P<key>0?[0-9a-f]) "
    r"0x(?P<asc>[0-9a-f]{1,2}) 0x(?P<ascq>[0-9a-f]{1,2}))?",
    re.IGNORECASE,
)
_COMMAND: Final = re.compile(
    r"\b(?:Cmd\((?P<first>0x[0-9a-f]+)\) (?P<second>0x[0-9a-f]{1,2})\b|"
    r"(?:Cmd|Command) (?P<third>0x[0-9a-f]{1,2})\b(?: \((?P<fourth>0x[0-9a-f]+)[,)])?)",
    re.IGNORECASE,
)
"""The operation code (second, third), and the command's address in memory (first, fourth)."""
_DEVICE: Final = re.compile(r"\b(?:dev|device) [\"'„“”](?P<device>[^\"'„“”]+)[\"'„“”]")
_PATH: Final = re.compile(r"\bpath [\"'„“”](?P<path>[^\"'„“”]+)[\"'„“”]")
_BROKEN: Final = re.compile(r"\bFailed:\s*$")
"""How a line ends whose statuses stand in the next one."""


def is_line(text: str) -> bool:
    """Whether a line has ESXi's three statuses."""
    return _STATUSES.search(text) is not None


def read(lines: list[str]) -> Iterator[Seen]:
    """The command of each line that has the three statuses."""
    before, broken = "", 0
    told: dict[tuple[str, int, str], Seen] = {}
    """By the command's address, its operation code and its device: the newest that was read."""
    for number, line in enumerate(lines, 1):
        statuses = _STATUSES.search(line)
        if statuses is None:
            before, broken = (line if _BROKEN.search(line) else ""), number
            continue
        stamp, text = split_stamp(line)
        joined = bool(before) and _COMMAND.search(text) is None
        if joined:
            text = f"{split_stamp(before)[1]} {text}"
        before = ""
        seen = _command(number, stamp, text, statuses)
        seen = replace(seen, more=(broken,)) if joined else seen
        address = _address(text)
        if address and seen.opcode is not None:
            key = address, seen.opcode, seen.lu
            first = told.setdefault(key, seen)
            if first is not seen and _together(first.stamp, stamp):
                seen = replace(seen, perhaps=first.line)
            else:
                told[key] = seen
        yield seen


def _address(text: str) -> str:
    """The address of the command in memory, "" where the line has none."""
    command = _COMMAND.search(text)
    return "" if command is None else command["first"] or command["fourth"] or ""


def _together(one: Stamp | None, other: Stamp | None) -> bool:
    """Whether two lines that name the same memory are of one command, and not of a later one."""
    if one is None or other is None or one.local is None or other.local is None:
        return one == other
    if (one.local.tzinfo is None) != (other.local.tzinfo is None):
        return False
    apart = (other.local - one.local).total_seconds() * SECOND_NS + other.part_ns - one.part_ns
    return 0 <= apart <= MOMENT_NS


def _command(number: int, stamp: Stamp | None, text: str, found: re.Match[str]) -> Seen:
    command, device, path = _COMMAND.search(text), _DEVICE.search(text), _PATH.search(text)
    status = int(found["status"], 16)
    triple = None
    if found["key"] and status == Status.CHECK_CONDITION and found["valid"].lower() == "valid":
        triple = SenseTriple(*(int(found[name], 16) for name in ("key", "asc", "ascq")))
    host = int(found["host"], 16)
    plugin = int(found["plugin"], 16)
    facts = tuple(
        (name, f"{value:#x}")
        for name, value in (("host status", host), ("plug-in status", plugin))
        if value
    )
    if path is not None:
        facts = (("path", path["path"]), *facts)
    opcode = None if command is None else command["second"] or command["third"]
    return Seen(
        source=SOURCE,
        line=number,
        stamp=stamp,
        lu=device["device"] if device is not None else "",
        opcode=None if opcode is None else int(opcode, 16),
        status=None if host else status,
        host_byte=f"{host:#x}" if host else "",
        triple=triple,
        facts=facts,
    )
