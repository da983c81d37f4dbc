"""What the bytes of a device say, in a form that is checked field by field (pure).

A process without rights parses a device's bytes for a process that has them, and answers with
facts.  It may have been taken over by the bytes, so that its answer is a claim like the device's
own: facts_in() takes nothing but what an honest answer to that question can be, byte for byte, and
so whoever lies in it can say what a device could have said, and no more.

A question is "=BI": the number of a Question, the bytes that follow.  An answer is "=BI": 0 for
facts or 1 for bytes that are malformed, the bytes that follow.  Those of facts are in native byte
order (both processes are on one machine):

    keys              "=IIB" PRGENERATION, ADDITIONAL LENGTH, 1 where more exist; "Q" for each key
    reservation       "=IBQBB" PRGENERATION, 1 where something is reserved; key, TYPE, SCOPE
    capabilities      "=BBH" flags in the order of _CAPABILITIES from bit 0, ALLOW COMMANDS, the
                      types that are supported as bits, by the number of each
    full status       "=IIBI" PRGENERATION, ADDITIONAL LENGTH, 1 where more exist, how many
                      registrations; each as _REGISTRATION; then the names of their ports
    sense             "=BBhh" response code, sense key, ASC and ASCQ, -1 for what did not arrive
    the unit's name   text
    a page's names    "=HHi" bytes of the unit's name and of the target port's, _NO_NAME without
                      one; the relative target port, -1 without one; the names
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, TypeVar, assert_never

from prtrace.errors import MalformedError
from prtrace.model import ReservationType
from prtrace.scsi.codes import SCOPE_LU, reservation_type, type_code
from prtrace.scsi.designator import PageNames, lu_name, page_names
from prtrace.scsi.reply import (
    FullStatusDescriptor,
    ReadFullStatus,
    ReadKeys,
    ReadReservation,
    ReportCapabilities,
    ReservationDescriptor,
)
from prtrace.scsi.sense import Sense
from prtrace.scsi.transportid import (
    ISCSI_NAME_MAX,
    FcPort,
    IscsiPort,
    SasPort,
    SopPort,
    SpiPort,
    SrpPort,
    TransportId,
    UnknownPort,
)

Fact = TypeVar("Fact")

HEADER: Final = struct.Struct("=BI")
"""Of a question and of an answer; see the module."""
LONGEST_QUESTION: Final = 0xFFFF + 4
"""Bytes behind the header: the longest VPD page."""
LONGEST_ANSWER: Final = 1 << 18
"""The same of an answer: full status of the longest reply has less than 200,000."""
_FACTS, _MALFORMED = 0, 1
_LONGEST_TEXT: Final = 2048
"""Bytes of a name or of a problem: a designator has 255, and one that is escaped 4 for each."""

_KEYS: Final = struct.Struct("=IIB")
_KEY: Final = struct.Struct("=Q")
_RESERVATION: Final = struct.Struct("=IBQBB")
_REPORT: Final = struct.Struct("=BBH")
_CAPABILITIES: Final = ("rlr_c", "crh", "sip_c", "atp_c", "ptpl_c", "tmv", "ptpl_a")
_ALLOW_COMMANDS: Final = 7
_FULL_STATUS: Final = struct.Struct("=IIBI")
_REGISTRATION: Final = struct.Struct("=QHBBBBQQQH")
"""Key, relative target port; 1 for the holder and 2 for ALL_TG_PT; TYPE and SCOPE, of the holder;
of the initiator port the protocol or _UNKNOWN, the upper and lower half of its number, _NONE or
the ISID (of parallel SCSI the relative target port), the bytes of its name."""
_HOLDER, _ALL = 1, 2
_UNKNOWN: Final = 0xFF
_NONE: Final = (1 << 64) - 1
_SENSE: Final = struct.Struct("=BBhh")
_PAGE: Final = struct.Struct("=HHi")
_NO_NAME: Final = 0xFFFF
_NIBBLE: Final = 0xF
_MOST_REGISTRATIONS: Final = 0xFFFF // 24


class Parser(NamedTuple):
    """Who makes facts of a device's bytes; without arguments, the caller itself.

    Each raises MalformedError as the function does that is named here, and DeviceError where it
    is another process that did not answer.
    """

    keys: Callable[[bytes], ReadKeys] = ReadKeys.parse
    reservation: Callable[[bytes], ReadReservation] = ReadReservation.parse
    capabilities: Callable[[bytes], ReportCapabilities] = ReportCapabilities.parse
    full_status: Callable[[bytes], ReadFullStatus] = ReadFullStatus.parse
    sense: Callable[[bytes], Sense] = Sense.parse
    lu_name: Callable[[bytes], str] = lu_name


IN_PLACE: Final = Parser()


@dataclass(frozen=True, slots=True)
class Question(Generic[Fact]):
    """What is asked of bytes.

    parse: makes facts of them.  pack, unpack: the facts' bytes; unpack raises ValueError, or
    struct.error, for what pack does not make.
    """

    number: int
    parse: Callable[[bytes], Fact]
    pack: Callable[[Fact], bytes]
    unpack: Callable[[bytes], Fact]

    def message(self, raw: bytes) -> bytes:
        """The question about raw."""
        return HEADER.pack(self.number, len(raw)) + raw


def answer_to(number: int, raw: bytes) -> bytes:
    """The answer to the question with this number about raw.  LookupError: there is none."""
    question = _QUESTIONS[number]
    try:
        body = question.pack(question.parse(raw))
    except MalformedError as error:
        problem = f"{error.what}\n{error.problem}".encode("ascii", "replace")[:_LONGEST_TEXT]
        return HEADER.pack(_MALFORMED, len(problem)) + problem
    return HEADER.pack(_FACTS, len(body)) + body


def facts_in(question: Question[Fact], kind: int, body: bytes) -> Fact:
    """The facts in an answer, whose header had kind.

    Raises MalformedError where it says that the bytes are malformed, and ValueError for what is no
    answer to question.
    """
    if kind == _MALFORMED:
        what, _, problem = body.partition(b"\n")
        raise MalformedError(_text(what), _text(problem))
    if kind != _FACTS:
        raise ValueError(f"an answer of kind {kind}")
    try:
        facts = question.unpack(body)
        honest = question.pack(facts)
    except (struct.error, OverflowError) as error:
        raise ValueError(str(error)) from None
    if honest != body:
        raise ValueError("an answer that says one thing in another way")
    return facts


def _text(body: bytes) -> str:
    text = body.decode("ascii")  # UnicodeDecodeError is a ValueError
    if len(text) > _LONGEST_TEXT or not text.isprintable():
        raise ValueError("a text that is too long, or cannot be printed")
    return text


def _require(what: str, *, true: bool) -> None:
    if not true:
        raise ValueError(f"an answer with {what} that no device can have sent")


def _pack_keys(reply: ReadKeys) -> bytes:
    head = _KEYS.pack(reply.generation, reply.additional_length, reply.truncated)
    return head + b"".join(map(_KEY.pack, reply.keys))


def _unpack_keys(body: bytes) -> ReadKeys:
    generation, claimed, truncated = _KEYS.unpack_from(body)
    keys = tuple(key for (key,) in _KEY.iter_unpack(body[_KEYS.size :]))
    there = _KEY.size * len(keys)
    lengths = claimed % _KEY.size == 0 and there <= min(claimed, LONGEST_QUESTION)
    _require("a length", true=lengths and bool(truncated) == (claimed > there))
    return ReadKeys(generation, keys, claimed, truncated=bool(truncated))


def _pack_reservation(reply: ReadReservation) -> bytes:
    held = reply.reservation
    if held is None:
        return _RESERVATION.pack(reply.generation, 0, 0, 0, 0)
    return _RESERVATION.pack(reply.generation, 1, held.key, type_code(held.type), held.scope)


def _unpack_reservation(body: bytes) -> ReadReservation:
    generation, reserved, key, kind, scope = _RESERVATION.unpack(body)
    _require("a type or scope", true=kind <= _NIBBLE and scope <= _NIBBLE)
    held = ReservationDescriptor(key, reservation_type(kind), scope) if reserved else None
    return ReadReservation(generation, held)


def _pack_capabilities(reply: ReportCapabilities) -> bytes:
    flags = sum(1 << bit for bit, name in enumerate(_CAPABILITIES) if getattr(reply, name))
    types = sum(1 << kind.value for kind in reply.types)
    return _REPORT.pack(flags, reply.allow_commands, types)


def _unpack_capabilities(body: bytes) -> ReportCapabilities:
    flags, allowed, types = _REPORT.unpack(body)
    _require("ALLOW COMMANDS", true=allowed <= _ALLOW_COMMANDS)
    named: dict[str, Any] = {
        name: bool(flags >> bit & 1) for bit, name in enumerate(_CAPABILITIES)
    }
    kinds = frozenset(kind for kind in ReservationType if types >> kind.value & 1)
    return ReportCapabilities(**named, allow_commands=allowed, types=kinds)


def _is_iscsi(name: bytes) -> bool:
    return 0 < len(name) <= ISCSI_NAME_MAX and 0 not in name


class _Port(NamedTuple):
    """An initiator port as _REGISTRATION has it."""

    protocol: int
    number: int = 0
    more: int = _NONE
    name: bytes = b""


def _packed_port(port: TransportId) -> _Port:
    match port:
        case FcPort() | SasPort():
            return _Port(port.PROTOCOL, port.address)
        case SpiPort():
            return _Port(port.PROTOCOL, port.address, port.relative_target_port)
        case SrpPort():
            return _Port(port.PROTOCOL, port.identifier)
        case SopPort():
            return _Port(port.PROTOCOL, port.routing_id)
        case IscsiPort():
            more = _NONE if port.isid is None else port.isid
            return _Port(port.PROTOCOL, more=more, name=port.name)
        case UnknownPort():
            return _Port(_UNKNOWN, name=port.raw)
    assert_never(port)


def _unpacked_port(port: _Port) -> TransportId:
    protocol, number, more, name = port
    match protocol:
        case FcPort.PROTOCOL if number < 1 << 64:
            return FcPort(number)
        case SasPort.PROTOCOL if number < 1 << 64:
            return SasPort(number)
        case SpiPort.PROTOCOL if number < 1 << 16 and more < 1 << 16:
            return SpiPort(number, more)
        case SrpPort.PROTOCOL:
            return SrpPort(number)
        case SopPort.PROTOCOL if number < 1 << 16:
            return SopPort(number)
        case IscsiPort.PROTOCOL if _is_iscsi(name) and (more == _NONE or more < 1 << 48):
            return IscsiPort(name, None if more == _NONE else more)
        case 0xFF if name:
            return UnknownPort(name)
        case _:
            raise ValueError("an answer with an initiator port that no device can have sent")


def _pack_full_status(reply: ReadFullStatus) -> bytes:
    descriptors = reply.descriptors
    head = _FULL_STATUS.pack(
        reply.generation, reply.additional_length, reply.truncated, len(descriptors)
    )
    ports = [_packed_port(each.transport_id) for each in descriptors]
    fixed = (
        _REGISTRATION.pack(
            each.key,
            each.relative_target_port,
            (_HOLDER if each.holder else 0) | (_ALL if each.all_tg_pt else 0),
            type_code(each.type),
            each.scope,
            port.protocol,
            port.number >> 64,
            port.number & _NONE,
            port.more,
            len(port.name),
        )
        for each, port in zip(descriptors, ports, strict=True)
    )
    return head + b"".join(fixed) + b"".join(port.name for port in ports)


def _unpack_full_status(body: bytes) -> ReadFullStatus:
    generation, claimed, truncated, count = _FULL_STATUS.unpack_from(body)
    _require("so many registrations", true=count <= _MOST_REGISTRATIONS)
    name_at = _FULL_STATUS.size + count * _REGISTRATION.size
    descriptors = []
    for fields in _REGISTRATION.iter_unpack(body[_FULL_STATUS.size : name_at]):
        key, relative, flags, kind, scope, protocol, upper, lower, more, length = fields
        name = body[name_at : name_at + length]
        name_at += length
        holder = bool(flags & _HOLDER)
        _require("a type or scope", true=kind <= _NIBBLE and scope <= _NIBBLE)
        _require("a type or scope", true=holder or (kind, scope) == (0, SCOPE_LU))
        descriptors.append(
            FullStatusDescriptor(
                key,
                relative,
                _unpacked_port(_Port(protocol, upper << 64 | lower, more, name)),
                holder=holder,
                all_tg_pt=bool(flags & _ALL),
                type=reservation_type(kind) if holder else None,
                scope=scope,
            )
        )
    return ReadFullStatus(generation, tuple(descriptors), claimed, bool(truncated))


def _pack_sense(sense: Sense) -> bytes:
    asc, ascq = (-1 if code is None else code for code in (sense.asc, sense.ascq))
    return _SENSE.pack(sense.response_code, sense.key, asc, ascq)


def _unpack_sense(body: bytes) -> Sense:
    response, key, asc, ascq = _SENSE.unpack(body)
    codes = -1 <= asc <= 0xFF and -1 <= ascq <= 0xFF and (asc >= 0 or ascq < 0)
    _require("sense data", true=0x70 <= response <= 0x73 and key <= _NIBBLE and codes)
    return Sense(response, key, None if asc < 0 else asc, None if ascq < 0 else ascq)


def _pack_name(name: str) -> bytes:
    return name.encode("ascii")


def _unpack_name(body: bytes) -> str:
    name = _text(body)
    _require("a name", true=bool(name) and " " not in name)
    return name


def _pack_page(told: PageNames) -> bytes:
    names = [None if name is None else _pack_name(name) for name in (told.lu, told.target_port)]
    sizes = [_NO_NAME if name is None else len(name) for name in names]
    port = -1 if told.relative_target_port is None else told.relative_target_port
    return _PAGE.pack(*sizes, port) + b"".join(name for name in names if name is not None)


def _unpack_page(body: bytes) -> PageNames:
    *sizes, port = _PAGE.unpack_from(body)
    _require("a relative target port", true=-1 <= port <= 0xFFFF)
    names: list[str | None] = []
    at = _PAGE.size
    for size in sizes:
        names.append(None if size == _NO_NAME else _unpack_name(body[at : at + size]))
        at += 0 if size == _NO_NAME else size
    lu, target_port = names
    return PageNames(lu, target_port, None if port < 0 else port)


KEYS: Final = Question(1, ReadKeys.parse, _pack_keys, _unpack_keys)
RESERVATION: Final = Question(2, ReadReservation.parse, _pack_reservation, _unpack_reservation)
CAPABILITIES: Final = Question(
    3, ReportCapabilities.parse, _pack_capabilities, _unpack_capabilities
)
FULL_STATUS: Final = Question(4, ReadFullStatus.parse, _pack_full_status, _unpack_full_status)
SENSE: Final = Question(5, Sense.parse, _pack_sense, _unpack_sense)
PAGE_NAMES: Final = Question(7, page_names, _pack_page, _unpack_page)
LU_NAME: Final = Question(6, lu_name, _pack_name, _unpack_name)

_ALL_QUESTIONS: Final[tuple[Question[Any], ...]] = (
    KEYS, RESERVATION, CAPABILITIES, FULL_STATUS, SENSE, LU_NAME, PAGE_NAMES,
)  # fmt: skip
_QUESTIONS: Final = {question.number: question for question in _ALL_QUESTIONS}
