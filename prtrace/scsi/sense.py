"""Sense data (SPC-4 4.5), fixed and descriptor format."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Self

from prtrace.errors import MalformedError
from prtrace.model import Attention
from prtrace.scsi import forms

FIXED: Final = 0x70
DESCRIPTOR: Final = 0x72

NOT_READY: Final = 0x2
ILLEGAL_REQUEST: Final = 0x5
UNIT_ATTENTION: Final = 0x6

_WHAT: Final = forms.FIXED_SENSE.what
_FIXED: Final = (
    forms.FIXED_SENSE,
    forms.FIXED_SENSE.offset("byte_2"),
    forms.FIXED_SENSE.offset("additional_sense_code"),
)
_DESCRIPTOR: Final = (
    forms.DESCRIPTOR_SENSE,
    forms.DESCRIPTOR_SENSE.offset("byte_1"),
    forms.DESCRIPTOR_SENSE.offset("additional_sense_code"),
)
"""A format's form, and where the byte of the sense key and ASC lie; ASCQ follows ASC."""
_COUNTED: Final = forms.SENSE_LENGTH_AT + 1
"""Where the bytes begin that ADDITIONAL SENSE LENGTH counts."""

KEYS = (
    "NO SENSE",
    "RECOVERED ERROR",
    "NOT READY",
    "MEDIUM ERROR",
    "HARDWARE ERROR",
    "ILLEGAL REQUEST",
    "UNIT ATTENTION",
    "DATA PROTECT",
    "BLANK CHECK",
    "VENDOR SPECIFIC",
    "COPY ABORTED",
    "ABORTED COMMAND",
    "RESERVED 0xC",
    "VOLUME OVERFLOW",
    "MISCOMPARE",
    "COMPLETED",
)

CODES = {
    (0x00, 0x00): "NO ADDITIONAL SENSE INFORMATION",
    (0x04, 0x00): "LOGICAL UNIT NOT READY, CAUSE NOT REPORTABLE",
    (0x04, 0x01): "LOGICAL UNIT IS IN PROCESS OF BECOMING READY",
    (0x04, 0x02): "LOGICAL UNIT NOT READY, INITIALIZING COMMAND REQUIRED",
    (0x04, 0x03): "LOGICAL UNIT NOT READY, MANUAL INTERVENTION REQUIRED",
    (0x04, 0x0A): "LOGICAL UNIT NOT ACCESSIBLE, ASYMMETRIC ACCESS STATE TRANSITION",
    (0x04, 0x0B): "LOGICAL UNIT NOT ACCESSIBLE, TARGET PORT IN STANDBY STATE",
    (0x04, 0x0C): "LOGICAL UNIT NOT ACCESSIBLE, TARGET PORT IN UNAVAILABLE STATE",
    (0x08, 0x00): "LOGICAL UNIT COMMUNICATION FAILURE",
    (0x1A, 0x00): "PARAMETER LIST LENGTH ERROR",
    (0x20, 0x00): "INVALID COMMAND OPERATION CODE",
    (0x24, 0x00): "INVALID FIELD IN CDB",
    (0x25, 0x00): "LOGICAL UNIT NOT SUPPORTED",
    (0x26, 0x00): "INVALID FIELD IN PARAMETER LIST",
    (0x26, 0x04): "INVALID RELEASE OF PERSISTENT RESERVATION",
    (0x29, 0x00): "POWER ON, RESET, OR BUS DEVICE RESET OCCURRED",
    (0x29, 0x01): "POWER ON OCCURRED",
    (0x29, 0x02): "SCSI BUS RESET OCCURRED",
    (0x29, 0x03): "BUS DEVICE RESET FUNCTION OCCURRED",
    (0x29, 0x04): "DEVICE INTERNAL RESET",
    (0x29, 0x05): "TRANSCEIVER MODE CHANGED TO SINGLE-ENDED",
    (0x29, 0x06): "TRANSCEIVER MODE CHANGED TO LVD",
    (0x29, 0x07): "I_T NEXUS LOSS OCCURRED",
    (0x2A, 0x00): "PARAMETERS CHANGED",
    (0x2A, 0x01): "MODE PARAMETERS CHANGED",
    (0x2A, 0x02): "LOG PARAMETERS CHANGED",
    (0x2A, 0x03): "RESERVATIONS PREEMPTED",
    (0x2A, 0x04): "RESERVATIONS RELEASED",
    (0x2A, 0x05): "REGISTRATIONS PREEMPTED",
    (0x2A, 0x09): "CAPACITY DATA HAS CHANGED",
    (0x3F, 0x03): "INQUIRY DATA HAS CHANGED",
    (0x3F, 0x0E): "REPORTED LUNS DATA HAS CHANGED",
    (0x44, 0x00): "INTERNAL TARGET FAILURE",
    (0x44, 0x01): "PERSISTENT RESERVATION INFORMATION LOST",
    (0x55, 0x03): "INSUFFICIENT RESOURCES",
    (0x55, 0x04): "INSUFFICIENT REGISTRATION RESOURCES",
}

