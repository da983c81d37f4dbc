"""Command descriptor blocks of the reservation commands.

PERSISTENT RESERVE OUT (SPC-4 6.16): 0 5Fh; 1 SERVICE ACTION bits 0-4; 2 SCOPE bits 4-7,
TYPE bits 0-3; 5-8 PARAMETER LIST LENGTH; 9 CONTROL.
PERSISTENT RESERVE IN (SPC-4 6.15): 0 5Eh; 1 SERVICE ACTION bits 0-4; 7-8 ALLOCATION
LENGTH; 9 CONTROL.
RESERVE and RELEASE (SPC-2 7.22 to 7.25), 6 bytes: 1 3RDPTY bit 4, THIRD PARTY DEVICE ID
bits 1-3, EXTENT bit 0; 2 RESERVATION IDENTIFICATION; 3-4 PARAMETER LIST LENGTH; 5 CONTROL.
10 bytes: 1 3RDPTY bit 4, LONGID bit 1, EXTENT bit 0; 2 RESERVATION IDENTIFICATION;
3 THIRD PARTY DEVICE ID; 7-8 PARAMETER LIST LENGTH; 9 CONTROL.
"""

from __future__ import annotations

from dataclasses import dataclass

from prtrace.errors import MalformedError
from prtrace.model import Action, ReservationType
from prtrace.scsi.codes import (
    OUT_CODES,
    SCOPE_LU,
    InAction,
    Opcode,
    ReservedCode,
    in_action,
    out_action,
    reservation_type,
    type_code,
)
from prtrace.scsi.wire import Layout

_PR_OUT = Layout("PR OUT CDB", "BBB2xIB", "opcode action scope_type parameter_length control")
_PR_IN = Layout("PR IN CDB", "BB5xHB", "opcode action allocation_length control")
_LEGACY_6 = Layout(
    "RESERVE/RELEASE(6) CDB", "BBBHB", "opcode flags reservation_id parameter_length control"
)
_LEGACY_10 = Layout(
    "RESERVE/RELEASE(10) CDB",
    "BBBB3xHB",
    "opcode flags reservation_id third_party_id parameter_length control",
)

_SERVICE_ACTION = 0x1F
_THIRD_PARTY = 0x10
_THIRD_PARTY_ID_6 = 0x0E
_LONG_ID = 0x02
_EXTENT = 0x01


@dataclass(frozen=True, slots=True)
class PrOutCdb:
    """PERSISTENT RESERVE OUT; type None is code 0, which actions without a type carry."""

    action: Action | ReservedCode
    scope: int = SCOPE_LU
    type: ReservationType | ReservedCode | None = None
    parameter_length: int = 24
    control: int = 0

    def build(self) -> bytes:
        """The 10 bytes; MalformedError when a value does not fit."""
        action = self.action
        return _PR_OUT.build(
            opcode=Opcode.PR_OUT,
            action=action.code if isinstance(action, ReservedCode) else OUT_CODES[action],
            scope_type=self.scope << 4 | type_code(self.type),
            parameter_length=self.parameter_length,
            control=self.control,
        )


@dataclass(frozen=True, slots=True)
class PrInCdb:
    """PERSISTENT RESERVE IN; allocation_length in bytes."""

    action: InAction | ReservedCode
    allocation_length: int
    control: int = 0

    def build(self) -> bytes:
        """The 10 bytes; MalformedError when a value does not fit."""
        action = self.action
        return _PR_IN.build(
            opcode=Opcode.PR_IN,
            action=action.code if isinstance(action, ReservedCode) else action.value,
            allocation_length=self.allocation_length,
            control=self.control,
        )


@dataclass(frozen=True, slots=True)
class LegacyCdb:
    """SPC-2 RESERVE or (release) RELEASE; length is the CDB's: 6 or 10 bytes.

    third_party_id counts only with third_party set, and lies in the parameter list instead
    where long_id is set.  parameter_length in bytes.
    """

    release: bool
    length: int
    third_party: bool = False
    third_party_id: int = 0
    long_id: bool = False
    extent: bool = False
    reservation_id: int = 0
    parameter_length: int = 0
    control: int = 0

    def build(self) -> bytes:
        """The 6 or 10 bytes; MalformedError when a value does not fit."""
        flags = (_THIRD_PARTY if self.third_party else 0) | (_EXTENT if self.extent else 0)
        if self.length == _LEGACY_6.size:
            if self.long_id or not 0 <= self.third_party_id <= _THIRD_PARTY_ID_6 >> 1:
                raise MalformedError(_LEGACY_6.what, "has no room for the third party's id")
            return _LEGACY_6.build(
                opcode=Opcode.RELEASE_6 if self.release else Opcode.RESERVE_6,
                flags=flags | self.third_party_id << 1,
                reservation_id=self.reservation_id,
                parameter_length=self.parameter_length,
                control=self.control,
            )
        return _LEGACY_10.build(
            opcode=Opcode.RELEASE_10 if self.release else Opcode.RESERVE_10,
            flags=flags | (_LONG_ID if self.long_id else 0),
            reservation_id=self.reservation_id,
            third_party_id=self.third_party_id,
            parameter_length=self.parameter_length,
            control=self.control,
        )


@dataclass(frozen=True, slots=True)
class OtherCdb:
    """A command that is none of ours, kept as it came."""

    raw: bytes

    @property
    def opcode(self) -> int:
        """The operation code."""
        return self.raw[0]

    def build(self) -> bytes:
        """The bytes as they came."""
        return self.raw


Cdb = PrOutCdb | PrInCdb | LegacyCdb | OtherCdb


def parse_cdb(raw: bytes) -> Cdb:
    """Decode a CDB by its operation code; bytes past its length are ignored.

    The kernel hands out a fixed 16 or 32 byte buffer, so trailing bytes are the rule.
    MalformedError when raw is empty or shorter than its operation code demands.
    """
    if not raw:
        raise MalformedError("CDB", "is empty")
    opcode = raw[0]
    if opcode == Opcode.PR_OUT:
        c = _PR_OUT.parse(raw)
        code = c.scope_type & 0x0F
        return PrOutCdb(
            out_action(c.action & _SERVICE_ACTION),
            c.scope_type >> 4,
            reservation_type(code) if code else None,
            c.parameter_length,
            c.control,
        )
    if opcode == Opcode.PR_IN:
        c = _PR_IN.parse(raw)
        return PrInCdb(in_action(c.action & _SERVICE_ACTION), c.allocation_length, c.control)
    if opcode in (Opcode.RESERVE_6, Opcode.RELEASE_6):
        c = _LEGACY_6.parse(raw)
        return LegacyCdb(
            release=opcode == Opcode.RELEASE_6,
            length=_LEGACY_6.size,
            third_party=bool(c.flags & _THIRD_PARTY),
            third_party_id=(c.flags & _THIRD_PARTY_ID_6) >> 1,
            extent=bool(c.flags & _EXTENT),
            reservation_id=c.reservation_id,
            parameter_length=c.parameter_length,
            control=c.control,
        )
    if opcode in (Opcode.RESERVE_10, Opcode.RELEASE_10):
        c = _LEGACY_10.parse(raw)
        return LegacyCdb(
            release=opcode == Opcode.RELEASE_10,
            length=_LEGACY_10.size,
            third_party=bool(c.flags & _THIRD_PARTY),
            third_party_id=c.third_party_id,
            long_id=bool(c.flags & _LONG_ID),
            extent=bool(c.flags & _EXTENT),
            reservation_id=c.reservation_id,
            parameter_length=c.parameter_length,
            control=c.control,
        )
    return OtherCdb(raw)
