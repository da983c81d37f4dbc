"""Asking a device for its persistent reservation state: the one place that sends PR IN.

A Reader sends READ KEYS, READ RESERVATION and READ FULL STATUS through anything that can send a
command (Device), takes unit attentions as its ReadPolicy says, asks again with more room where a
reply may be cut, and puts the replies together:

* PrState: the replies agree.  What the target does not tell is None in it.
* Disagreement: the replies contradict each other, or the state changes faster than it is read.
* ReadFailure: the device did not answer one of the commands; kind says how.

Replies are compared because targets are known to be wrong: LIO ends READ FULL STATUS at a nexus
whose TransportID it cannot build (core_scsi3_pri_read_full_status), SPDK gives READ FULL STATUS's
keys and relative target ports in the byte order of its processor (lib/scsi/scsi_pr.c,
spdk_scsi_pr_in_read_full_status).  PRGENERATION does not move at a RESERVE or RELEASE, and on LIO
not at an unregistration, so replies of one generation can differ because something happened
between them: what differs is read again before it is called a contradiction.
"""

from __future__ import annotations

import enum
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, TypeVar, assert_never

from prtrace.errors import (
    ConflictError,
    DeviceError,
    MalformedError,
    NoSuchDeviceError,
    PrtraceError,
)
from prtrace.linux.sgio import DEFAULT_TIMEOUT_MS
from prtrace.linux.sgio import Reply as Answer
from prtrace.model import ReservationType
from prtrace.scsi.cdb import PrInCdb
from prtrace.scsi.codes import InAction, Opcode, ReservedCode, Status, status_title
from prtrace.scsi.designator import PAGE_CODE
from prtrace.scsi.facts import IN_PLACE, Parser
from prtrace.scsi.forms import EVPD, INQUIRY_CDB
from prtrace.scsi.reply import (
    FullStatusDescriptor,
    ReadFullStatus,
    ReadKeys,
    ReadReservation,
    ReportCapabilities,
    ReservationDescriptor,
)
from prtrace.scsi.sense import ILLEGAL_REQUEST, Sense
from prtrace.scsi.transportid import TransportId

FIRST_ROOM: Final = 8128
LARGEST_ROOM: Final = 65_472
"""Allocation lengths in bytes: nearly every reply fits the first; the field has 16 bits.

Both leave 64 bytes of the last page free.  LIO writes a whole descriptor behind a reply that is
cut (see prtrace.linux.sgio); with whole pages it would write into a page of its host that is not
part of the transfer.
"""

_PAGE_ROOM: Final = 1020
"""ALLOCATION LENGTH of INQUIRY: some forty designators."""
_DID_TIME_OUT: Final = 0x03
_DRIVER_TIMEOUT: Final = 0x06  # kernels before 5.14
_DRIVER_MASK: Final = 0x0F
_OTHER_UNIT: Final = frozenset({(0x3F, 0x03), (0x3F, 0x0E)})
"""INQUIRY DATA HAS CHANGED, REPORTED LUNS DATA HAS CHANGED."""
_AWAY: Final = (0x25, 0x00)
"""LOGICAL UNIT NOT SUPPORTED: an ILLEGAL REQUEST that says nothing of the command.  A target whose
unit is unmapped for a moment, or not configured yet, answers so."""


Known = TypeVar("Known", ReadKeys, ReadFullStatus, ReadReservation, ReportCapabilities)


class Device(Protocol):
    """What sends commands for a Reader: an SgDevice, or somebody who has the privilege."""

    @property
    def path(self) -> str:
        """A name of the device for messages."""
        ...

    def send(self, cdb: bytes, data_out: bytes, room: int, timeout_ms: int) -> Answer:
        """Send a command with data_out, or one that fills at most room bytes.

        Raises DeviceError and NoSuchDeviceError where no answer came, UnavailableError where
        the host does not let the command through.
        """
        ...


