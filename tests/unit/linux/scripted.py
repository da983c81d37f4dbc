"""A device in memory for whatever sends commands by the protocol prtrace.linux.reader.Device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from prtrace.linux.sgio import Reply
from prtrace.model import ReservationType
from prtrace.scsi.cdb import PrInCdb, parse_cdb
from prtrace.scsi.codes import InAction, Opcode
from prtrace.scsi.reply import (
    FullStatusDescriptor,
    ReadFullStatus,
    ReadKeys,
    ReadReservation,
    ReportCapabilities,
    ReservationDescriptor,
)
from prtrace.scsi.sense import FIXED, ILLEGAL_REQUEST, UNIT_ATTENTION, Sense
from prtrace.scsi.transportid import SasPort

NOT_KNOWN = Sense(FIXED, ILLEGAL_REQUEST, 0x20, 0x00)


def good(received: bytes = b"") -> Reply:
    return Reply(0, 0, 0, b"", received, 1)


def check(sense: Sense) -> Reply:
    return Reply(0x02, 0, 8, sense.build(), b"", 1)


def attention(asc: int, ascq: int) -> Reply:
    return check(Sense(FIXED, UNIT_ATTENTION, asc, ascq))


def registrant(number: int, key: int, **more: object) -> FullStatusDescriptor:
    return FullStatusDescriptor(key, 1, SasPort(0x6001405000000000 + number), **more)  # type: ignore[arg-type]


@dataclass
class ScriptedTarget:
    """registered: what READ FULL STATUS lists.  The flags are faults that real targets have.

    answers: replies to be given to the next commands instead.  unknown: service actions that the
    target does not know.  swapped: SPDK's byte order.  cuts: as LIO does with a short buffer,
    ADDITIONAL LENGTH is that of what fitted.  hidden: how many registrations READ FULL STATUS
    leaves out.  before: called with each command before it is answered.
    """

    registered: list[FullStatusDescriptor] = field(default_factory=list)
    reservation: ReservationDescriptor | None = None
    generation: int = 7
    page: bytes = b""
    path: str = "/dev/scripted"
    unknown: frozenset[InAction] = frozenset()
    swapped: bool = False
    cuts: bool = False
    hidden: int = 0
    answers: deque[Reply] = field(default_factory=deque)
    before: Callable[[InAction], None] = lambda _: None
    sent: list[str] = field(default_factory=list)
    rooms: list[int] = field(default_factory=list)

    def send(self, cdb: bytes, data_out: bytes, room: int, timeout_ms: int) -> Reply:
        if cdb[0] == Opcode.INQUIRY:
            self.sent.append("INQUIRY")
            return good(self.page[:room])
        command = parse_cdb(cdb)
        assert isinstance(command, PrInCdb)
        assert isinstance(command.action, InAction)
        assert command.allocation_length == room
        assert not data_out
        self.sent.append(command.action.title)
        self.rooms.append(room)
        self.before(command.action)
        if self.answers:
            return self.answers.popleft()
        if command.action in self.unknown:
            return check(NOT_KNOWN)
        return good(self._reply(command.action, room)[:room])

    def hold(self, number: int, kind: ReservationType) -> None:
        """Let registration number hold a reservation, as both replies tell it."""
        key = 0 if kind.all_registrants else self.registered[number].key
        self.reservation = ReservationDescriptor(key, kind)
        each = self.registered[number]
        self.registered[number] = FullStatusDescriptor(
            each.key, each.relative_target_port, each.transport_id, holder=True, type=kind
        )

    def _reply(self, action: InAction, room: int) -> bytes:
        match action:
            case InAction.READ_KEYS:
                keys = [each.key for each in self.registered]
                if self.cuts:
                    keys = keys[: (room - 8) // 8]
                return ReadKeys.of(self.generation, *keys).build()
            case InAction.READ_RESERVATION:
                return ReadReservation(self.generation, self.reservation).build()
            case InAction.REPORT_CAPABILITIES:
                return ReportCapabilities(ptpl_c=True, ptpl_a=True).build()
            case InAction.READ_FULL_STATUS:
                return self._full_status(room)

    def _full_status(self, room: int) -> bytes:
        told = self.registered[: len(self.registered) - self.hidden]
        if self.swapped:
            told = [
                FullStatusDescriptor(
                    int.from_bytes(each.key.to_bytes(8, "big"), "little"),
                    int.from_bytes(each.relative_target_port.to_bytes(2, "big"), "little"),
                    each.transport_id,
                    holder=each.holder,
                    type=each.type,
                )
                for each in told
            ]
        if self.cuts:
            fitting: list[FullStatusDescriptor] = []
            size = 8
            for each in told:
                size += len(each.build())
                if size > room:
                    break
                fitting.append(each)
            told = fitting
        return ReadFullStatus.of(self.generation, *told).build()
