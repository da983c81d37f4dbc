"""QEMU's trace events about SCSI (hw/scsi/trace-events), as its log prints them.

They name QEMU's own target and LUN, never the host's device: they can be decoded, not imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from prtrace.paste.seen import Seen, SenseTriple

SOURCE: Final = "QEMU"

_DATA: Final = re.compile(
    r"\b(?:scsi_generic_send_command|scsi_disk_new_request)\b.*?data=(?P<bytes>(?:\s*0x[0-9a-f]{2})+)",
    re.IGNORECASE,
)
_PARSED: Final = re.compile(
    r"\bscsi_req_parsed target (?P<target>\d+) lun (?P<lun>\d+) tag (?P<tag>\d+) "
    r"command (?P<opcode>\d{1,2}|1\d\d|2[0-4]\d|25[0-5]) "
)
_DONE: Final = re.compile(
    r"\bscsi_generic_ioctl_sgio_done .*?cmd=(?P<opcode>0x[0-9a-f]{1,2}) .*?"
    r"status=(?P<status>0x[0-9a-f]{1,2})\b"
)
_RESPONSE: Final = re.compile(
    r"\bvirtio_scsi_cmd_resp\b.*?response=(?P<response>\d+) status=(?P<status>0x[0-9a-f]{1,2})\b"
)
_SENSE: Final = re.compile(
    r"\bscsi_(?:req_build_sense|device_set_ua) .*?key (?P<key>0x0?[0-9a-f]) "
    r"asc (?P<asc>0x[0-9a-f]{1,2}) ascq (?P<ascq>0x[0-9a-f]{1,2})"
)
_EVENTS: Final = (_DATA, _PARSED, _DONE, _RESPONSE, _SENSE)


def is_line(text: str) -> bool:
    """Whether a line is one of the trace events that say something about a command."""
    return any(event.search(text) for event in _EVENTS)


def read(lines: list[str]) -> Iterator[Seen]:
    """What each trace event says by itself."""
    for number, line in enumerate(lines, 1):
        if (found := _DATA.search(line)) is not None:
            cdb = bytes(int(word, 16) for word in found["bytes"].split())
            yield Seen(source=SOURCE, line=number, cdb=cdb)
        elif (found := _PARSED.search(line)) is not None:
            yield Seen(source=SOURCE, line=number, opcode=int(found["opcode"]))
        elif (found := _DONE.search(line)) is not None:
            yield Seen(
                source=SOURCE,
                line=number,
                opcode=int(found["opcode"], 16),
                status=int(found["status"], 16),
            )
        elif (found := _RESPONSE.search(line)) is not None:
            yield Seen(source=SOURCE, line=number, status=int(found["status"], 16))
        elif (found := _SENSE.search(line)) is not None:
            triple = SenseTriple(*(int(found[name], 16) for name in ("key", "asc", "ascq")))
            yield Seen(source=SOURCE, line=number, triple=triple)
