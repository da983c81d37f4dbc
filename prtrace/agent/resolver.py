"""Ask the device where the state is in doubt.

prtrace.agent.schedule decides who is asked next, this module asks: each reading has a thread of
its own, which the agent does not wait for when it stops.  What a reading brings is not looked at
here: it comes back up through the kernel as records like everybody else's.  Only a reply that is
longer than a record is handed on, by which its record is completed (prtrace.agent.longreply).

A PR IN takes the unit attention that its nexus was to get.  A unit is therefore read over the
nexus that just had a command answered, else over one on which no unit attention is expected, that
nobody has open and that has no registration.  Whether somebody has it open may not be known; such
a nexus comes before one that is open and behind one that is not.  Nothing is read before it was
looked, just before, who has what open, unless the look takes too long.  Tapes, changers and
removable media are never asked: until Linux 6.14 the tape driver learns of a reset or a changed
medium from its own commands alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from prtrace.agent.helper import NoPlaceError
from prtrace.agent.longreply import LongReply
from prtrace.agent.schedule import Candidate, ReadingLimits, ReadOrder, Result, Schedule
from prtrace.errors import PrtraceError
from prtrace.linux.pathstate import PathState, is_removable, path_state
from prtrace.linux.reader import (
    FIRST_ROOM,
    Device,
    FailureKind,
    Reader,
    Reading,
    ReadPolicy,
    Unread,
)
from prtrace.linux.sgio import Reply, SgDevice
from prtrace.linux.users import Use, Users, users_of
from prtrace.model import LOCAL_NAME
from prtrace.scsi.codes import InAction, Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from prtrace.linux.directory import Directory
    from prtrace.linux.units import Inventory
    from prtrace.model import LocalNexus, LogicalUnit, Nexus
    from prtrace.state.unit import LuState

_KINDS: Final = frozenset({"disk", "zoned disk"})
"""Units that are asked without being told to."""
_MOST_TOLD: Final = 64
"""Problems of a unit that are remembered: a target can answer differently each time."""
_UNIT_FAILED: Final = frozenset(
    {FailureKind.CONFLICT, FailureKind.UNIT_ATTENTION, FailureKind.MALFORMED, FailureKind.TOO_LONG}
)

_log = logging.getLogger("prtrace.resolver")


class Host(Protocol):
    """What the resolver needs of prtrace.agent.surroundings.Surroundings."""

    inventory: Inventory

    def paths(self, lu: str) -> Sequence[LocalNexus]:
        """This host's nexuses to a unit."""
        ...


class _Asked(NamedTuple):
    """What a reading came to.  sent: commands.  problem: for the log, "" for none.

    other: the unit that is at the address instead of the one that was to be read.
    long: the replies that no record holds whole.  proven: the replies, if any came, are those of
    the unit that was to be read.
    """

    result: Result
    sent: int
    problem: str = ""
    other: str = ""
    long: tuple[LongReply, ...] = ()
    proven: bool = True


