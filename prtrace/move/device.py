"""The paths of one side, open: looks at the device and the commands of a handover.

A unit attention that is delivered instead of executing a command is taken and reported, and
the command sent again, a bounded number of times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Self, TypeVar

from prtrace.errors import (
    ConflictError,
    DeviceError,
    InDoubtError,
    MalformedError,
    PrtraceError,
)
from prtrace.linux.sgio import Reply, SgDevice
from prtrace.model import (
    FullStatus,
    FullStatusRead,
    KeysRead,
    LocalNexus,
    Nexus,
    Outcome,
    ReservationRead,
    ReservationType,
)
from prtrace.move.handover import Send
from prtrace.move.reading import Reading, of_full_status, of_keys
from prtrace.move.side import Path, Side
from prtrace.scsi.cdb import PrInCdb, PrOutCdb
from prtrace.scsi.codes import InAction, ReservedCode
from prtrace.scsi.parameter import BasicList
from prtrace.scsi.reply import ReadFullStatus, ReadKeys, ReadReservation, ReportCapabilities
from prtrace.scsi.sense import ILLEGAL_REQUEST, Sense
from prtrace.state.apply import apply, new_state
from prtrace.state.unit import LuState

Answer = TypeVar("Answer")

ATTEMPTS: Final = 8
"""Of one command; a device can have several unit attentions for a nexus."""

_BUSY_WAIT_S: Final = 0.05
_FIRST_ALLOCATION: Final = 0x2000
_LAST_ALLOCATION: Final = 0xFFFF


class Paths:
    """The open nodes of a side; a context manager.

    attentions: what was delivered on the way, as text, oldest first.  reads, writes: how many
    PR IN and PR OUT were sent, repetitions included.
    """

    def __init__(self, side: Side) -> None:
        self.side = side
        self.attentions: list[str] = []
        self.reads = 0
        self.writes = 0
        self._open: dict[Nexus, SgDevice] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for device in self._open.values():
            device.close()
        self._open.clear()

    def send(self, command: Send) -> Outcome:
        """Send a handover's command; UNKNOWN where the device or its driver failed."""
        path = self.side.path(command.nexus)
        if path is None:
            return Outcome.UNKNOWN
        cdb = PrOutCdb(command.action, type=command.type).build()
        parameter = BasicList(command.key, command.sa_key, aptpl=command.aptpl).build()

        def once() -> Reply:
            self.writes += 1
            return self._device(path).pr_out(cdb, parameter)

        try:
            return self._until_executed(command.nexus, once).outcome
        except PrtraceError as error:
            self.attentions.append(f"{command.nexus}: {error.message}")
            return Outcome.UNKNOWN

    def look(self, first: Nexus, other: Iterable[LocalNexus]) -> Reading:
        """Read the device, over the path first or, if that fails, over another one.

        Raises ConflictError where an SPC-2 RESERVE is active, DeviceError and others where no
        path answers, InDoubtError where the answer names what no standard knows.
        """
        own = [path.nexus for path in self.side.paths]
        seen = self._any_path(first, self._registrations)
        if isinstance(seen, tuple):
            keys, held = seen
            kind = None if held.reservation is None else _known(held.reservation.type)
            key = None if held.reservation is None else held.reservation.key
            return of_keys(keys.generation, keys.keys, kind, key)
        return of_full_status(seen.generation, _statuses(seen), own, other, self.side.target)

    def state(self, now: int) -> LuState:
        """The unit's state as one reading shows it; now in nanoseconds since the epoch."""
        nexus = self.side.paths[0].nexus
        state = new_state(self.side.lu, self.side.target, now)
        seen = self._any_path(nexus.nexus, self._registrations)
        if isinstance(seen, ReadFullStatus):
            read = FullStatusRead(
                lu=self.side.lu,
                nexus=nexus.nexus,
                time=now,
                generation=seen.generation,
                registrations=_statuses(seen),
                truncated=False,
                paths=tuple(path.nexus for path in self.side.paths),
            )
            return apply(state, read).state
        keys, held = seen
        state = apply(
            state,
            KeysRead(
                lu=self.side.lu,
                nexus=nexus.nexus,
                time=now,
                generation=keys.generation,
                keys=keys.keys,
                truncated=False,
            ),
        ).state
        found = held.reservation
        reservation = ReservationRead(
            lu=self.side.lu,
            nexus=nexus.nexus,
            time=now,
            generation=held.generation,
            key=0 if found is None else found.key,
            type=None if found is None else _known(found.type),
        )
        return apply(state, reservation).state

    def persists(self) -> bool:
        """Whether registrations persist through power loss (PTPL_A of REPORT CAPABILITIES)."""

        def ask(path: Path) -> bool:
            reply = self._read(path, InAction.REPORT_CAPABILITIES, 8)
            return ReportCapabilities.parse(reply.expect_good("REPORT CAPABILITIES")).ptpl_a

        return self._any_path(self.side.paths[0].nexus.nexus, ask)

    def _any_path(self, first: Nexus, ask: Callable[[Path], Answer]) -> Answer:
        """What ask returns over the first path that answers.

        RESERVATION CONFLICT is an answer of the logical unit, whatever the path.
        """
        usable = sorted(
            (path for path in self.side.paths if path.usable),
            key=lambda path: path.nexus.nexus != first,
        )
        failure: PrtraceError = DeviceError(f"{self.side.name}: none of its paths takes commands")
        for path in usable:
            try:
                return ask(path)
            except ConflictError as error:
                raise ConflictError(
                    f"{self.side.name}: PR IN met a RESERVATION CONFLICT",
                    hint="another initiator has an SPC-2 RESERVE active: find and release it",
                ) from error
            except PrtraceError as error:
                failure = error
        raise failure

    def _registrations(self, path: Path) -> ReadFullStatus | tuple[ReadKeys, ReadReservation]:
        """READ FULL STATUS; what the other two say together where the device has none."""
        for allocation in (_FIRST_ALLOCATION, _LAST_ALLOCATION):
            reply = self._read(path, InAction.READ_FULL_STATUS, allocation)
            if reply.outcome is Outcome.UNKNOWN and _is_illegal(reply):
                return self._keys(path), self._reservation(path)
            status = ReadFullStatus.parse(reply.expect_good("READ FULL STATUS"))
            if not status.may_be_cut(allocation):
                return status
        raise InDoubtError(f"{path.node}: its registrations do not fit into one reply")

    def _keys(self, path: Path) -> ReadKeys:
        for allocation in (_FIRST_ALLOCATION, _LAST_ALLOCATION):
            reply = self._read(path, InAction.READ_KEYS, allocation)
            keys = ReadKeys.parse(reply.expect_good("READ KEYS"))
            if not keys.may_be_cut(allocation):
                return keys
        raise InDoubtError(f"{path.node}: its keys do not fit into one reply")

    def _reservation(self, path: Path) -> ReadReservation:
        reply = self._read(path, InAction.READ_RESERVATION, 32)
        return ReadReservation.parse(reply.expect_good("READ RESERVATION"))

    def _read(self, path: Path, action: InAction, allocation: int) -> Reply:
        cdb = PrInCdb(action, allocation).build()

        def once() -> Reply:
            self.reads += 1
            return self._device(path).pr_in(cdb, allocation)

        return self._until_executed(path.nexus.nexus, once)

    def _until_executed(self, nexus: Nexus, once: Callable[[], Reply]) -> Reply:
        reply = once()
        for _ in range(ATTEMPTS - 1):
            if reply.outcome is not Outcome.NOT_EXECUTED:
                break
            if reply.attention:
                self.attentions.append(f"{nexus}: {Sense.parse(reply.sense).text}")
            else:
                # BUSY or TASK SET FULL: the device says "later", and not when.
                time.sleep(_BUSY_WAIT_S)
            reply = once()
        return reply

    def _device(self, path: Path) -> SgDevice:
        device = self._open.get(path.nexus.nexus)
        if device is None:
            device = self._open[path.nexus.nexus] = SgDevice(path.node)
        return device


def _statuses(seen: ReadFullStatus) -> tuple[FullStatus, ...]:
    return tuple(
        FullStatus(
            initiator_port=each.transport_id.text,
            relative_target_port=each.relative_target_port,
            key=each.key,
            holder=each.holder,
            all_target_ports=each.all_tg_pt,
            type=None if each.type is None else _known(each.type),
            scope=each.scope,
        )
        for each in seen.descriptors
    )


def _known(kind: ReservationType | ReservedCode) -> ReservationType:
    if isinstance(kind, ReservedCode):
        raise InDoubtError(f"the device reports a reservation of {kind.text}")
    return kind


def _is_illegal(reply: Reply) -> bool:
    try:
        return Sense.parse(reply.sense).key == ILLEGAL_REQUEST
    except MalformedError:
        return False
