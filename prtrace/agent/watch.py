"""The one way in: rings and counters, through the tracker, into the store, out to followers.

A batch is accepted when the store has it, and only then does the kernel get the room back.
So whatever kills the agent, the next one reads the same records again, knows from the store
which of them it has, and goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from prtrace.agent.counters import Counters, Reading
from prtrace.agent.tracker import Proposal, Tracker
from prtrace.errors import MalformedError, StoreError
from prtrace.probe.record import Kind, Record
from prtrace.probe.ring import Ring
from prtrace.state.event import Event
from prtrace.store.database import Store

_BATCH: Final = 256
"""Records in one transaction at most: enough to make commits cheap."""
_LEAST: Final = 16
_RESPONSIVE: Final = 0.1
"""Seconds that a batch should take: between two of them callers are answered."""

_log = logging.getLogger("prtrace.watch")


class Watch:
    """Moves records from the kernel to the store and tells followers.

    publish: gets each batch's stored events.  stalled: why the store takes nothing at the
    moment, "" where it does; what is known then is older than what happened.
    """

    def __init__(
        self,
        events: Ring,
        samples: Ring,
        tracker: Tracker,
        counters: Counters,
        store: Store,
        publish: Callable[[list[Event], Proposal], None],
    ) -> None:
        self._events = events
        self._samples = samples
        self._tracker = tracker
        self._counters = counters
        self._store = store
        self._publish = publish
        self._replaying = True
        self._lost_told = 0
        self._portion = _BATCH
        self.stalled = ""
        self.consumed = 0
        self.own = 0
        self.unreadable = 0

    def pump(self) -> bool:
        """Take one batch of records; returns whether there may be more.

        A store that fails leaves the records in the ring; see stalled.
        """
        begun = time.monotonic()
        raws = self._events.read(self._portion)
        if not raws:
            # Discarded records leave room to give back too.
            self._events.commit()
            return False
        proposal = self._tracker.propose(raws, self._known(raws))
        reading = None
        if proposal.lost > self._lost_told:
            # In the same transaction: no state without its doubt is ever shown.
            reading = self._counters.read()
            for event in reading.events:
                self._tracker.add(proposal, event)
        if not self._commit(proposal, reading):
            self._events.rewind()
            # It will be tried again and again: with little.
            self._portion = _LEAST
            return False
        self._lost_told = max(self._lost_told, proposal.lost)
        self._events.commit()
        self.consumed += len(raws)
        self.own += proposal.own
        self.unreadable += len(proposal.unreadable)
        for problem in proposal.unreadable:
            _log.error("a record cannot be read: %s", problem)
        pace = len(raws) / max(time.monotonic() - begun, 1e-6)
        self._portion = max(_LEAST, min(_BATCH, int(pace * _RESPONSIVE)))
        return True

    def drain(self) -> None:
        """Take everything that has happened up to now, losses included.

        A command's record is in the ring before its issuer hears of its end, so an answer
        given after this takes every command into account that the asker knows to be over.
        """
        # Not further: others may write faster than this reads.
        end = self._events.position + self._events.unread
        while self._events.position < end and self.pump():
            pass
        self.count()

    def sample(self) -> None:
        """Take the samples that arrived; what they stand for is counted by count()."""
        while raws := self._samples.read(_BATCH):
            for raw in raws:
                try:
                    record = Record.parse(raw)
                    if record.header.kind == Kind.SAMPLE:
                        self._counters.note(record)
                except MalformedError as error:
                    self.unreadable += 1
                    _log.error("a sample cannot be read: %s", error.message)
            self._samples.commit()

    def count(self, *, all_nexuses: bool = False) -> None:
        """Tell what the counters have gained."""
        reading = self._counters.read(all_nexuses=all_nexuses)
        if reading.events or reading.meta:
            self.tell(reading.events, reading)

    def tell(self, events: tuple[Event, ...], reading: Reading | None = None) -> bool:
        """Take events that come from no record; returns whether the store has them."""
        proposal = Proposal()
        for event in events:
            self._tracker.add(proposal, event)
        return self._commit(proposal, reading)

    def meet(self) -> None:
        """Tell which paths came, went or changed."""
        proposal = Proposal()
        self._tracker.meet(proposal)
        self._commit(proposal, None)

    def _known(self, raws: list[bytes]) -> frozenset[int]:
        """Which of these a former agent had stored before it was killed.

        Only the beginning of the ring can hold such records: the first batch without any
        ends the search.
        """
        if not self._replaying:
            return frozenset()
        numbers = []
        for raw in raws:
            try:
                numbers.append(Record.parse(raw).header.seq)
            except MalformedError:
                continue  # propose() counts and reports it
        known = frozenset(self._store.known(self._tracker.epoch, numbers))
        self._replaying = bool(known)
        return known

    def _commit(self, proposal: Proposal, reading: Reading | None) -> bool:
        try:
            stored = self._store.commit(
                self._tracker.epoch,
                proposal.events,
                list(proposal.states.values()),
                None if reading is None else reading.meta,
            )
        except StoreError as error:
            if not self.stalled:
                _log.error("nothing can be stored: %s (%s)", error.message, error.hint)
            self.stalled = error.message
            return False
        if self.stalled:
            _log.warning("storing again")
            self.stalled = ""
        self._tracker.accept(proposal)
        if reading is not None:
            self._counters.accept(reading)
        self._publish(stored, proposal)
        return True