class _Listening:
    """A device that keeps the long replies which it gives."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.long: list[LongReply] = []

    @property
    def path(self) -> str:
        return self._device.path

    def send(self, cdb: bytes, data_out: bytes, room: int, timeout_ms: int) -> Reply:
        """See Device."""
        begun = time.monotonic_ns()
        reply = self._device.send(cdb, data_out, room, timeout_ms)
        if reply.status == Status.GOOD and len(reply.received) > FIRST_ROOM:
            self.long.append(LongReply(cdb, reply.received, begun, time.monotonic_ns()))
        return reply


class Resolver:
    """Reads units until nothing of them is in doubt, within the limits of the schedule.

    state: gives the present state of a unit.  opened: opens a node to send commands to.
    look: finds out who uses which device.  misled: is told that a nexus leads to another unit
    than the inventory says, with both units' names.  completed: is told the replies over a nexus
    that no record holds whole.  unproven: is told that the replies over a nexus may be those of
    another unit than the one that was to be read.  vouched: is called when unvouched() or
    unfinished() has become False of a unit.  sent: commands so far.
    """

    def __init__(
        self,
        host: Host,
        state: Callable[[str], LuState | None],
        limits: ReadingLimits | None = None,
        opened: Callable[[str], AbstractContextManager[Device]] = SgDevice,
        look: Callable[[Directory], Users] = users_of,
        misled: Callable[[str, str, str], None] = lambda _nexus, _lu, _found: None,
        completed: Callable[[str, Sequence[LongReply]], None] = lambda _nexus, _replies: None,
        unproven: Callable[[str, str], None] = lambda _nexus, _lu: None,
        vouched: Callable[[], None] = lambda: None,
    ) -> None:
        self._host = host
        self._state = state
        self._open = opened
        self._look_at = look
        self._misled = misled
        self._completed = completed
        self._unproven = unproven
        self._vouched = vouched
        self._reading: Counter[tuple[str, Nexus]] = Counter()
        """How many readings of a unit over a nexus are under way."""
        self._replied: dict[tuple[str, Nexus], bool] = {}
        """Those of them of which replies have come; whether one changed what is stated."""
        self._polite: set[str] = set()
        """Read only where no unit attention can be taken from anybody."""
        self._limits = ReadingLimits() if limits is None else limits
        self._schedule = Schedule(self._candidates, self._limits)
        self._safe: dict[str, tuple[str, float]] = {}
        self._users = Users(unseen="nobody has looked yet")
        self._asked_capabilities: set[str] = set()
        """Since what is known of it was last in doubt: a device need not know the command."""
        self._looked_at: float | None = None
        self._looking_since: float | None = None
        self._seen: Users | None = None
        self._unseen_told = ""
        self._told: dict[str, set[tuple[str, str]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.sent = 0

    def verify(self, lu: str) -> None:
        """Read a unit over a path on which no unit attention can be taken from anybody.

        Where every path is open, registered or due a unit attention it waits for one that is not.
        """
        unit, sys = self._host.inventory.units.get(lu), self._host.inventory.directory.sys
        if self._closed or unit is None or lu in self._schedule or not _asked_by_itself(unit, sys):
            return
        self._polite.add(lu)
        self._schedule.want(lu, time.monotonic(), fresh=False)
        self._turn()

    def resolve(
        self, lu: str, safe: str = "", *, fresh: bool = False, wanted: bool = False
    ) -> None:
        """Read a unit until nothing of it is in doubt.

        safe: the nexus on which reading disturbs nobody, because a command was just answered
        there.  fresh: something new was seen of the unit, which was not this agent's reading.
        wanted: somebody wants it read, whatever it is and however it answered before.
        """
        inventory = self._host.inventory
        unit, sys = inventory.units.get(lu), inventory.directory.sys
        if self._closed or unit is None or not (wanted or _asked_by_itself(unit, sys)):
            return
        if lu in self._polite:
            # It was waiting for a path that nobody uses, and need not any more.
            self._forget(lu)
        if safe:
            self._safe[lu] = safe, time.monotonic()
        state = self._state(lu)
        # What was seen since it refused may have shown that it has reservations.
        proven = fresh and state is not None and state.supported
        self._schedule.want(lu, time.monotonic(), fresh=fresh, wanted=wanted or proven)
        self._turn()

    def changed(self, states: Mapping[str, LuState]) -> None:
        """New states are in force: what is in doubt no more is not asked."""
        for lu in states:
            # By state: it knows who wants the unit confirmed.
            now = self._state(lu)
            # What a reading has brought that is not over may be of another unit.
            if (now is None or not now.doubts) and not self.unfinished(lu):
                self._forget(lu)

    def replied(self, lu: str, nexus: Nexus, *, news: bool) -> None:
        """A reply to this agent came over nexus; news: it changed what is stated of the unit."""
        if self._reading[lu, nexus]:
            self._replied[lu, nexus] = news or self._replied.get((lu, nexus), False)

    def has_replied(self, lu: str, nexus: Nexus) -> bool:
        """Whether a reply has come to a reading over nexus that is not over."""
        return (lu, nexus) in self._replied

    def unvouched(self, lu: str) -> bool:
        """Whether a reading that is not over has changed what is stated of a unit.

        A reading ends with the question which unit the device is.  Until that is answered its
        replies may be those of a unit that was mapped to the address after it began.
        """
        return any(unit == lu and news for (unit, _), news in self._replied.items())

    def unfinished(self, lu: str) -> bool:
        """Whether a reading that is not over has brought anything, if only a confirmation."""
        return any(unit == lu for unit, _ in self._replied)

    def close(self) -> None:
        """Stop asking.  Readings under way end by themselves, or with the process."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _forget(self, lu: str) -> None:
        self._schedule.drop(lu)
        self._safe.pop(lu, None)
        self._asked_capabilities.discard(lu)
        self._polite.discard(lu)
        self._told.pop(lu, None)

    def _tell(self, lu: str, nexus: str, problem: str) -> None:
        """Say once what stands against reading a unit over a path, as long as it is in doubt."""
        told = self._told.setdefault(lu, set())
        if (nexus, problem) not in told:
            if len(told) >= _MOST_TOLD:
                told.clear()
            told.add((nexus, problem))
            _log.warning("%s: reading over %s: %s", lu, nexus, problem)

    def _turn(self, *, looked: bool = False) -> None:
        """Begin what may begin now, and wait for the rest.  looked: who uses what, just now."""
        if self._closed:
            return
        loop = asyncio.get_running_loop()
        if not looked and not self._looked_around(loop):
            self._turn_at(loop, time.monotonic() + self._limits.look_takes_s)
            return
        for order in self._schedule.begin(time.monotonic()):
            state = self._state(order.lu)
            if state is None or not state.doubts or order.lu not in self._host.inventory.units:
                self._schedule.end(order, Result.UNIT_FAILED, time.monotonic())
                self._forget(order.lu)
                continue
            self._safe.pop(order.lu, None)
            self._reading[order.lu, order.path.nexus] += 1
            # Not a pool's: Python waits for those when it ends.
            reading = threading.Thread(
                target=self._read,
                args=(loop, order, self._lacks_capabilities(order.lu, state)),
                name="prtrace-read",
                daemon=True,
            )
            try:
                reading.start()
            except RuntimeError as error:
                self._tell(order.lu, order.path.nexus, str(error))
                self._over(order.lu, order.path.nexus)
                self._schedule.end(order, Result.UNIT_FAILED, time.monotonic())
        self._turn_at(loop, self._schedule.next_at(time.monotonic()))

    def _turn_at(self, loop: asyncio.AbstractEventLoop, at: float | None) -> None:
        """Have the next turn then; None: when something new comes."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at is not None:
            self._timer = loop.call_later(max(at - time.monotonic(), 0.001), self._turn)

    def _read(self, loop: asyncio.AbstractEventLoop, order: ReadOrder, capabilities: bool) -> None:
        """One reading, in a thread of its own; capabilities: REPORT CAPABILITIES as well."""
        try:
            asked = self._ask(order, capabilities)
        except Exception as error:
            # A fault must not keep the place of the reading for ever.
            problem = f"{type(error).__name__}: {error}"
            asked = _Asked(Result.UNIT_FAILED, 0, problem, proven=False)
        with contextlib.suppress(RuntimeError):  # the agent has ended meanwhile
            loop.call_soon_threadsafe(self._done, order, asked)

    def _ask(self, order: ReadOrder, capabilities: bool) -> _Asked:
        nexus = self._host.inventory.nexus(order.path.nexus)
        if nexus is None:
            return _Asked(Result.PATH_FAILED, 0, "it is gone")
        policy = ReadPolicy(rounds=2, lu="" if order.lu.startswith(LOCAL_NAME) else order.lu)
        try:
            # sg first: its wait ends when the process is killed, a block node's does not.
            with self._open(nexus.sg or nexus.device or nexus.bsg) as device:
                listening = _Listening(device)
                reader = Reader(listening, policy)
                reading = reader.read(capabilities=capabilities)
                sent = reader.way.sent
        except NoPlaceError as error:
            return _Asked(Result.UNIT_FAILED, 0, error.message, proven=False)
        except PrtraceError as error:
            return _Asked(Result.PATH_FAILED, 0, error.message, proven=False)
        if isinstance(reading, Unread):
            why, found = reading.failure.text, reading.failure.found
            return _Asked(_result(reading), sent, why, found, proven=reading.proven)
        return _Asked(_result(reading), sent, long=tuple(listening.long))

    def _lacks_capabilities(self, lu: str, state: LuState) -> bool:
        """Whether REPORT CAPABILITIES tells what nobody has told; asked with a reading, once."""
        known = state.capabilities is not None and state.aptpl is not None
        if known or lu in self._asked_capabilities:
            return False
        self._asked_capabilities.add(lu)
        return True

    def _done(self, order: ReadOrder, asked: _Asked) -> None:
        self.sent += asked.sent
        if asked.problem:
            self._tell(order.lu, order.path.nexus, asked.problem)
        if asked.other:
            self._asked_capabilities.discard(order.lu)
            self._misled(order.path.nexus, order.lu, asked.other)
        elif not asked.proven:
            self._asked_capabilities.discard(order.lu)
            self._unproven(order.path.nexus, order.lu)
        elif asked.long:
            self._completed(order.path.nexus, asked.long)
        # After the agent was told that it was misled: the doubt must not be gone for a moment.
        self._over(order.lu, order.path.nexus)
        self._schedule.end(order, asked.result, time.monotonic())
        state = self._state(order.lu)
        if state is None or not state.doubts:
            self._forget(order.lu)
        self._turn()

    def _over(self, lu: str, nexus: Nexus) -> None:
        """A reading is over."""
        reading = lu, nexus
        self._reading[reading] -= 1
        if not self._reading[reading]:
            del self._reading[reading]
            if self._replied.pop(reading, None) is not None:
                self._vouched()

    def _candidates(self, lu: str) -> list[Candidate]:
        """The paths that take commands now, with what is to be said against each."""
        paths = self._host.paths(lu)
        sys = self._host.inventory.directory.sys
        state = self._state(lu)
        safe, since = self._safe.get(lu, ("", 0.0))
        if time.monotonic() - since > self._limits.just_s:
            safe = ""
        found = []
        for nexus in paths:
            now = path_state(nexus.nexus, sys)
            if not now.runs or not (nexus.sg or nexus.device or nexus.bsg):
                continue
            expected = state is not None and nexus.nexus in state.expected
            use = self._users.of(nexus.nexus)
            registered = state is not None and nexus.nexus in state.registrations
            if lu in self._polite and (expected or registered or use is not Use.NOT_OPENED):
                continue
            against = reluctance(
                now,
                safe=nexus.nexus == safe,
                expected=expected,
                use=use,
                registered=registered,
            )
            host = nexus.nexus.split(":", 1)[0]
            target = nexus.nexus.rsplit(":", 1)[0]
            found.append(Candidate(nexus.nexus, target, host, against))
        return found

    def _looked_around(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether readings may begin; a look that is due is taken beside the loop."""
        # The look may have ended, and this loop not have come to hear of it.
        self._take_seen()
        now = time.monotonic()
        if not len(self._schedule):
            return True  # nothing is read
        if self._looked_at is not None and now - self._looked_at < self._limits.look_every_s:
            return True
        if self._looking_since is None:
            look = threading.Thread(
                target=self._look, args=(loop,), name="prtrace-look", daemon=True
            )
            try:
                look.start()
            except RuntimeError as error:  # no more threads: tried again in the next turn
                self._found(Users(self._users.opened, str(error)))
                return True
            self._looking_since = now
        if now - self._looking_since < self._limits.look_takes_s:
            return False
        self._found(Users(self._users.opened, "the look takes too long"))
        return True

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self._seen = self._look_at(self._host.inventory.directory)
        except Exception as error:
            # What was open when it was last looked may still be.
            self._seen = Users(self._users.opened, f"{type(error).__name__}: {error}")
        with contextlib.suppress(RuntimeError):  # the agent has ended meanwhile
            loop.call_soon_threadsafe(self._looked)

    def _looked(self) -> None:
        self._turn(looked=self._take_seen())

    def _take_seen(self) -> bool:
        """Know from now on what a look that has ended has seen, if one has."""
        seen, self._seen = self._seen, None
        if seen is None:
            return False
        self._looking_since, self._looked_at = None, time.monotonic()
        self._found(seen)
        return True

    def _found(self, users: Users) -> None:
        """What is known of the users from now on; what is not known is told once."""
        self._users = users
        if users.unseen and users.unseen != self._unseen_told:
            _log.warning("it is not known who has which device open: %s", users.unseen)
        self._unseen_told = users.unseen


def reluctance(
    path: PathState, *, safe: bool, expected: bool, use: Use, registered: bool
) -> tuple[int, ...]:
    """What is to be said against reading over a nexus, the weightiest first.

    safe: a command was just answered there.  expected: a unit attention waits there.
    """
    return (
        int(not path.may_answer),
        int(not safe),
        int(expected),
        int(use),
        int(registered),
        path.access_rank,
    )


def _asked_by_itself(unit: LogicalUnit, sys: Path) -> bool:
    """Whether a unit is asked although nobody told the agent to."""
    if unit.kind not in _KINDS:
        return False
    # A property of the unit: a path that is going does not tell it any more.
    removable = {is_removable(nexus.nexus, sys) for nexus in unit.nexuses}
    return False in removable and True not in removable


def _result(reading: Reading) -> Result:
    if not isinstance(reading, Unread):
        return Result.ANSWERED
    kind = reading.failure.kind
    # Of an INQUIRY it says nothing of reservations.
    if kind is FailureKind.UNSUPPORTED and reading.failure.command == InAction.READ_KEYS.title:
        return Result.REFUSED
    return Result.UNIT_FAILED if kind in _UNIT_FAILED else Result.PATH_FAILED
