"""Commands that are not about reservations: their names, their first block, what they do to data.

What a command does decides whether a reservation lets it in (prtrace.state.access).  The table
has the commands of SPC-4 clause 6 and SBC-3 clause 5 for which both standards' tables "commands
that are allowed in the presence of various reservations" say the same for each reservation type
as for plain reading, plain writing, or no access at all; for every other command it says that
this is not known here.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from prtrace.model import Access


class MediumCommand(NamedTuple):
    """A command as a CDB names it."""

    name: str
    """As the standard writes it; "command 0x…" for an operation code that is not in the table."""
    access: Access
    lba: int | None
    """The first logical block, None where the command has none or the CDB is too short."""


_BLOCK_COMMANDS: Final = {
    0x08: ("READ(6)", Access.READ),
    0x0A: ("WRITE(6)", Access.WRITE),
    0x28: ("READ(10)", Access.READ),
    0x2A: ("WRITE(10)", Access.WRITE),
    0x2E: ("WRITE AND VERIFY(10)", Access.WRITE),
    0x2F: ("VERIFY(10)", Access.READ),
    0x34: ("PRE-FETCH(10)", Access.READ),
    0x35: ("SYNCHRONIZE CACHE(10)", Access.WRITE),
    0x41: ("WRITE SAME(10)", Access.WRITE),
    0x42: ("UNMAP", Access.WRITE),
    0x53: ("XDWRITEREAD(10)", Access.WRITE),
    0x88: ("READ(16)", Access.READ),
    0x89: ("COMPARE AND WRITE", Access.WRITE),
    0x8A: ("WRITE(16)", Access.WRITE),
    0x8B: ("ORWRITE(16)", Access.WRITE),
    0x8E: ("WRITE AND VERIFY(16)", Access.WRITE),
    0x8F: ("VERIFY(16)", Access.READ),
    0x90: ("PRE-FETCH(16)", Access.READ),
    0x91: ("SYNCHRONIZE CACHE(16)", Access.WRITE),
    0x93: ("WRITE SAME(16)", Access.WRITE),
    0xA8: ("READ(12)", Access.READ),
    0xAA: ("WRITE(12)", Access.WRITE),
    0xAE: ("WRITE AND VERIFY(12)", Access.WRITE),
    0xAF: ("VERIFY(12)", Access.READ),
}
"""Commands whose CDB has a LOGICAL BLOCK ADDRESS field, but for UNMAP."""

_OTHERS: Final = {
    0x00: ("TEST UNIT READY", Access.NONE),
    0x03: ("REQUEST SENSE", Access.NONE),
    0x04: ("FORMAT UNIT", Access.WRITE),
    0x12: ("INQUIRY", Access.NONE),
    0x15: ("MODE SELECT(6)", Access.UNKNOWN),
    0x16: ("RESERVE(6)", Access.UNKNOWN),
    0x17: ("RELEASE(6)", Access.UNKNOWN),
    0x1A: ("MODE SENSE(6)", Access.UNKNOWN),
    0x1B: ("START STOP UNIT", Access.UNKNOWN),
    0x1E: ("PREVENT ALLOW MEDIUM REMOVAL", Access.UNKNOWN),
    0x25: ("READ CAPACITY(10)", Access.NONE),
    0x4D: ("LOG SENSE", Access.NONE),
    0x55: ("MODE SELECT(10)", Access.UNKNOWN),
    0x56: ("RESERVE(10)", Access.UNKNOWN),
    0x57: ("RELEASE(10)", Access.UNKNOWN),
    0x5A: ("MODE SENSE(10)", Access.UNKNOWN),
    0x5E: ("PERSISTENT RESERVE IN", Access.NONE),
    0x5F: ("PERSISTENT RESERVE OUT", Access.UNKNOWN),
    0x83: ("EXTENDED COPY", Access.UNKNOWN),
    0x85: ("ATA PASS-THROUGH(16)", Access.UNKNOWN),
    0x9E: ("SERVICE ACTION IN(16)", Access.UNKNOWN),
    0xA0: ("REPORT LUNS", Access.NONE),
    0xA1: ("ATA PASS-THROUGH(12)", Access.UNKNOWN),
    0xA3: ("MAINTENANCE IN", Access.UNKNOWN),
}

_UNMAP: Final = 0x42
_LBA_AT: Final = {0: (1, 3), 1: (2, 4), 2: (2, 4), 4: (2, 8), 5: (2, 4)}
"""Where the LOGICAL BLOCK ADDRESS stands, by the group code of the operation code (SPC-4 4.2.5.1):
first byte and size."""
_LBA_6_MASK: Final = 0x1FFFFF
"""In a 6-byte CDB the upper three bits of byte 1 are no part of the address."""


def medium_command(cdb: bytes) -> MediumCommand:
    """The command that cdb asks for; an empty cdb is a command that nobody saw."""
    if not cdb:
        return MediumCommand("a command that was not seen", Access.UNKNOWN, None)
    code = cdb[0]
    if code in _BLOCK_COMMANDS:
        name, access = _BLOCK_COMMANDS[code]
        return MediumCommand(name, access, None if code == _UNMAP else _lba(cdb))
    name, access = _OTHERS.get(code, (f"command {code:#04x}", Access.UNKNOWN))
    return MediumCommand(name, access, None)


def _lba(cdb: bytes) -> int | None:
    group = cdb[0] >> 5
    first, size = _LBA_AT[group]
    if len(cdb) < first + size:
        return None
    address = int.from_bytes(cdb[first : first + size], "big")
    return address & _LBA_6_MASK if group == 0 else address
