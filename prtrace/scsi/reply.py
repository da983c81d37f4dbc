"""PERSISTENT RESERVE IN parameter data (SPC-4 6.15.2 to 6.15.5).

ADDITIONAL LENGTH says how much exists, not how much arrived.  Callers hand in what arrived: the
allocation length minus the residual.  Bytes behind the claimed length are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple, Self, assert_never

from prtrace.errors import MalformedError
from prtrace.model import ReservationType
from prtrace.scsi import forms
from prtrace.scsi.codes import SCOPE_LU, InAction, ReservedCode, reservation_type, type_code
from prtrace.scsi.form import integers
from prtrace.scsi.transportid import TransportId, parse_contained

_LONGEST_NAME: Final = 244
"""An iSCSI name of 223 bytes with ISID, NUL and padding."""
_LONGEST_DESCRIPTOR: Final = (
    forms.FULL_STATUS_DESCRIPTOR.size + forms.ISCSI_TRANSPORT_ID.size + _LONGEST_NAME
)
_KEY_SIZE: Final = 8


class ReadKeys(NamedTuple):
    """One reservation key for each registered I_T nexus, in no order, repeats included."""

    generation: int
    """PRGENERATION."""
    keys: tuple[int, ...]
    """Those that arrived whole."""
    additional_length: int
    """The field, in bytes."""
    truncated: bool = False
    """Whether more keys exist than arrived."""

    @classmethod
    def of(cls, generation: int, *keys: int) -> Self:
        """The complete reply that lists keys."""
        return cls(generation, keys, _KEY_SIZE * len(keys))

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Decode what arrived; MalformedError below 8 bytes or for a length of broken keys."""
        form = forms.READ_KEYS
        c = form.parse(raw)
        claimed: int = c.additional_length
        if claimed % _KEY_SIZE:
            raise MalformedError(form.what, f"ADDITIONAL LENGTH {claimed} is no multiple of 8")
        count = min(claimed, len(raw) - form.size) // _KEY_SIZE
        keys = integers(form.what, raw, form.size, count)
        return cls(c.prgeneration, keys, claimed, truncated=claimed > _KEY_SIZE * count)

    def may_be_cut(self, allocation_length: int) -> bool:
        """Whether keys may be missing without ADDITIONAL LENGTH saying so.

        Older LIO puts the length of what fitted into the field (SPC wants that of what
        exists), so a full buffer proves nothing.
        """
        room = allocation_length - forms.READ_KEYS.size - self.additional_length
        return self.truncated or room < _KEY_SIZE

    def build(self) -> bytes:
        """The header and the keys."""
        header = forms.READ_KEYS.build(
            prgeneration=self.generation, additional_length=self.additional_length
        )
        return header + b"".join(key.to_bytes(_KEY_SIZE, "big") for key in self.keys)


class ReservationDescriptor(NamedTuple):
    """The reservation that is held."""

    key: int
    """0 for the two all-registrants types."""
    type: ReservationType | ReservedCode
    scope: int = SCOPE_LU


