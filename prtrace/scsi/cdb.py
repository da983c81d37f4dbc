"""Command descriptor blocks of the reservation commands, as values."""

from __future__ import annotations

from typing import Final, NamedTuple

from prtrace.errors import MalformedError
from prtrace.model import Action, ReservationType
from prtrace.scsi import forms
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

_GROUP_LENGTHS: Final = (6, 10, 10, 0, 16, 12, 0, 0)
_THIRD_PARTY_ID_6_MAX: Final = forms.THIRD_PARTY_DEVICE_ID_6 >> forms.THIRD_PARTY_DEVICE_ID_6_SHIFT
_LENGTHS: Final = tuple(_GROUP_LENGTHS[opcode >> 5] for opcode in range(256))


def cdb_length(opcode: int) -> int:
    """The length of a CDB by its operation code, in bytes (SPC-4 4.2.5.1, Linux COMMAND_SIZE).

    0 for the groups of which the code does not tell it: variable length and vendor specific.
    """
    return _LENGTHS[opcode]


def as_device_reads(buffer: bytes, sent: int) -> bytes:
    """The CDB in a zero-filled buffer into which its sender put the first sent bytes.

    A device takes as many bytes as the operation code says, whatever length the sender named:
    SG_IO passes a PERSISTENT RESERVE OUT with 6 to 9 bytes on, and the device carries it out
    with zeros for the rest.  A buffer that is shorter than that is filled up.
    """
    length = _LENGTHS[buffer[0]] if buffer else 0
    if not length:
        return buffer[:sent]
    return buffer[:length].ljust(length, b"\0")


def service_action(cdb: bytes) -> int:
    """The service action of a PERSISTENT RESERVE IN or OUT CDB of at least two bytes."""
    return cdb[1] & forms.SERVICE_ACTION


class PrOutCdb(NamedTuple):
    """PERSISTENT RESERVE OUT (SPC-4 6.16)."""

    action: Action | ReservedCode
    scope: int = SCOPE_LU
    type: ReservationType | ReservedCode | None = None
    """None is code 0, which service actions without a type carry."""
    parameter_length: int = forms.BASIC_PARAMETER_LIST.size
    """PARAMETER LIST LENGTH, in bytes."""
    control: int = 0

    def build(self) -> bytes:
        """The 10 bytes; MalformedError when a value does not fit."""
        action = self.action
        return forms.PR_OUT_CDB.build(
            operation_code=Opcode.PR_OUT,
            byte_1=action.code if isinstance(action, ReservedCode) else OUT_CODES[action],
            scope_type=self.scope << forms.SCOPE_SHIFT | type_code(self.type),
            parameter_list_length=self.parameter_length,
            control=self.control,
        )


class PrInCdb(NamedTuple):
    """PERSISTENT RESERVE IN (SPC-4 6.15)."""

    action: InAction | ReservedCode
    allocation_length: int
    """In bytes."""
    control: int = 0

    def build(self) -> bytes:
        """The 10 bytes; MalformedError when a value does not fit."""
        action = self.action
        return forms.PR_IN_CDB.build(
            operation_code=Opcode.PR_IN,
            byte_1=action.code if isinstance(action, ReservedCode) else action.value,
            allocation_length=self.allocation_length,
            control=self.control,
        )