_ATTENTIONS: dict[tuple[int | None, int | None], Attention] = {
    each.value: each for each in Attention if each is not Attention.INFORMATION_LOST
}


@dataclass(frozen=True, slots=True)
class Sense:
    """What a CHECK CONDITION says."""

    response_code: int
    """70h to 73h."""
    key: int
    """SENSE KEY."""
    asc: int | None
    """ADDITIONAL SENSE CODE; None where the data ends before it."""
    ascq: int | None
    """ADDITIONAL SENSE CODE QUALIFIER; None as asc."""
    raw: bytes = field(default=b"", compare=False, repr=False)
    """The bytes that were parsed, b"" where there were none; no part of equality."""

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Decode either format as far as it reaches, as the kernel does.

        MalformedError when the sense key did not arrive, or the response code is not 70h to
        73h (7Fh is vendor specific).
        """
        if not raw:
            raise MalformedError(_WHAT, "is empty")
        code = raw[0] & forms.RESPONSE_CODE
        if code in (FIXED, FIXED + 1):
            form, key_at, asc_at = _FIXED
        elif code in (DESCRIPTOR, DESCRIPTOR + 1):
            form, key_at, asc_at = _DESCRIPTOR
        else:
            raise MalformedError(_WHAT, f"response code {code:#04x} is not 0x70 to 0x73")
        if len(raw) <= key_at:
            raise MalformedError(_WHAT, f"ends after {len(raw)} bytes, before the sense key")
        c = form.parse(raw.ljust(form.size, b"\0"))
        # What ADDITIONAL SENSE LENGTH does not cover is not sense data.
        end = len(raw)
        if end >= _COUNTED:
            end = min(end, _COUNTED + c.additional_sense_length)
        return cls(
            code,
            raw[key_at] & forms.SENSE_KEY,
            c.additional_sense_code if end > asc_at else None,
            c.additional_sense_code_qualifier if end > asc_at + 1 else None,
            raw,
        )

    @property
    def deferred(self) -> bool:
        """Whether it is about an earlier command than the one whose status it came with."""
        return bool(self.response_code & 1)

    @property
    def attention(self) -> bool:
        """Whether a unit attention was delivered instead of executing this command."""
        return self.key == UNIT_ATTENTION and not self.deferred

    @property
    def text(self) -> str:
        """For people: "UNIT ATTENTION 2A/03 RESERVATIONS PREEMPTED"."""
        words = [KEYS[self.key]]
        if self.asc is not None:
            words.append(f"{self.asc:02X}/" + ("??" if self.ascq is None else f"{self.ascq:02X}"))
            if self.ascq is not None and (self.asc, self.ascq) in CODES:
                words.append(CODES[self.asc, self.ascq])
        if self.deferred:
            words.append("(deferred)")
        return " ".join(words)

    def build(self) -> bytes:
        """18 bytes of fixed or 8 bytes of descriptor format, by response_code.

        Fixed format ends before an absent asc or ascq; descriptor format cannot leave it out, and
        has 0 there.
        """
        fields: dict[str, Any] = {
            "byte_0": self.response_code,
            "additional_sense_code": self.asc or 0,
            "additional_sense_code_qualifier": self.ascq or 0,
        }
        if self.response_code in (DESCRIPTOR, DESCRIPTOR + 1):
            return forms.DESCRIPTOR_SENSE.build(byte_1=self.key, **fields)
        end = forms.FIXED_SENSE.size
        if self.ascq is None:
            end = _FIXED[-1] + (self.asc is not None)
        length = end - _COUNTED
        whole = forms.FIXED_SENSE.build(byte_2=self.key, additional_sense_length=length, **fields)
        return whole[:end]


def attention(sense: Sense) -> Attention | None:
    """The news about reservations, or about which unit this is; None where there is none.

    44/01 counts under every sense key, because the reservations are lost in any case.
    """
    if (sense.asc, sense.ascq) == Attention.INFORMATION_LOST.value:
        return Attention.INFORMATION_LOST
    if sense.key != UNIT_ATTENTION:
        return None
    if sense.asc == Attention.RESET.value[0]:
        return Attention.RESET
    return _ATTENTIONS.get((sense.asc, sense.ascq))


def may_be_attention(sense: Sense) -> bool:
    """Whether the qualifier is absent with which it may be one that attention() knows."""
    codes = {attention.value[0] for attention in Attention}
    return sense.key == UNIT_ATTENTION and sense.ascq is None and sense.asc in codes