class ReadReservation(NamedTuple):
    """Whether something is reserved, and how."""

    generation: int
    """PRGENERATION."""
    reservation: ReservationDescriptor | None
    """None where nothing is reserved."""

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Decode; MalformedError unless "nothing" or a whole reservation arrived."""
        form = forms.READ_RESERVATION
        c = form.parse(raw)
        generation: int = c.prgeneration
        if c.additional_length == 0:
            return cls(generation, None)
        size = forms.RESERVATION.size
        if c.additional_length != size:
            raise MalformedError(
                form.what, f"ADDITIONAL LENGTH is {c.additional_length}, neither 0 nor {size}"
            )
        c = forms.RESERVATION.parse(raw, form.size)
        kind = reservation_type(c.scope_type & forms.TYPE)
        held = ReservationDescriptor(c.reservation_key, kind, c.scope_type >> forms.SCOPE_SHIFT)
        return cls(generation, held)

    def build(self) -> bytes:
        """8 bytes, or 24 where something is reserved."""
        held = self.reservation
        if held is None:
            return forms.READ_RESERVATION.build(prgeneration=self.generation)
        header = forms.READ_RESERVATION.build(
            prgeneration=self.generation, additional_length=forms.RESERVATION.size
        )
        return header + forms.RESERVATION.build(
            reservation_key=held.key,
            scope_type=held.scope << forms.SCOPE_SHIFT | type_code(held.type),
        )


class ReportCapabilities(NamedTuple):
    """What the device server can do."""

    rlr_c: bool = False
    """REPLACE LOST RESERVATION."""
    crh: bool = False
    """Compatible handling of RESERVE and RELEASE."""
    sip_c: bool = False
    """SPEC_I_PT."""
    atp_c: bool = False
    """ALL_TG_PT."""
    ptpl_c: bool = False
    """Persistence through a power loss."""
    tmv: bool = False
    """Whether types is valid."""
    allow_commands: int = 0
    """ALLOW COMMANDS, three bits."""
    ptpl_a: bool = False
    """Whether persistence through a power loss is active."""
    types: frozenset[ReservationType] = frozenset()

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Decode; MalformedError when fewer than the 8 bytes arrived or are claimed."""
        form = forms.REPORT_CAPABILITIES
        c = form.parse(raw)
        if c.length < form.size:
            raise MalformedError(form.what, f"LENGTH is {c.length}, not {form.size}")
        can, more = c.capabilities, c.byte_3
        types = c.persistent_reservation_type_mask
        return cls(
            rlr_c=bool(can & forms.RLR_C),
            crh=bool(can & forms.CRH),
            sip_c=bool(can & forms.SIP_C),
            atp_c=bool(can & forms.ATP_C),
            ptpl_c=bool(can & forms.PTPL_C),
            tmv=bool(more & forms.TMV),
            allow_commands=(more & forms.ALLOW_COMMANDS) >> forms.ALLOW_COMMANDS_SHIFT,
            ptpl_a=bool(more & forms.PTPL_A),
            types=frozenset(kind for kind, mask in forms.TYPE_MASKS.items() if types & mask),
        )

    def build(self) -> bytes:
        """The 8 bytes; MalformedError when allow_commands does not fit."""
        form = forms.REPORT_CAPABILITIES
        allowed = self.allow_commands << forms.ALLOW_COMMANDS_SHIFT
        if allowed & ~forms.ALLOW_COMMANDS:
            raise MalformedError(form.what, "ALLOW COMMANDS has three bits")
        can = (
            (self.rlr_c, forms.RLR_C),
            (self.crh, forms.CRH),
            (self.sip_c, forms.SIP_C),
            (self.atp_c, forms.ATP_C),
            (self.ptpl_c, forms.PTPL_C),
        )
        more = ((self.tmv, forms.TMV), (self.ptpl_a, forms.PTPL_A))
        return form.build(
            length=form.size,
            capabilities=sum(mask for on, mask in can if on),
            byte_3=sum(mask for on, mask in more if on) | allowed,
            persistent_reservation_type_mask=sum(forms.TYPE_MASKS[kind] for kind in self.types),
        )


class FullStatusDescriptor(NamedTuple):
    """One registration."""

    key: int
    relative_target_port: int
    """It counts only where all_tg_pt is not set."""
    transport_id: TransportId
    holder: bool = False
    all_tg_pt: bool = False
    type: ReservationType | ReservedCode | None = None
    """Of the reservation where holder is set; else undefined by the standard, and None."""
    scope: int = SCOPE_LU
    """As type."""

    def build(self) -> bytes:
        """24 bytes and the TransportID."""
        port = self.transport_id.build()
        fixed = forms.FULL_STATUS_DESCRIPTOR.build(
            reservation_key=self.key,
            flags=(forms.STATUS_ALL_TG_PT if self.all_tg_pt else 0)
            | (forms.STATUS_R_HOLDER if self.holder else 0),
            scope_type=self.scope << forms.SCOPE_SHIFT | type_code(self.type),
            relative_target_port_identifier=self.relative_target_port,
            additional_descriptor_length=len(port),
        )
        return fixed + port