class LegacyCdb(NamedTuple):
    """RESERVE or RELEASE of SPC-2."""

    release: bool
    """Whether it is RELEASE."""
    length: int
    """Of the CDB: 6 or 10 bytes."""
    third_party: bool = False
    third_party_id: int = 0
    """It counts only where third_party is set; with long_id the parameter list has it."""
    long_id: bool = False
    extent: bool = False
    reservation_id: int = 0
    parameter_length: int = 0
    """PARAMETER LIST LENGTH, in bytes."""
    control: int = 0

    def build(self) -> bytes:
        """The 6 or 10 bytes; MalformedError when a value does not fit."""
        flags = (forms.THIRD_PARTY if self.third_party else 0) | (
            forms.EXTENT if self.extent else 0
        )
        if self.length == forms.RESERVE_RELEASE_6_CDB.size:
            form, shift = forms.RESERVE_RELEASE_6_CDB, forms.THIRD_PARTY_DEVICE_ID_6_SHIFT
            if self.long_id or not 0 <= self.third_party_id <= _THIRD_PARTY_ID_6_MAX:
                raise MalformedError(form.what, "has no room for the third party's id")
            return form.build(
                operation_code=Opcode.RELEASE_6 if self.release else Opcode.RESERVE_6,
                flags=flags | self.third_party_id << shift,
                reservation_identification=self.reservation_id,
                parameter_list_length=self.parameter_length,
                control=self.control,
            )
        return forms.RESERVE_RELEASE_10_CDB.build(
            operation_code=Opcode.RELEASE_10 if self.release else Opcode.RESERVE_10,
            flags=flags | (forms.LONG_ID if self.long_id else 0),
            reservation_identification=self.reservation_id,
            third_party_device_id=self.third_party_id,
            parameter_list_length=self.parameter_length,
            control=self.control,
        )


class OtherCdb(NamedTuple):
    """Any other command, byte for byte."""

    raw: bytes

    @property
    def opcode(self) -> int:
        """The operation code."""
        return self.raw[0]

    def build(self) -> bytes:
        """The same bytes."""
        return self.raw


Cdb = PrOutCdb | PrInCdb | LegacyCdb | OtherCdb


def parse_cdb(raw: bytes) -> Cdb:
    """Decode a CDB by its operation code.

    Bytes behind the CDB are ignored: the kernel's buffers have 16 or 32 bytes.  MalformedError
    when raw is empty or shorter than its operation code demands.
    """
    if not raw:
        raise MalformedError("CDB", "is empty")
    opcode = raw[0]
    if opcode == Opcode.PR_OUT:
        c = forms.PR_OUT_CDB.parse(raw)
        code = c.scope_type & forms.TYPE
        return PrOutCdb(
            out_action(c.byte_1 & forms.SERVICE_ACTION),
            c.scope_type >> forms.SCOPE_SHIFT,
            reservation_type(code) if code else None,
            c.parameter_list_length,
            c.control,
        )
    if opcode == Opcode.PR_IN:
        c = forms.PR_IN_CDB.parse(raw)
        action = in_action(c.byte_1 & forms.SERVICE_ACTION)
        return PrInCdb(action, c.allocation_length, c.control)
    if opcode in (Opcode.RESERVE_6, Opcode.RELEASE_6):
        c = forms.RESERVE_RELEASE_6_CDB.parse(raw)
        third_party = c.flags & forms.THIRD_PARTY_DEVICE_ID_6
        return LegacyCdb(
            release=opcode == Opcode.RELEASE_6,
            length=forms.RESERVE_RELEASE_6_CDB.size,
            third_party=bool(c.flags & forms.THIRD_PARTY),
            third_party_id=third_party >> forms.THIRD_PARTY_DEVICE_ID_6_SHIFT,
            extent=bool(c.flags & forms.EXTENT),
            reservation_id=c.reservation_identification,
            parameter_length=c.parameter_list_length,
            control=c.control,
        )
    if opcode in (Opcode.RESERVE_10, Opcode.RELEASE_10):
        c = forms.RESERVE_RELEASE_10_CDB.parse(raw)
        return LegacyCdb(
            release=opcode == Opcode.RELEASE_10,
            length=forms.RESERVE_RELEASE_10_CDB.size,
            third_party=bool(c.flags & forms.THIRD_PARTY),
            third_party_id=c.third_party_device_id,
            long_id=bool(c.flags & forms.LONG_ID),
            extent=bool(c.flags & forms.EXTENT),
            reservation_id=c.reservation_identification,
            parameter_length=c.parameter_list_length,
            control=c.control,
        )
    return OtherCdb(raw)
