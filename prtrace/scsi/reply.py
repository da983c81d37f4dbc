"""PERSISTENT RESERVE IN parameter data (SPC-4 6.15.2 to 6.15.5).

READ KEYS, READ RESERVATION and READ FULL STATUS begin with 0-3 PRGENERATION and 4-7
ADDITIONAL LENGTH, which says how much exists, not how much arrived.  Hand in what arrived:
the allocation length minus the residual.  Bytes past the claimed length are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self, assert_never

from prtrace.errors import MalformedError
from prtrace.model import ReservationType
from prtrace.scsi.codes import SCOPE_LU, InAction, ReservedCode, reservation_type, type_code
from prtrace.scsi.transportid import TransportId, parse_contained
from prtrace.scsi.wire import Layout, integers

_KEYS = Layout("READ KEYS reply", "II", "generation additional")
_STATUS = Layout("READ FULL STATUS reply", "II", "generation additional")
_HELD = Layout("READ RESERVATION reply", "II", "generation additional")
_RESERVATION = Layout("READ RESERVATION descriptor", "Q5xB2x", "key scope_type")
_CAPABILITIES = Layout("REPORT CAPABILITIES reply", "HBB2s2x", "length can does type_mask")
_DESCRIPTOR = Layout(
    "READ FULL STATUS descriptor",
    "Q4xBB4xHI",
    "key flags scope_type relative_target_port additional",
)

_ALL_TG_PT = 0x02
_R_HOLDER = 0x01
_RLR_C, _CRH, _SIP_C, _ATP_C, _PTPL_C = 0x80, 0x10, 0x08, 0x04, 0x01
_TMV, _ALLOW_COMMANDS, _PTPL_A = 0x80, 0x70, 0x01

# 24 bytes and an iSCSI TransportID of a 223-byte name with ISID, NUL and padding.
_LONGEST_DESCRIPTOR = 24 + 4 + 244


@dataclass(frozen=True, slots=True)
class ReadKeys:
    """One key per registered nexus, in no order, repeats included.

    keys are those that arrived whole; additional_length is the field, in bytes.
    """

    generation: int
    keys: tuple[int, ...]
    additional_length: int
    truncated: bool = False

    @classmethod
    def of(cls, generation: int, *keys: int) -> Self:
        """The complete reply that lists keys."""
        return cls(generation, keys, 8 * len(keys))

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Decode what arrived; MalformedError below 8 bytes or for a length of broken keys."""
        c = _KEYS.parse(raw)
        claimed: int = c.additional
        if claimed % 8:
            raise MalformedError(_KEYS.what, f"ADDITIONAL LENGTH {claimed} is no multiple of 8")
        count = min(claimed, len(raw) - _KEYS.size) // 8
        keys = integers(_KEYS.what, raw, _KEYS.size, count)
        return cls(c.generation, keys, claimed, truncated=claimed > 8 * count)

    def may_be_cut(self, allocation_length: int) -> bool:
        """Whether keys may be missing without ADDITIONAL LENGTH saying so.

        Older LIO puts the length of what fitted into the field (SPC wants that of what
        exists), so a full buffer proves nothing.
        """
        return self.truncated or allocation_length - _KEYS.size - self.additional_length < 8

    def build(self) -> bytes:
        """The header and the keys."""
        header = _KEYS.build(generation=self.generation, additional=self.additional_length)
        return header + b"".join(key.to_bytes(8, "big") for key in self.keys)


@dataclass(frozen=True, slots=True)
class Reservation:
    """The reservation; key is 0 for the two all-registrants types."""

    key: int
    type: ReservationType | ReservedCode
    scope: int = SCOPE_LU