class ReadPolicy(NamedTuple):
    """How far a Reader goes."""

    attentions: int = 8
    """Unit attentions that are taken in one reading; the next one ends it as a failure.

    0: none.  A unit attention that is taken is lost for whoever else uses the nexus."""
    busy: int = 8
    """How often a command is sent again after BUSY or TASK SET FULL."""
    busy_wait_s: float = 0.05
    rounds: int = 4
    """How often everything is read before a difference is a Disagreement."""
    timeout_ms: int = DEFAULT_TIMEOUT_MS
    lu: str = ""
    """The unit's designator, where the device is to be that unit and no other.

    VPD page 83h is read before and after each reading, and after 3F/03 and 3F/0E: an array can map
    another unit to an address and raise no unit attention.  "": not checked."""


POLITE: Final = ReadPolicy()
"""The policy of a caller that wishes for nothing else."""


class FailureKind(enum.Enum):
    """How a reading failed."""

    UNIT_ATTENTION = "unit attention"
    """One more than the policy takes."""
    BUSY = "busy"
    """BUSY or TASK SET FULL, as often as the policy asks."""
    CONFLICT = "conflict"
    """RESERVATION CONFLICT: an SPC-2 RESERVE of another nexus is active."""
    UNSUPPORTED = "unsupported"
    """ILLEGAL REQUEST: the device does not know persistent reservations, or not this command."""
    REFUSED = "refused"
    """Any other status or sense: not ready, hardware error, no such logical unit now, …"""
    TIMEOUT = "timeout"
    """The kernel gave up waiting; what it did to the device to abort the command is not known."""
    TRANSPORT = "transport"
    """The host adapter or a driver, not the device, decided."""
    GONE = "gone"
    """There is no such device any more."""
    OTHER_UNIT = "other unit"
    """Behind the address is another logical unit than the policy names."""
    MALFORMED = "malformed"
    """The reply contradicts itself or is too short."""
    TOO_LONG = "too long"
    """The reply does not fit into the longest that a PR IN command can ask for."""


_ANSWERED: Final = frozenset(FailureKind) - {
    FailureKind.TIMEOUT,
    FailureKind.TRANSPORT,
    FailureKind.GONE,
    FailureKind.OTHER_UNIT,
}
"""Where the device has answered and may answer once more."""


class ReadFailure(NamedTuple):
    """The device did not answer a command as it should.

    command: the standard's name of it.  problem: what happened, for people.  sense: what the
    device said, None where it said nothing that can be read.
    """

    kind: FailureKind
    command: str
    problem: str
    sense: Sense | None = None
    found: str = ""
    """The unit that is behind the address, where kind is OTHER_UNIT."""

    @property
    def text(self) -> str:
        """For people: "READ KEYS: ILLEGAL REQUEST 20/00 INVALID COMMAND OPERATION CODE"."""
        return f"{self.command}: {self.problem}"

    def error(self, device: str) -> PrtraceError:
        """The exception for a caller that cannot go on; device: its name."""
        message = f"{device}: {self.text}"
        match self.kind:
            case FailureKind.CONFLICT:
                return ConflictError(
                    message,
                    hint="another nexus has an SPC-2 RESERVE (6 or 10) active, which shuts out "
                    "even PERSISTENT RESERVE IN; it ends with RELEASE or a reset",
                )
            case FailureKind.UNSUPPORTED:
                return DeviceError(message, hint="the device has no persistent reservations")
            case FailureKind.GONE | FailureKind.OTHER_UNIT:
                return NoSuchDeviceError(message)
            case FailureKind.MALFORMED:
                return MalformedError(f"{device}: {self.command}", self.problem)
            case FailureKind.TIMEOUT:
                return DeviceError(message, hint="try another path to the unit, or a longer time")
            case FailureKind.UNIT_ATTENTION | FailureKind.BUSY:
                return DeviceError(message, hint="try again")
            case FailureKind.REFUSED | FailureKind.TRANSPORT | FailureKind.TOO_LONG:
                return DeviceError(message)
        assert_never(self.kind)


