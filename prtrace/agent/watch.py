"""The one way in: rings and counters, through the tracker, into the store, out to followers.

A batch is accepted when the store has it, and only then does the kernel get the room back.
So whatever kills the agent, the next one reads the same records again, knows from the store
which of them it has, and goes on.

Whatever fails on the way, nothing is lost in silence.  A batch that fails is read again, one
record at a time.  A record that fails by itself is put aside as it is, named in the history,
and its unit is in doubt; the records behind it go on.  Where not even that can be done the
exception goes on to the caller, who ends the agent.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Final

from prtrace.agent.aside import put_aside
from prtrace.agent.counters import CounterReading, Counters
from prtrace.agent.idle import Idle
from prtrace.agent.lostends import LostEnds
from prtrace.agent.sequence import Sequence
from prtrace.agent.tracker import Proposal, Tracker
from prtrace.errors import MalformedError, PrtraceError, StoreError
from prtrace.linux.pathstate import is_quiet
from prtrace.probe.record import Record, RecordKind, Stat
from prtrace.probe.ring import Ring
from prtrace.state.decode import END_LOST
from prtrace.state.event import Command, Event, rfc3339
from prtrace.store.database import Aside, Store
from prtrace.store.file import ReplacedError

_BATCH: Final = 256
"""Records in one transaction at most: enough to make commits cheap."""
_LEAST: Final = 16
_RESPONSIVE: Final = 0.1
"""Seconds that a batch should take: between two of them callers are answered."""
_SLICE: Final = 0.05
"""Seconds that a drain takes of the loop's time, about: one batch more than that at most."""
WAITS_FOR_DISK: Final = "what was written waits for the disk"
GAP: Final = "their numbers are missing"
"""The problem of a LOST event for records that never came and were not counted as lost."""

_log = logging.getLogger("prtrace.watch")


class _UncountedError(PrtraceError):
    """The counters cannot be read now; they only grow, so they tell the same later."""


