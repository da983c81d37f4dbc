"""Which forms a run of bytes could be.

Only CDBs, sense data and VPD page 83h carry a mark of their own.  Parameter lists and replies
do not: 24 bytes can be a PR OUT list, two keys or a reservation, so they have to be named.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final

from prtrace.errors import MalformedError, UsageError
from prtrace.scsi.cdb import cdb_length, parse_cdb, service_action
from prtrace.scsi.codes import InAction, Opcode, ReservedCode, in_action
from prtrace.scsi.designator import IdentificationPage
from prtrace.scsi.forms import (
    READ_FULL_STATUS,
    READ_KEYS,
    READ_RESERVATION,
    RESERVATION,
    SENSE_LENGTH_AT,
)
from prtrace.scsi.parameter import BasicList, MoveList
from prtrace.scsi.reply import ReadFullStatus, ReadKeys, ReadReservation, ReportCapabilities
from prtrace.scsi.sense import DESCRIPTOR, Sense


class DecodeAs(enum.Enum):
    """What bytes can be; the values are the choices of `decode --as`."""

    CDB = "cdb"
    OUT = "out"
    OUT_MOVE = "out-move"
    KEYS = "keys"
    RESERVATION = "reservation"
    CAPABILITIES = "capabilities"
    FULL_STATUS = "full-status"
    SENSE = "sense"
    VPD83 = "vpd83"


CHOICES = tuple(form.value for form in DecodeAs)

READ_AS: Final = {
    InAction.READ_KEYS: DecodeAs.KEYS,
    InAction.READ_RESERVATION: DecodeAs.RESERVATION,
    InAction.REPORT_CAPABILITIES: DecodeAs.CAPABILITIES,
    InAction.READ_FULL_STATUS: DecodeAs.FULL_STATUS,
}
"""What the reply to a PERSISTENT RESERVE IN is."""
HEADED: Final = (DecodeAs.KEYS, DecodeAs.RESERVATION, DecodeAs.FULL_STATUS)
"""The replies that begin with a header, PRGENERATION and ADDITIONAL LENGTH."""

_OURS: Final = (
    Opcode.RESERVE_6,
    Opcode.RELEASE_6,
    Opcode.RESERVE_10,
    Opcode.RELEASE_10,
    Opcode.PR_IN,
    Opcode.PR_OUT,
)
# A target that counted 16 million registrations since power on is taken for something else:
# sense data of 8 bytes would otherwise pass for a reply without registrations.
_GENERATIONS = 1 << 24
_MARKED = (DecodeAs.CDB, DecodeAs.SENSE, DecodeAs.VPD83)


def _cdb(raw: bytes) -> bool:
    parse_cdb(raw)
    length = cdb_length(raw[0])
    # The kernel's buffers for a CDB have 16 or 32 bytes.
    return raw[0] in _OURS and len(raw) in (length, 16, 32) and not any(raw[length:])


def _out(raw: bytes) -> bool:
    value = BasicList.parse(raw)
    return value.build() == raw and not value.problem


def _out_move(raw: bytes) -> bool:
    value = MoveList.parse(raw)
    return value.build() == raw and not value.problem


def _keys(raw: bytes) -> bool:
    value = ReadKeys.parse(raw)
    complete = not value.truncated and len(raw) == READ_KEYS.size + value.additional_length
    return complete and value.generation < _GENERATIONS


def _reservation(raw: bytes) -> bool:
    value = ReadReservation.parse(raw)
    held = value.reservation
    known = held is None or not isinstance(held.type, ReservedCode)
    complete = len(raw) == READ_RESERVATION.size + (0 if held is None else RESERVATION.size)
    return known and complete and value.generation < _GENERATIONS


def _capabilities(raw: bytes) -> bool:
    return ReportCapabilities.parse(raw).build() == raw


def _full_status(raw: bytes) -> bool:
    value = ReadFullStatus.parse(raw)
    complete = not value.truncated and len(raw) == READ_FULL_STATUS.size + value.additional_length
    return complete and value.generation < _GENERATIONS


def _sense(raw: bytes) -> bool:
    sense = Sense.parse(raw)
    if len(raw) <= SENSE_LENGTH_AT or sense.asc is None:
        return False
    reserved = raw[4:7] if sense.response_code >= DESCRIPTOR else raw[1:2]
    end = SENSE_LENGTH_AT + 1 + raw[SENSE_LENGTH_AT]
    return end <= len(raw) and not any(raw[end:]) and not any(reserved)


def _vpd83(raw: bytes) -> bool:
    page = IdentificationPage.parse(raw)
    return not page.truncated and not page.problem


_FITS: dict[DecodeAs, Callable[[bytes], bool]] = {
    DecodeAs.CDB: _cdb,
    DecodeAs.OUT: _out,
    DecodeAs.OUT_MOVE: _out_move,
    DecodeAs.KEYS: _keys,
    DecodeAs.RESERVATION: _reservation,
    DecodeAs.CAPABILITIES: _capabilities,
    DecodeAs.FULL_STATUS: _full_status,
    DecodeAs.SENSE: _sense,
    DecodeAs.VPD83: _vpd83,
}


def reply_to(cdb: bytes) -> str:
    """What the reply to a PERSISTENT RESERVE IN is, as one of CHOICES; "" for other commands."""
    if len(cdb) < 2 or cdb[0] != Opcode.PR_IN:
        return ""
    action = in_action(service_action(cdb))
    return READ_AS[action].value if isinstance(action, InAction) else ""


def plausible_forms(raw: bytes) -> tuple[DecodeAs, ...]:
    """The forms that raw fits exactly: complete, without contradiction or leftovers."""
    return tuple(form for form in DecodeAs if _fits(form, raw))


def recognise(raw: bytes) -> DecodeAs:
    """The form of raw, where it carries a mark and fits no other form.

    UsageError otherwise; it names what raw could be.
    """
    forms = plausible_forms(raw)
    if len(forms) == 1 and forms[0] in _MARKED:
        return forms[0]
    could_be = " or ".join(form.value for form in forms)
    choices = [form.value for form in forms] or CHOICES
    raise UsageError(
        f"{len(raw)} bytes could be {could_be}: nothing in them says which"
        if forms
        else f"{len(raw)} bytes carry no mark that says what they are",
        hint=f"name it with --as {choices[0]}, if it is that"
        if len(choices) == 1
        else f"name it with --as: {', '.join(choices)}",
    )


def _fits(form: DecodeAs, raw: bytes) -> bool:
    try:
        return _FITS[form](raw)
    except MalformedError:
        return False