class ReportedRegistration(NamedTuple):
    """One registration.  A None is what the target does not tell."""

    key: int
    transport_id: TransportId | None = None
    """The initiator port; None where READ FULL STATUS is not to be had, or not whole."""
    relative_target_port: int | None = None
    """None too where all_target_ports is set."""
    all_target_ports: bool = False
    holder: bool | None = None
    """Whether the nexus holds the reservation (of all registrants' types each does)."""
    type: ReservationType | ReservedCode | None = None
    """The reservation's as READ FULL STATUS tells it, where holder is set."""
    scope: int | None = None
    """The same."""


class ByteOrder(enum.Enum):
    """In which byte order READ FULL STATUS has keys and relative target ports."""

    STANDARD = "standard"
    SWAPPED = "swapped"
    """As SPDK has them: READ FULL STATUS agrees with READ KEYS when they are turned round."""
    UNPROVEN = "unproven"
    """Every key reads the same both ways, or there is no registration: STANDARD is assumed."""


class Replies(NamedTuple):
    """The replies of one round as they came."""

    keys: ReadKeys
    status: ReadFullStatus | None
    """None where the device does not know READ FULL STATUS."""
    held: ReadReservation

    @property
    def registrations(self) -> tuple[ReportedRegistration, ...] | None:
        """READ FULL STATUS's registrations as they stand there, None without it."""
        return None if self.status is None else _named(self.status, ByteOrder.STANDARD)

    @property
    def generations(self) -> frozenset[int]:
        """Every PRGENERATION in them."""
        told = (self.keys, self.status, self.held)
        return frozenset(reply.generation for reply in told if reply is not None)


class Way(NamedTuple):
    """What happened on the way to a result."""

    attentions: tuple[Sense, ...] = ()
    """Unit attentions that were taken, in order."""
    sent: int = 0
    """PR IN commands that were sent and came back."""
    unsupported: frozenset[InAction] = frozenset()
    """Commands that the device does not know."""


class PrState(NamedTuple):
    """The reservation state of a unit at one PRGENERATION; the replies agree on it."""

    generation: int
    registrations: tuple[ReportedRegistration, ...]
    reservation: ReservationDescriptor | None
    """None: nothing is reserved.  key is 0 for the two all-registrants types."""
    named: bool
    """Whether READ FULL STATUS tells the nexus of every registration."""
    keys: tuple[int, ...]
    """As READ KEYS lists them, or READ FULL STATUS where look sent that alone."""
    byte_order: ByteOrder
    way: Way


class Disagreement(NamedTuple):
    """The replies contradict each other; nothing may be concluded from them."""

    reasons: tuple[str, ...]
    replies: Replies
    way: Way


class Unread(NamedTuple):
    """There is no result, for failure's reason."""

    failure: ReadFailure
    way: Way
    proven: bool = False
    """Whether the replies that came before the failure are those of the unit that the policy
    names: the device has said so since, or the policy names none."""


Reading = PrState | Disagreement | Unread


class _FailedError(Exception):
    """Ends a reading inside this module."""

    def __init__(
        self,
        kind: FailureKind,
        command: str,
        problem: str,
        sense: Sense | None = None,
        found: str = "",
    ) -> None:
        self.failure = ReadFailure(kind, command, problem, sense, found)
        super().__init__(self.failure.text)