@dataclass(frozen=True, slots=True)
class ReadReservation:
    """The reservation that is held, None where nothing is reserved."""

    generation: int
    reservation: Reservation | None

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Decode; MalformedError unless "nothing" or a whole reservation arrived."""
        c = _HELD.parse(raw)
        generation: int = c.generation
        if c.additional == 0:
            return cls(generation, None)
        if c.additional != _RESERVATION.size:
            raise MalformedError(
                _HELD.what, f"ADDITIONAL LENGTH is {c.additional}, neither 0 nor 16"
            )
        c = _RESERVATION.parse(raw, _HELD.size)
        held = Reservation(c.key, reservation_type(c.scope_type & 0x0F), c.scope_type >> 4)
        return cls(generation, held)

    def build(self) -> bytes:
        """8 bytes, or 24 where something is reserved."""
        held = self.reservation
        if held is None:
            return _HELD.build(generation=self.generation, additional=0)
        return _HELD.build(
            generation=self.generation, additional=_RESERVATION.size
        ) + _RESERVATION.build(key=held.key, scope_type=held.scope << 4 | type_code(held.type))


@dataclass(frozen=True, slots=True)
class ReportCapabilities:
    """What the device server can do.

    rlr_c replace lost reservation, crh compatible RESERVE/RELEASE handling, sip_c SPEC_I_PT,
    atp_c ALL_TG_PT, ptpl_c persist through power loss, ptpl_a the same activated.  types
    counts only where tmv (type mask valid) is set.  allow_commands is the 3-bit field.
    """

    rlr_c: bool = False
    crh: bool = False
    sip_c: bool = False
    atp_c: bool = False
    ptpl_c: bool = False
    tmv: bool = False
    allow_commands: int = 0
    ptpl_a: bool = False
    types: frozenset[ReservationType] = frozenset()

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Decode; MalformedError when fewer than the 8 bytes arrived or are claimed."""
        c = _CAPABILITIES.parse(raw)
        if c.length < _CAPABILITIES.size:
            raise MalformedError(_CAPABILITIES.what, f"LENGTH is {c.length}, not 8")
        # Little endian makes bit N the type of code N.
        mask = int.from_bytes(c.type_mask, "little")
        return cls(
            rlr_c=bool(c.can & _RLR_C),
            crh=bool(c.can & _CRH),
            sip_c=bool(c.can & _SIP_C),
            atp_c=bool(c.can & _ATP_C),
            ptpl_c=bool(c.can & _PTPL_C),
            tmv=bool(c.does & _TMV),
            allow_commands=(c.does & _ALLOW_COMMANDS) >> 4,
            ptpl_a=bool(c.does & _PTPL_A),
            types=frozenset(kind for kind in ReservationType if mask >> kind & 1),
        )

    def build(self) -> bytes:
        """The 8 bytes."""
        if not 0 <= self.allow_commands <= _ALLOW_COMMANDS >> 4:
            raise MalformedError(_CAPABILITIES.what, "ALLOW COMMANDS has three bits")
        can = ((self.rlr_c, _RLR_C), (self.crh, _CRH), (self.sip_c, _SIP_C), (self.atp_c, _ATP_C))
        does = ((self.tmv, _TMV), (self.ptpl_a, _PTPL_A))
        return _CAPABILITIES.build(
            length=_CAPABILITIES.size,
            can=sum(bit for on, bit in (*can, (self.ptpl_c, _PTPL_C)) if on),
            does=sum(bit for on, bit in does if on) | self.allow_commands << 4,
            type_mask=sum(1 << kind for kind in self.types).to_bytes(2, "little"),
        )


@dataclass(frozen=True, slots=True)
class FullStatusDescriptor:
    """One registration.

    type and scope are the reservation's and are there only where holder is set; the standard
    leaves the two fields undefined otherwise.  relative_target_port counts only where
    all_tg_pt is not set.
    """

    key: int
    relative_target_port: int
    transport_id: TransportId
    holder: bool = False
    all_tg_pt: bool = False
    type: ReservationType | ReservedCode | None = None
    scope: int = SCOPE_LU

    def build(self) -> bytes:
        """24 bytes and the TransportID."""
        port = self.transport_id.build()
        fixed = _DESCRIPTOR.build(
            key=self.key,
            flags=(_ALL_TG_PT if self.all_tg_pt else 0) | (_R_HOLDER if self.holder else 0),
            scope_type=self.scope << 4 | type_code(self.type),
            relative_target_port=self.relative_target_port,
            additional=len(port),
        )
        return fixed + port


@dataclass(frozen=True, slots=True)
class ReadFullStatus:
    """Every registration with its nexus; descriptors are those that arrived whole."""

    generation: int
    descriptors: tuple[FullStatusDescriptor, ...]
    additional_length: int
    truncated: bool = False

    @classmethod
    def of(cls, generation: int, *descriptors: FullStatusDescriptor) -> Self:
        """The complete reply that lists descriptors."""
        return cls(generation, descriptors, sum(len(each.build()) for each in descriptors))

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Decode what arrived; MalformedError below 8 bytes or where lengths contradict."""
        c = _STATUS.parse(raw)
        generation: int = c.generation
        claimed: int = c.additional
        end = _STATUS.size + claimed
        descriptors: list[FullStatusDescriptor] = []
        offset = _STATUS.size
        while offset < end:
            if end - offset < _DESCRIPTOR.size:
                raise MalformedError(_STATUS.what, f"{end - offset} bytes are left over")
            if len(raw) - offset < _DESCRIPTOR.size:
                break
            c = _DESCRIPTOR.parse(raw, offset)
            after = offset + _DESCRIPTOR.size + c.additional
            if after > end:
                raise MalformedError(
                    _STATUS.what, f"descriptor {len(descriptors)} runs past ADDITIONAL LENGTH"
                )
            if after > len(raw):
                break
            port = parse_contained(raw[offset + _DESCRIPTOR.size : after])
            descriptors.append(_descriptor(c, port))
            offset = after
        return cls(generation, tuple(descriptors), claimed, truncated=offset < end)

    def may_be_cut(self, allocation_length: int) -> bool:
        """Whether registrations may be missing without ADDITIONAL LENGTH saying so.

        LIO stops at the first descriptor that does not fit and reports the length of the
        rest, so only a buffer with room for the longest descriptor proves completeness.
        """
        room = allocation_length - _STATUS.size - self.additional_length
        return self.truncated or room < _LONGEST_DESCRIPTOR

    def build(self) -> bytes:
        """The header and the descriptors."""
        header = _STATUS.build(generation=self.generation, additional=self.additional_length)
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


def _descriptor(fields: Any, port: TransportId) -> FullStatusDescriptor:
    holder = bool(fields.flags & _R_HOLDER)
    return FullStatusDescriptor(
        fields.key,
        fields.relative_target_port,
        port,
        holder=holder,
        all_tg_pt=bool(fields.flags & _ALL_TG_PT),
        type=reservation_type(fields.scope_type & 0x0F) if holder else None,
        scope=fields.scope_type >> 4 if holder else SCOPE_LU,
    )