class ReadFullStatus(NamedTuple):
    """Every registration with its I_T nexus."""

    generation: int
    """PRGENERATION."""
    descriptors: tuple[FullStatusDescriptor, ...]
    """Those that arrived whole."""
    additional_length: int
    """The field, in bytes."""
    truncated: bool = False
    """Whether more descriptors exist than arrived."""

    @classmethod
    def of(cls, generation: int, *descriptors: FullStatusDescriptor) -> Self:
        """The complete reply that lists descriptors."""
        return cls(generation, descriptors, sum(len(each.build()) for each in descriptors))

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Decode what arrived; MalformedError below 8 bytes or where lengths contradict."""
        c = forms.READ_FULL_STATUS.parse(raw)
        generation: int = c.prgeneration
        claimed: int = c.additional_length
        end = forms.READ_FULL_STATUS.size
        descriptors: list[FullStatusDescriptor] = []
        for _, end, descriptor in full_status_descriptors(raw):  # noqa: B007
            descriptors.append(descriptor)
        truncated = end < forms.READ_FULL_STATUS.size + claimed
        return cls(generation, tuple(descriptors), claimed, truncated)

    def may_be_cut(self, allocation_length: int) -> bool:
        """Whether registrations may be missing without ADDITIONAL LENGTH saying so.

        LIO stops at the first descriptor that does not fit and reports the length of the
        rest, so only a buffer with room for the longest descriptor proves completeness.
        """
        room = allocation_length - forms.READ_FULL_STATUS.size - self.additional_length
        return self.truncated or room < _LONGEST_DESCRIPTOR

    def build(self) -> bytes:
        """The header and the descriptors."""
        header = forms.READ_FULL_STATUS.build(
            prgeneration=self.generation, additional_length=self.additional_length
        )
        return header + b"".join(each.build() for each in self.descriptors)


Reply = ReadKeys | ReadReservation | ReportCapabilities | ReadFullStatus


def parse_reply(action: InAction, raw: bytes) -> Reply:
    """Decode the reply to action; MalformedError as its class says."""
    match action:
        case InAction.READ_KEYS:
            return ReadKeys.parse(raw)
        case InAction.READ_RESERVATION:
            return ReadReservation.parse(raw)
        case InAction.REPORT_CAPABILITIES:
            return ReportCapabilities.parse(raw)
        case InAction.READ_FULL_STATUS:
            return ReadFullStatus.parse(raw)
    assert_never(action)


def full_status_descriptors(raw: bytes) -> Iterator[tuple[int, int, FullStatusDescriptor]]:
    """Each whole descriptor of a READ FULL STATUS reply, and its offset and end in raw.

    Ends where the bytes that arrived do.  MalformedError for a descriptor that the claimed
    lengths contradict.
    """
    header, form = forms.READ_FULL_STATUS, forms.FULL_STATUS_DESCRIPTOR
    end = header.size + header.parse(raw).additional_length
    offset, number = header.size, 0
    while offset < end:
        if end - offset < form.size:
            raise MalformedError(header.what, f"{end - offset} bytes are left over")
        if len(raw) - offset < form.size:
            return
        c = form.parse(raw, offset)
        after = offset + form.size + c.additional_descriptor_length
        if after > end:
            raise MalformedError(header.what, f"descriptor {number} runs past ADDITIONAL LENGTH")
        if after > len(raw):
            return
        yield offset, after, _descriptor(c, parse_contained(raw[offset + form.size : after]))
        offset = after
        number += 1


def _descriptor(fields: Any, port: TransportId) -> FullStatusDescriptor:
    holder = bool(fields.flags & forms.STATUS_R_HOLDER)
    return FullStatusDescriptor(
        fields.reservation_key,
        fields.relative_target_port_identifier,
        port,
        holder=holder,
        all_tg_pt=bool(fields.flags & forms.STATUS_ALL_TG_PT),
        type=reservation_type(fields.scope_type & forms.TYPE) if holder else None,
        scope=fields.scope_type >> forms.SCOPE_SHIFT if holder else SCOPE_LU,
    )