@dataclass(slots=True)
class Reader:
    """Asks one device; it remembers what the device cannot do and how it writes keys.

    sleep waits between two tries of a busy device, in seconds.  parser: who makes facts of the
    device's bytes; this module looks into none, so that it may run with rights that a parser must
    not have.  Where a parser does not answer, every method raises its DeviceError.
    """

    device: Device
    policy: ReadPolicy = POLITE
    sleep: Callable[[float], None] = time.sleep
    parser: Parser = IN_PLACE
    _order: ByteOrder = ByteOrder.UNPROVEN
    _attentions: list[Sense] = field(default_factory=list)
    _unsupported: set[InAction] = field(default_factory=set)
    _sent: int = 0

    def read(self, *, capabilities: bool = False) -> Reading:
        """READ KEYS, READ RESERVATION and READ FULL STATUS, until they agree.

        capabilities: REPORT CAPABILITIES is sent as well, for whoever sees its reply; a device
        need not know it.  Raises UnavailableError where the host does not let the commands
        through.
        """
        return self._reading(self._whole_and_capabilities if capabilities else self._whole)

    def look(self) -> Reading:
        """As read, with READ FULL STATUS alone where an earlier read proved that it is right.

        One command then; a reply that is not whole, or that contradicts itself, has the others
        sent as well.  Raises as read.
        """
        return self._reading(self._short)

    def capabilities(self) -> ReportCapabilities | ReadFailure:
        """REPORT CAPABILITIES, of the unit that the policy names.  Raises as read."""
        self._begin()
        try:
            self._require_unit()
            found = self._command(InAction.REPORT_CAPABILITIES, self.parser.capabilities)
            self._require_unit()
        except _FailedError as error:
            return error.failure
        return found

    def other_unit(self) -> ReadFailure | None:
        """Why a command sent now may not meet the unit that the policy names; None where it will.

        One INQUIRY, right before the command.  Raises as read.
        """
        self._begin()
        try:
            self._require_unit()
        except _FailedError as error:
            return error.failure
        return None

    @property
    def way(self) -> Way:
        """What happened in the last call."""
        return Way(tuple(self._attentions), self._sent, frozenset(self._unsupported))

    def _begin(self) -> None:
        self._attentions.clear()
        self._sent = 0

    def _reading(self, read: Callable[[], Reading]) -> Reading:
        self._begin()
        try:
            self._require_unit()
            found = read()
            self._require_unit()
        except _FailedError as error:
            return self._unread(error.failure)
        return found

    def _unread(self, failure: ReadFailure) -> Unread:
        """failure; where the device answers still, it is asked whose its replies were."""
        if not self.policy.lu:
            return Unread(failure, self.way, proven=True)
        if failure.kind not in _ANSWERED or failure.command == "INQUIRY":
            return Unread(failure, self.way)
        try:
            self._require_unit()
        except _FailedError as error:
            other = error.failure.kind is FailureKind.OTHER_UNIT
            return Unread(error.failure if other else failure, self.way)
        return Unread(failure, self.way, proven=True)

    def _whole_and_capabilities(self) -> Reading:
        found = self._whole()
        try:
            self._command(InAction.REPORT_CAPABILITIES, ReportCapabilities.parse)
        except _FailedError as error:
            if error.failure.kind is FailureKind.OTHER_UNIT:
                raise
        return found

    def _short(self) -> Reading:
        if self._order is ByteOrder.UNPROVEN or InAction.READ_FULL_STATUS in self._unsupported:
            return self._whole()
        status = self._full_status()
        if status is None or _is_cut(status):
            return self._whole()
        held, reasons = _held_by(status)
        if reasons:
            return self._whole()
        if held is not None and self._order is ByteOrder.SWAPPED:
            held = ReservationDescriptor(_turned(held.key, 8), held.type, held.scope)
        named = _named(status, self._order)
        return PrState(
            status.generation, named, held, True, _keys_of(named), self._order, self.way
        )

    def _whole(self) -> Reading:
        rounds = 0
        while True:
            replies = self._round()
            rounds += 1
            reasons = self._compare(replies)
            if not reasons:
                return self._together(replies)
            if rounds >= self.policy.rounds:
                return Disagreement(tuple(reasons), replies, self.way)

    def _round(self) -> Replies:
        keys = self._command(InAction.READ_KEYS, self.parser.keys)
        held = self._command(InAction.READ_RESERVATION, self.parser.reservation)
        # Last, because it alone names the holder: the key of READ RESERVATION may be that of
        # several nexuses, and whoever watches would be in doubt again after each round.
        status = self._full_status()
        if keys.may_be_cut(LARGEST_ROOM):
            problem = f"the reply is longer than {LARGEST_ROOM} bytes"
            raise _FailedError(FailureKind.TOO_LONG, InAction.READ_KEYS.title, problem)
        return Replies(keys, status, held)

    def _full_status(self) -> ReadFullStatus | None:
        """None where the device does not know the command."""
        if InAction.READ_FULL_STATUS in self._unsupported:
            return None
        try:
            return self._command(InAction.READ_FULL_STATUS, self.parser.full_status)
        except _FailedError as error:
            if error.failure.kind is not FailureKind.UNSUPPORTED:
                raise
            self._unsupported.add(InAction.READ_FULL_STATUS)
            return None

    def _compare(self, replies: Replies) -> list[str]:
        """Why the replies of a round cannot all be true; notes the byte order that they prove."""
        keys, status, held = replies.keys, replies.status, replies.held
        if len(replies.generations) > 1:
            told = ", ".join(str(generation) for generation in sorted(replies.generations))
            return [f"the state changes faster than it can be read (PRGENERATION {told})"]
        if status is None:
            return _of_keys(keys, held)
        standard = _named(status, ByteOrder.STANDARD)
        swapped = _named(status, ByteOrder.SWAPPED)
        problems = _of_all(keys, standard, status, held)
        if _of_all(keys, swapped, status, held):
            if not problems:
                self._order = ByteOrder.STANDARD
            return problems
        if problems:
            self._order = ByteOrder.SWAPPED
        elif self._order is ByteOrder.UNPROVEN and _keys_of(standard) != _keys_of(swapped):
            return ["READ FULL STATUS fits READ KEYS in either byte order"]
        return []

    def _together(self, replies: Replies) -> PrState:
        keys, status, reservation = replies.keys, replies.status, replies.held.reservation
        if status is None:
            registrations = _nameless(keys, reservation)
            named = not registrations
        else:
            registrations = _named(status, self._order)
            named = not _is_cut(status)
            if not named:
                rest = Counter(keys.keys) - Counter(_keys_of(registrations))
                registrations += tuple(ReportedRegistration(key) for key in rest.elements())
        return PrState(
            keys.generation, registrations, reservation, named, keys.keys, self._order, self.way
        )

    def _command(self, action: InAction, parse: Callable[[bytes], Known]) -> Known:
        """The reply to one PR IN, whole unless it does not fit into the largest."""
        room = FIRST_ROOM
        while True:
            raw = self._executed(action.title, PrInCdb(action, room).build(), room)
            try:
                reply = parse(raw)
            except MalformedError as error:
                raise _FailedError(FailureKind.MALFORMED, action.title, error.message) from error
            if room == LARGEST_ROOM or not _may_be_cut(reply, room):
                return reply
            room = LARGEST_ROOM

    def _executed(self, command: str, cdb: bytes, room: int) -> bytes:
        """What the device answered with GOOD, unit attentions and busy answers aside."""
        busy = 0
        while True:
            answer = self._send(command, cdb, room)
            failure = _failure(command, answer, self.parser)
            if failure is None:
                return answer.received
            if failure.kind is FailureKind.BUSY and busy < self.policy.busy:
                busy += 1
                self.sleep(self.policy.busy_wait_s)
            elif (
                failure.kind is FailureKind.UNIT_ATTENTION
                and len(self._attentions) < self.policy.attentions
            ):
                self._take(failure.sense)
            else:
                raise _FailedError(*failure)

    def _send(self, command: str, cdb: bytes, room: int) -> Answer:
        try:
            answer = self.device.send(cdb, b"", room, self.policy.timeout_ms)
        except NoSuchDeviceError as error:
            raise _FailedError(FailureKind.GONE, command, error.message) from error
        except DeviceError as error:
            raise _FailedError(FailureKind.TRANSPORT, command, error.message) from error
        if cdb[0] == Opcode.PR_IN:
            self._sent += 1
        return answer

    def _take(self, sense: Sense | None) -> None:
        """Note a unit attention; make sure of the unit where it says that it may be another."""
        if sense is None:
            return
        self._attentions.append(sense)
        if _asc(sense) in _OTHER_UNIT:
            self._require_unit(sense)

    def _require_unit(self, sense: Sense | None = None) -> None:
        """Make sure of the unit that the policy names; sense: why it may be another.

        INQUIRY is answered whatever unit attention waits, and takes none (SAM-5 5.14).
        """
        if not self.policy.lu:
            return
        cdb = INQUIRY_CDB.build(
            operation_code=Opcode.INQUIRY,
            flags=EVPD,
            page_code=PAGE_CODE,
            allocation_length=_PAGE_ROOM,
        )
        page = self._executed("INQUIRY", cdb, _PAGE_ROOM)
        try:
            found = self.parser.lu_name(page)
        except MalformedError as error:
            raise _FailedError(FailureKind.MALFORMED, "INQUIRY", error.message) from error
        if found != self.policy.lu:
            problem = f"this is {found} now, and no longer {self.policy.lu}"
            raise _FailedError(FailureKind.OTHER_UNIT, "INQUIRY", problem, sense, found)