class Watch:
    """Moves records from the kernel to the store and tells followers.

    publish: gets each batch's stored events.  still_well: called between two batches of
    drain_all.
    Every method raises what is no fault of a single record: nothing is lost by it, but the agent
    cannot go on.
    """

    def __init__(
        self,
        events: Ring,
        samples: Ring,
        tracker: Tracker,
        counters: Counters,
        store: Store,
        publish: Callable[[list[Event], Proposal], None],
        still_well: Callable[[], None] = lambda: None,
    ) -> None:
        self._events = events
        self._samples = samples
        self._tracker = tracker
        self._counters = counters
        self._store = store
        self._publish = publish
        self._still_well = still_well
        self._sequence = Sequence(counters.newest, counters.no_room, counters.missing)
        self._idle = Idle(tracker.is_own)
        self._ends = LostEnds()
        self._replaying = True
        self._all_nexuses = False
        self._lost_told = 0
        self._portion = _BATCH
        self._single = 0
        self._damaged = ""
        self._waiting = ""
        self._unstored = ""
        self._uncounted = ""
        self._unpruned = ""
        self._owed = 0
        self._owed_events: tuple[Event, ...] = ()
        self._rests_until = 0.0
        self.consumed = 0
        self.own = 0
        self.aside = 0

    @property
    def stalled(self) -> str:
        """Why what is known is older than what happened; "" where it is not."""
        return self._damaged or self._waiting or self._unstored or self._uncounted

    def pump(self) -> bool:
        """Take one batch of records; returns whether there may be more.

        A store that fails leaves the records in the ring; see stalled.
        """
        if self._damaged or self._waiting:
            return False
        raws: list[bytes] = []
        try:
            raws = self._events.read(1 if self._single else self._portion)
            return self._take(raws)
        except (_UncountedError, StoreError) as error:
            self._events.rewind()
            self._hold(error)
            return False
        except Exception as error:
            self._go_back()
            if isinstance(error, MemoryError):
                raise
            if len(raws) > 1:
                _log.warning("a batch of %d records failed (%r): one at a time", len(raws), error)
                self._single = len(raws)
                return True
            if not raws:
                raise
            return self._take_aside(error)
        except BaseException:
            self._go_back()
            raise

    @property
    def behind(self) -> bool:
        """Whether records wait that a drain did not come to: what is known is not current."""
        return not self.reached(self._owed)

    @property
    def end(self) -> int:
        """Where the newest record ends, in bytes since the ring was made."""
        return self._events.position + self._events.unread

    def reached(self, end: int) -> bool:
        """Whether everything up to there is taken, or nothing can be taken now: see stalled."""
        return bool(self.stalled) or self._events.position >= end

    def drain(self) -> None:
        """Take what has happened up to now, losses included, for a bounded time.

        A command's record is in the ring before its issuer hears of its end, so an answer
        given after this takes every command into account that the asker knows to be over;
        where the time is over before, behind says so.
        """
        begun = time.monotonic()
        # Not further: others may write faster than this reads.
        end = self.end
        if begun < self._rests_until and not self.reached(end):
            self._owed = end
            return  # many ask at once, and each of them would hold up the loop for a slice
        while self._events.position < end and self.pump():
            now = time.monotonic()
            if now - begun >= _SLICE and self._events.position < end:
                self._owed = end
                self._rests_until = now + (now - begun)
                return
        self.count()

    def drain_all(self) -> None:
        """Take everything that has happened up to now, however long it takes.

        For when nobody is answered: callers, and the loop, wait meanwhile.
        """
        end = self.end
        while self._events.position < end and self.pump():
            # A full ring takes seconds, a great one minutes: that is no hang.
            self._still_well()
        self.count()

    def sample(self) -> None:
        """Take the samples that arrived; what they stand for is counted by count()."""
        # Not those that arrive meanwhile: they may come faster than this reads.
        end = self._samples.position + self._samples.unread
        while self._samples.position < end and (raws := self._samples.read(_BATCH)):
            for raw in raws:
                try:
                    record = Record.parse(raw)
                    if record.header.kind == RecordKind.SAMPLE:
                        self._counters.note(record)
                except MalformedError as error:
                    # A sample only says which nexus's counters to read, so all of them are read.
                    self._all_nexuses = True
                    _log.error("a sample cannot be read: %s", error.message)
            self._samples.commit()

    def count(self, *, all_nexuses: bool = False) -> None:
        """Tell what the counters have gained.

        Where that cannot be found out it is told when it can: counters only grow.
        """
        every = self._all_nexuses or all_nexuses
        self._all_nexuses = False  # a sample that is taken meanwhile may ask for all of them anew
        try:
            reading = self._counted(all_nexuses=every)
        except _UncountedError as error:
            self._all_nexuses |= every
            self._hold(error)
            return
        if (reading.events or reading.meta) and not self.tell(reading.events, reading):
            self._all_nexuses |= every

    def look_for_gaps(self) -> bool:
        """Tell of records that should have come by now; to be called about once a second.

        Returns whether records are missing that may still come.
        """
        if self.stalled:
            return False  # what waits in the ring is not gone
        drained = not self._events.unread
        # Before what found no room: that explains all that was numbered by now, or more.
        made = self._counters.stat(Stat.SEEN) if drained else None
        gone = self._sequence.look(self._counters.stat(Stat.RING_FULL), made)
        if not gone:
            return self._sequence.missing
        _log.error("%d records never came: every unit is in doubt", gone)
        now, at = time.time_ns(), time.monotonic_ns()
        lost = Event(Command.LOST, time=now, start_ns=at, done_ns=at, problem=GAP, count=gone)
        if self.tell((lost,)):
            self._sequence.told(gone)
        return self._sequence.missing

    def look_for_lost_ends(self) -> None:
        """Tell of commands that timed out and are over, where no record told their ends."""
        if not self._tracker.under_way:
            return
        nexuses = {each.nexus for _, each in self._tracker.under_way}
        try:
            idle = self._counters.idle(nexuses)
        except (OSError, PrtraceError) as error:
            _log.warning("what is under way cannot be read: %s", error)
            return
        quiet = frozenset(filter(is_quiet, nexuses))
        self.drain()
        if self.behind or self.stalled or self._sequence.missing:
            return  # what tells of an end may be to come
        now, at = time.time_ns(), time.monotonic_ns()
        lost = Event(Command.LOST, time=now, start_ns=at, done_ns=at, problem=END_LOST)
        found = self._ends.look(self._tracker.under_way, idle, quiet)
        if found:
            self.tell(tuple(lost._replace(lu=lu, nexus=nexus) for lu, nexus in found))

    def prune_counters(self) -> None:
        """Have the programs forget what they counted for nexuses that are gone for long."""
        if self.stalled:
            return
        try:
            lost = self._counters.prune()
        except (OSError, PrtraceError) as error:
            # A kernel that cannot does not learn it.
            if str(error) != self._unpruned:
                self._unpruned = str(error)
                _log.warning("counters of nexuses that are gone stay: %s", error)
            return
        if lost:
            self.owe(lost)

    def look_at_store(self) -> None:
        """Notice a file that is no use: nothing is given to it any more, until a restart.

        Raises StoreError where the file was deleted or replaced: a restart takes what is there.
        """
        try:
            self._store.require_present()
        except ReplacedError:
            raise
        except StoreError as error:
            self.damaged(error)

    def damaged(self, error: StoreError) -> None:
        """Nothing is given to the store any more, until a restart."""
        self._hold(error)
        self._damaged = error.message

    def wait_for_disk(self, since: int | None) -> None:
        """Give nothing to the store while the disk does not take what it was given.

        Whoever writes then may have to wait in the kernel for as long as the disk does.  since:
        when that was written, nanoseconds since the epoch; None: the disk has it.
        """
        self._waiting = "" if since is None else f"{WAITS_FOR_DISK} since {rfc3339(since)}"

    def tell(self, events: tuple[Event, ...], reading: CounterReading | None = None) -> bool:
        """Take events that come from no record; returns whether the store has them.

        events: one without a unit is of every unit that is here or known.
        """
        proposal = Proposal()
        for event in events:
            self._tracker.add_told(proposal, event)
        return self._tell(proposal, reading)

    def owe(self, events: tuple[Event, ...]) -> None:
        """Tell events that must not be lost: where the store does not take them now, they are told
        together with what it takes next."""
        self._owed_events += events
        self.tell(())

    def forget(self) -> None:
        """Forget units that are gone for long; the history says when."""
        if self.stalled:
            return
        now, at = time.time_ns(), time.monotonic_ns()
        gone = Event(Command.FORGOTTEN, time=now, start_ns=at, done_ns=at)
        self.tell(tuple(gone._replace(lu=lu) for lu in self._tracker.gone_for_long(now)))

    def meet(self) -> None:
        """Tell which paths came, went or changed."""
        proposal = Proposal()
        self._tracker.meet(proposal)
        self._tell(proposal, None)

    def _tell(self, proposal: Proposal, reading: CounterReading | None) -> bool:
        try:
            stored = self._commit(proposal, reading)
        except BaseException:
            self._go_back()
            raise
        if stored is None:
            return False
        self._publish(stored, proposal)
        return True

    def _take(self, raws: list[bytes]) -> bool:
        begun = time.monotonic()
        if not raws:
            # Discarded records leave room to give back too.
            self._events.commit()
            return False
        proposal = self._tracker.propose(raws, self._known(raws))
        reading = None
        if proposal.lost > self._lost_told:
            # In the same transaction: no state without its doubt is ever shown.
            reading = self._counted(all_nexuses=False)
            for event in reading.events:
                self._tracker.add_told(proposal, event)
        stored = self._commit(proposal, reading)
        if stored is None:
            self._events.rewind()
            # It will be tried again and again: with little.
            self._portion = _LEAST
            return False
        self._lost_told = max(self._lost_told, proposal.lost)
        self._taken(proposal, len(raws), begun)
        self.own += proposal.own
        self._publish(stored, proposal)
        return True

    def _take_aside(self, error: Exception) -> bool:
        """Keep the next record as it is: it cannot be digested."""
        begun = time.monotonic()
        try:
            raws = self._events.read(1)
            proposal = put_aside(self._tracker, raws[0], error)
            kept = Aside(time.time_ns(), proposal.events[0].problem, raws[0])
            stored = self._commit(proposal, None, [kept])
            if stored is None:
                self._events.rewind()
                return False
        except BaseException:
            self._go_back()
            raise
        self.aside += 1
        self._taken(proposal, len(raws), begun)
        self._publish(stored, proposal)
        return True

    def _taken(self, proposal: Proposal, records: int, begun: float) -> None:
        """The store has what so many records led to: the kernel gets their room back."""
        self._events.commit()
        self._sequence.came(proposal.numbers)
        self.consumed += records
        self._single = max(0, self._single - records)
        pace = records / max(time.monotonic() - begun, 1e-6)
        self._portion = max(_LEAST, min(_BATCH, int(pace * _RESPONSIVE)))

    def _go_back(self) -> None:
        """Be as the store is: what was read is read again, what was stored is known.

        Raises StoreError where the store does not say.
        """
        self._events.rewind()
        self._replaying = True
        self._idle.forget()
        self._tracker.states.update(self._store.states())
        self._counters.resume(self._store.meta())

    def _counted(self, *, all_nexuses: bool) -> CounterReading:
        self.sample()  # which nexuses to look at
        try:
            reading = self._counters.read(all_nexuses=all_nexuses, sample=self.sample)
        except (OSError, PrtraceError) as error:
            raise _UncountedError(f"the counters cannot be read: {error}") from error
        self._uncounted = ""
        return reading

    def _hold(self, error: _UncountedError | StoreError) -> None:
        """Nothing is taken for now, and whoever asks is told why."""
        if not self.stalled:
            _log.error("nothing is taken: %s (%s)", error.message, error.hint)
        if isinstance(error, StoreError):
            self._unstored = error.message
        else:
            self._uncounted = error.message

    def _known(self, raws: list[bytes]) -> frozenset[int]:
        """Which of these a former agent had stored before it was killed.

        Only the beginning of the ring can hold such records: the first batch without any
        ends the search.
        """
        if not self._replaying:
            return frozenset()
        known = frozenset(self._store.known(self._tracker.epoch, _numbers(raws)))
        self._replaying = bool(known)
        return known

    def _commit(
        self, proposal: Proposal, reading: CounterReading | None, aside: Iterable[Aside] = ()
    ) -> list[Event] | None:
        """Store a proposal and accept it; None where the store does not take it."""
        if self._waiting:
            self._idle.forget()
            return None
        for event in self._owed_events:
            self._tracker.add_told(proposal, event)
        meta = {} if reading is None else dict(reading.meta)
        if proposal.numbers or self._sequence.newest is not None:
            meta |= self._counters.numbers_meta(
                max([*proposal.numbers, self._sequence.newest or 0]),
                self._sequence.no_room,
                self._sequence.missing_after(proposal.numbers),
            )
        try:
            stored = self._store.commit(
                self._tracker.epoch,
                self._idle.counted(proposal.events, proposal.idle),
                list(proposal.states.values()),
                meta,
                aside=list(aside),
                idle=proposal.idle,
                replaced=self._idle.replaced,
                forgotten=proposal.forgotten,
            )
        except StoreError as error:
            self._hold(error)
            self._idle.forget()
            return None
        if self._unstored:
            _log.warning("storing again")
            self._unstored = ""
        self._owed_events = ()
        self._tracker.accept(proposal)
        if reading is not None:
            self._counters.accept(reading)
        self._idle.stored(stored, proposal.idle)
        return stored


def _numbers(raws: Iterable[bytes]) -> list[int]:
    """The numbers of those that can be read; the others are put aside."""
    numbers = []
    for raw in raws:
        try:
            numbers.append(Record.parse(raw).header.seq)
        except MalformedError:
            continue
    return numbers
