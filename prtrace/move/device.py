"""The paths of one side, open: looks at the device and the commands of a handover.

A unit attention that is delivered instead of executing a command is taken and reported, and
the command sent again, a bounded number of times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, TypeVar

from prtrace.errors import (
    ConflictError,
    DeviceError,
    InDoubtError,
    MalformedError,
    NoSuchDeviceError,
    PrtraceError,
)
from prtrace.linux.closing import Closing
from prtrace.linux.nodes import is_node_of
from prtrace.linux.reader import (
    Disagreement,
    FailureKind,
    PrState,
    Reader,
    ReadFailure,
    ReadPolicy,
    ReportedRegistration,
    Unread,
)
from prtrace.linux.sgio import Reply, SgDevice
from prtrace.linux.units import NamesIn, names_here
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
from prtrace.move.machine import Send
from prtrace.move.reading import Reading, of_full_status, of_keys
from prtrace.move.side import LocalPath, Side
from prtrace.scsi.cdb import PrOutCdb
from prtrace.scsi.codes import ReservedCode
from prtrace.scsi.facts import IN_PLACE, Parser
from prtrace.scsi.parameter import BasicList
from prtrace.scsi.sense import Sense
from prtrace.state.apply import apply, new_state
from prtrace.state.unit import LuState

Answer = TypeVar("Answer")

ATTEMPTS: Final = 8
"""Of one command; a device can have several unit attentions for a nexus."""
TIMEOUT_MS: Final = 5000
"""Of a command: the guest may be paused meanwhile, and another path may work."""

_BUSY_WAIT_S: Final = 0.05
_LEAST_MS: Final = 500
"""Of a command, however little time is left: the kernel aborts a command that times out."""
_POLICY: Final = ReadPolicy(attentions=ATTEMPTS, timeout_ms=TIMEOUT_MS)


ParserOf = Callable[[LocalNexus], Parser]


def here(_nexus: LocalNexus) -> Parser:
    """The process itself, for every nexus."""
    return IN_PLACE


@contextmanager
def parsers_here() -> Iterator[ParserOf]:
    """What MoveOptions.parsers is for a process that may parse what it is sent."""
    yield here


@contextmanager
def pages_here() -> Iterator[NamesIn]:
    """The same of MoveOptions.pages."""
    yield names_here


class Paths(Closing):
    """The open nodes of a side; a context manager.

    attentions: what was delivered on the way, as text, oldest first.  reads, writes: how many
    PR IN and PR OUT were sent, repetitions included.  until: time.monotonic() that no command's
    time limit goes beyond, None for TIMEOUT_MS each.  parser_of: who makes facts of what comes
    over a nexus; nothing here looks into bytes of a device.
    """

    def __init__(self, side: Side, until: float | None = None, parser_of: ParserOf = here) -> None:
        self.side = side
        self._until = until
        self._parser_of = parser_of
        self.attentions: list[str] = []
        self.reads = 0
        self.writes = 0
        self._open: dict[Nexus, SgDevice] = {}
        self._readers: dict[Nexus, Reader] = {}
        self._silent: set[Nexus] = set()

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return self._until is not None and time.monotonic() >= self._until

    @property
    def _limit_ms(self) -> int:
        """Of the next command."""
        if self._until is None:
            return TIMEOUT_MS
        left = int((self._until - time.monotonic()) * 1000)
        return max(_LEAST_MS, min(TIMEOUT_MS, left))

    def close(self) -> None:
        """Close every node."""
        for device in self._open.values():
            device.close()
        self._open.clear()

    def send(self, command: Send, *, aptpl: bool) -> Outcome:
        """Send a handover's command; UNKNOWN where the device or its driver failed.

        NOT_EXECUTED, besides what the device says, where nothing was sent: the path is gone, its
        node is another device's by now, or it leads to another unit.
        """
        path = self.side.path(command.nexus)
        if path is None:
            return Outcome.NOT_EXECUTED
        cdb = PrOutCdb(command.action, type=command.type).build()
        parameter = BasicList(command.key, command.sa_key, aptpl=aptpl).build()
        for attempt in range(ATTEMPTS):
            try:
                self._prove(path)
            except PrtraceError as error:
                self._fault(path, error)
                return Outcome.NOT_EXECUTED
            self.writes += 1
            try:
                reply = self._device(path).send(cdb, parameter, timeout_ms=self._limit_ms)
            except PrtraceError as error:
                self._fault(path, error)
                return Outcome.UNKNOWN
            attention = self._attention(path, reply)
            outcome = reply.outcome_where(attention=attention is not None)
            if outcome is Outcome.UNKNOWN:
                self._silent.add(command.nexus)
            last = attempt == ATTEMPTS - 1 or self.late
            if outcome is not Outcome.NOT_EXECUTED or last:
                return outcome
            if attention is not None:
                self.attentions.append(f"{path.nexus.nexus}: {attention.text}")
            else:
                # BUSY or TASK SET FULL: the device says "later", and not when.
                time.sleep(_BUSY_WAIT_S)
        raise AssertionError("unreachable")

    def _attention(self, path: LocalPath, reply: Reply) -> Sense | None:
        """The unit attention that was delivered instead of executing a command, if it was."""
        if not reply.checked:
            return None
        try:
            sense = self._reader(path).parser.sense(reply.sense)
        except MalformedError:
            return None
        except PrtraceError as error:
            self._fault(path, error)
            return None
        return sense if sense.attention else None

    def _prove(self, path: LocalPath) -> None:
        """Make sure that a command over path meets this unit; what is raised says why it may not.

        An array can map another unit to an address and raise no unit attention, and a look goes
        over one path only.  The time between INQUIRY and the command stays: where the array does
        raise one meanwhile, the command is not executed, and this is asked again.
        """
        failure = self._reader(path).other_unit()
        if failure is not None:
            raise failure.error(path.node)

    def _fault(self, path: LocalPath, error: PrtraceError) -> None:
        self.attentions.append(f"{path.nexus.nexus}: {error.message}")
        self._silent.add(path.nexus.nexus)

    def look(self, other: Iterable[LocalNexus]) -> Reading:
        """One atomic look, over any path that answers.

        Raises ConflictError where an SPC-2 RESERVE is active, DeviceError and others where no
        path answers, InDoubtError where the replies contradict each other.
        """
        own = self.side.nexuses
        state = self._any_path(self._state)
        held = state.reservation
        kind = None if held is None else _known(held.type)
        if not state.named:
            keys = [each.key for each in state.registrations]
            return of_keys(state.generation, keys, kind, None if held is None else held.key)
        statuses = _statuses(state)
        reading = of_full_status(state.generation, statuses, own, other, self.side.target)
        # Where no descriptor says that it holds, the reservation is a fact all the same.
        return reading if reading.type is kind else replace(reading, type=kind)

    def state(self, now: int) -> LuState:
        """The unit's state as one reading shows it; now in nanoseconds since the epoch."""
        nexus = self.side.paths[0].nexus
        state = new_state(self.side.lu, self.side.target, now)
        seen = self._any_path(self._state)
        if seen.named:
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
        keys = KeysRead(
            lu=self.side.lu,
            nexus=nexus.nexus,
            time=now,
            generation=seen.generation,
            keys=tuple(each.key for each in seen.registrations),
            truncated=False,
        )
        found = seen.reservation
        reservation = ReservationRead(
            lu=self.side.lu,
            nexus=nexus.nexus,
            time=now,
            generation=seen.generation,
            key=0 if found is None else found.key,
            type=None if found is None else _known(found.type),
        )
        return apply(apply(state, keys).state, reservation).state

    def persists(self) -> bool | None:
        """Whether registrations persist through power loss (PTPL_A of REPORT CAPABILITIES).

        None for a device that does not know the command.  Raises as look does.
        """
        return self._any_path(self._persists)

    def _persists(self, path: LocalPath) -> bool | None:
        reader = self._reader(path)
        found = reader.capabilities()
        self._count(path, reader)
        if not isinstance(found, ReadFailure):
            return found.ptpl_a
        if found.kind is FailureKind.UNSUPPORTED:
            return None
        raise found.error(path.node)

    def _state(self, path: LocalPath) -> PrState:
        reader = self._reader(path)
        found = reader.look()
        self._count(path, reader)
        match found:
            case PrState():
                return found
            case Disagreement():
                raise InDoubtError(f"{path.node}: {'; '.join(found.reasons)}")
            case Unread():
                raise found.failure.error(path.node)

    def _any_path(self, ask: Callable[[LocalPath], Answer]) -> Answer:
        """What ask returns over the first path that answers, those that failed before last.

        RESERVATION CONFLICT and a contradiction are answers of the unit, whatever the path.
        """
        usable = sorted(
            (path for path in self.side.paths if path.usable),
            key=lambda path: path.nexus.nexus in self._silent,
        )
        failure: PrtraceError = DeviceError(f"{self.side.name}: none of its paths takes commands")
        for path in usable:
            try:
                return ask(path)
            except (ConflictError, InDoubtError):
                raise
            except PrtraceError as error:
                self._silent.add(path.nexus.nexus)
                failure = error
                if self.late:
                    break
        raise failure

    def _reader(self, path: LocalPath) -> Reader:
        reader = self._readers.get(path.nexus.nexus)
        policy = _POLICY._replace(lu=self.side.lu, timeout_ms=self._limit_ms)
        if reader is None:
            parser = self._parser_of(path.nexus)
            reader = Reader(self._device(path), policy, parser=parser)
            self._readers[path.nexus.nexus] = reader
        reader.policy = policy
        return reader

    def _count(self, path: LocalPath, reader: Reader) -> None:
        self.reads += reader.way.sent
        self.attentions += [f"{path.nexus.nexus}: {each.text}" for each in reader.way.attentions]

    def _device(self, path: LocalPath) -> SgDevice:
        device = self._open.get(path.nexus.nexus)
        if device is None:
            device = SgDevice(path.node)
            if not is_node_of(device.fileno(), path.nexus.nexus, path.nexus.life):
                device.close()
                raise NoSuchDeviceError(
                    f"{path.node} is not the node of {path.nexus.nexus} any more",
                    hint="the device was removed, and another may have its name: try again",
                )
            self._open[path.nexus.nexus] = device
        return device


def _statuses(state: PrState) -> tuple[FullStatus, ...]:
    held = state.reservation
    kind = None if held is None else _known(held.type)
    return tuple(_status(each, kind) for each in state.registrations)


def _status(found: ReportedRegistration, kind: ReservationType | None) -> FullStatus:
    port = found.transport_id
    return FullStatus(
        initiator_port="" if port is None else port.text,
        relative_target_port=found.relative_target_port or 0,
        key=found.key,
        holder=bool(found.holder),
        all_target_ports=found.all_target_ports,
        type=kind if found.holder else None,
    )


def _known(kind: ReservationType | ReservedCode) -> ReservationType:
    if isinstance(kind, ReservedCode):
        raise InDoubtError(f"the device reports a reservation of {kind.text}")
    return kind