def _failure(command: str, answer: Answer, parser: Parser) -> ReadFailure | None:
    """What an answer other than GOOD is; None for GOOD."""
    if answer.transport_fault:
        timed_out = (
            answer.host_status == _DID_TIME_OUT
            or answer.driver_status & _DRIVER_MASK == _DRIVER_TIMEOUT
        )
        return ReadFailure(
            FailureKind.TIMEOUT if timed_out else FailureKind.TRANSPORT,
            command,
            f"{'no answer in time' if timed_out else 'the transport failed'} ({answer.text})",
        )
    match answer.status:
        case Status.GOOD:
            return None
        case Status.RESERVATION_CONFLICT:
            return ReadFailure(FailureKind.CONFLICT, command, "RESERVATION CONFLICT")
        case Status.BUSY | Status.TASK_SET_FULL:
            return ReadFailure(FailureKind.BUSY, command, status_title(answer.status))
        case Status.CHECK_CONDITION:
            pass
        case _:
            return ReadFailure(FailureKind.REFUSED, command, answer.text)
    try:
        sense = parser.sense(answer.sense)
    except MalformedError as error:
        return ReadFailure(FailureKind.REFUSED, command, f"CHECK CONDITION, {error.message}")
    kind = FailureKind.REFUSED
    if sense.attention:
        kind = FailureKind.UNIT_ATTENTION
    elif sense.key == ILLEGAL_REQUEST and not sense.deferred and _asc(sense) != _AWAY:
        kind = FailureKind.UNSUPPORTED
    return ReadFailure(kind, command, sense.text, sense)


