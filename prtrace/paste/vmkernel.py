"""Lines of ESXi's vmkernel log: "Cmd(0x…) 0x5f … to dev "naa.…" failed H:0x0 D:0x18 P:0x0 …".

The log has the operation code alone, and the statuses: H of the host (ESXi's own numbers), D of
the device (SAM), P of the plug-in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from prtrace.paste.seen import Seen, SenseTriple
from prtrace.paste.stamp import split_stamp
from prtrace.scsi.codes import Status

SOURCE: Final = "ESXi"

_STATUSES: Final = re.compile(
    r"\bH:0x(?P<host>[0-9a-f]{1,2}) D:0x(?P<status>[0-9a-f]{1,2}) P:0x(?P<plugin>[0-9a-f]{1,2})"
    r"(?:\.?\s*(?P<valid>Valid|Possible) sense data: 0x(?P<key>[0-9a-f]{1,2}) "
    r"0x(?P<asc>[0-9a-f]{1,2}) 0x(?P<ascq>[0-9a-f]{1,2}))?",
    re.IGNORECASE,
)
_COMMAND: Final = re.compile(
    r"(?:\bCmd\(0x[0-9a-f]+\)|\bCommand) (?P<opcode>0x[0-9a-f]{1,2})\b", re.IGNORECASE
)
_DEVICE: Final = re.compile(r"\b(?:dev|device) [\"'„“”](?P<device>[^\"'„“”]+)[\"'„“”]")


def is_line(text: str) -> bool:
    """Whether a line has ESXi's three statuses."""
    return _STATUSES.search(text) is not None


def read(lines: list[str]) -> Iterator[Seen]:
    """The command of each line that has the three statuses."""
    for number, line in enumerate(lines, 1):
        found = _STATUSES.search(line)
        if found is None:
            continue
        stamp, text = split_stamp(line)
        command, device = _COMMAND.search(text), _DEVICE.search(text)
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
        yield Seen(
            source=SOURCE,
            line=number,
            stamp=stamp,
            lu=device["device"] if device is not None else "",
            opcode=int(command["opcode"], 16) if command is not None else None,
            status=None if host else status,
            host_byte=f"{host:#x}" if host else "",
            triple=triple,
            facts=facts,
        )