def _asc(sense: Sense) -> tuple[int | None, int | None]:
    return sense.asc, sense.ascq


def _may_be_cut(
    reply: ReadKeys | ReadFullStatus | ReadReservation | ReportCapabilities, room: int
) -> bool:
    match reply:
        case ReadKeys() | ReadFullStatus():
            return reply.may_be_cut(room)
        case ReadReservation() | ReportCapabilities():
            return False
    assert_never(reply)


def _is_cut(status: ReadFullStatus) -> bool:
    """Whether registrations may be missing; a reply to a smaller room was not cut, or not kept."""
    return status.may_be_cut(LARGEST_ROOM)


def _turned(number: int, size: int) -> int:
    """A field of size bytes, read from its other end."""
    return int.from_bytes(number.to_bytes(size, "big"), "little")


def _named(status: ReadFullStatus, order: ByteOrder) -> tuple[ReportedRegistration, ...]:
    """READ FULL STATUS's registrations, its keys and ports in the given byte order."""
    swapped = order is ByteOrder.SWAPPED

    def one(each: FullStatusDescriptor) -> ReportedRegistration:
        port: int | None = each.relative_target_port
        if each.all_tg_pt:
            port = None
        elif swapped:
            port = _turned(each.relative_target_port, 2)
        return ReportedRegistration(
            _turned(each.key, 8) if swapped else each.key,
            each.transport_id,
            port,
            each.all_tg_pt,
            each.holder,
            each.type if each.holder else None,
            each.scope if each.holder else None,
        )

    return tuple(one(each) for each in status.descriptors)


def _nameless(
    keys: ReadKeys, held: ReservationDescriptor | None
) -> tuple[ReportedRegistration, ...]:
    """READ KEYS's registrations, and which of them hold, as far as the key tells."""

    def holds(key: int) -> bool | None:
        if held is None or _shared(held):
            return held is not None
        if key != held.key:
            return False
        return True if keys.keys.count(key) == 1 else None

    return tuple(ReportedRegistration(key, holder=holds(key)) for key in keys.keys)


def _keys_of(registrations: tuple[ReportedRegistration, ...]) -> tuple[int, ...]:
    return tuple(each.key for each in registrations)


def _of_keys(keys: ReadKeys, held: ReadReservation) -> list[str]:
    """What READ KEYS and READ RESERVATION cannot both say."""
    reservation = held.reservation
    if reservation is None:
        return []
    if not keys.keys:
        return ["READ RESERVATION tells of a reservation, READ KEYS lists no registration"]
    if not _shared(reservation) and reservation.key not in keys.keys:
        return [f"READ RESERVATION names key {reservation.key:#x}, which READ KEYS does not list"]
    return []


def _of_all(
    keys: ReadKeys,
    registrations: tuple[ReportedRegistration, ...],
    status: ReadFullStatus,
    held: ReadReservation,
) -> list[str]:
    """What the three replies cannot all say; registrations: READ FULL STATUS's."""
    reasons = _of_keys(keys, held)
    listed, named = Counter(keys.keys), Counter(_keys_of(registrations))
    if any(each.all_target_ports for each in registrations):
        # One descriptor, and one key for each target port: the numbers may differ.
        listed, named = Counter(set(listed)), Counter(set(named))
    differ = named - listed if _is_cut(status) else (named - listed) + (listed - named)
    if differ:
        reasons.append(
            f"READ KEYS lists {len(keys.keys)} registrations, READ FULL STATUS "
            f"{len(registrations)}; they differ in " + _keys(differ)
        )
    if _is_cut(status):
        return reasons
    told, problems = _held_by(status)
    reasons += problems
    reservation = held.reservation
    if problems or (told is None and reservation is None):
        return reasons
    if told is None or reservation is None:
        one, other = "READ RESERVATION", "READ FULL STATUS"
        if reservation is None:
            one, other = other, one
        reasons.append(f"{one} tells of a reservation, {other} of none")
    elif (told.type, told.scope) != (reservation.type, reservation.scope):
        reasons.append("READ RESERVATION and READ FULL STATUS tell of different types")
    elif not _shared(reservation):
        holder = next(each.key for each in registrations if each.holder)
        if holder != reservation.key:
            reasons.append(
                f"READ RESERVATION names key {reservation.key:#x}, the holder that READ FULL "
                f"STATUS names has {holder:#x}"
            )
    return reasons


def _held_by(status: ReadFullStatus) -> tuple[ReservationDescriptor | None, list[str]]:
    """The reservation by READ FULL STATUS alone, with the key as it stands there; problems."""
    holders = [each for each in status.descriptors if each.holder]
    if not holders:
        return None, []
    first = holders[0]
    if first.type is None:
        return None, ["READ FULL STATUS names a holder and no type"]
    if any((each.type, each.scope) != (first.type, first.scope) for each in holders):
        return None, ["READ FULL STATUS names holders of different types"]
    told = ReservationDescriptor(first.key, first.type, first.scope)
    if _shared(told):
        return ReservationDescriptor(0, first.type, first.scope), []
    if len(holders) > 1:
        return None, [f"READ FULL STATUS names {len(holders)} holders of a reservation of one"]
    return told, []


def _shared(reservation: ReservationDescriptor) -> bool:
    """Whether every registrant holds it, so that no key is named."""
    return getattr(reservation.type, "all_registrants", False)


def _keys(keys: Counter[int]) -> str:
    shown = [f"{key:#x}" for key in sorted(keys)[:4]]
    return ", ".join(shown) + (", …" if len(keys) > len(shown) else "")
