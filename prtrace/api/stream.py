"""One call of Events: what is stored, then (with follow) what happens."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

from prtrace.api.calls import event_json, events_reply, refusal, reply
from prtrace.api.queries import Queries
from prtrace.api.recent import Recent
from prtrace.errors import PrtraceError
from prtrace.state.event import CHANGING, Event

PORTION: Final = 64 << 10
"""Bytes of events in one reply, about: others are served between two replies."""

_log = logging.getLogger("prtrace.api")


class Sink(Protocol):
    """The connection, as far as a stream needs it."""

    def write(self, message: bytes) -> None:
        """Send message, after what waits to be sent."""

    def waiting(self) -> int:
        """How many bytes wait to be sent."""

    def full(self) -> bool:
        """Whether so many wait that events should wait, too."""

    def finished(self, stream: Stream) -> None:
        """The stream has sent its last reply."""


class Stream(Protocol):
    """A call with several replies, or with one that takes its time.

    live: nothing waits that the receiver's pace could hold up.
    """

    live: bool

    def pump(self) -> None:
        """Send what waits, as far as the sink takes it."""

    def give_up(self) -> bool:
        """The receiver reads nothing: say where it can go on later, if that can be said."""

    def stop(self) -> None:
        """Send nothing more: the connection is gone."""


class EventStream:
    """Sends events from stored until there are no more, then those that are recent.

    caller: the user id for whom queries takes its turns.  stored: gives portions of stored
    events with greater numbers than its argument; None: as the call asked, from its start.
    follow: whether to go on with what happens.  lus: whose events are wanted, None for all.
    limit: how many at most.  changes: only those of CHANGING commands are wanted.
    """

    def __init__(
        self,
        sink: Sink,
        caller: int,
        queries: Queries,
        recent: Recent,
        stored: Callable[[int | None], Iterator[list[Event]]],
        *,
        follow: bool,
        lus: frozenset[str] | None,
        limit: int | None,
        since_seq: int,
        changes: bool = False,
    ) -> None:
        self._sink = sink
        self._caller = caller
        self._queries = queries
        self._recent = recent
        self._again = stored
        self._stored = stored(None)
        self.follows = follow
        self._lus = lus
        self._left = limit
        self._sent = since_seq
        self._changes = changes
        self._running = True
        self._asked = False
        self._unsent: deque[tuple[list[bytes], int]] = deque()
        self._place = 0
        self.live = False

    def pump(self) -> None:
        """Send what is there; does nothing while the sink is full: the sink calls again."""
        if self._running and self.live and self._place < self._recent.begin:
            self._end(reply({"gap": self._sent}))
        if not self._running or self._asked or self._sink.full():
            return
        if self.live:
            self._send_recent()
            return
        while self._unsent:
            if not self._send(*self._unsent.popleft()):
                return
            if not self._unsent:
                self._queries.sent(self._caller)
            if self._sink.full():
                return
        self._asked = True
        # Whatever was published before the step begins is stored, so the step sees it.
        self._place = self._recent.end
        self._queries.ask(self._caller, self._step, self._took)

    def give_up(self) -> bool:
        """The receiver reads nothing: a follower is told where it can go on."""
        if not (self._running and self.follows):
            return False
        self._end(reply({"gap": self._sent}))
        return True

    def stop(self) -> None:
        """Send nothing more: the connection is gone."""
        self._running = False
        if self._unsent:
            self._unsent.clear()
            self._queries.sent(self._caller)

    def _step(self) -> list[tuple[int, bytes]] | None:
        """On the thread: the next stored events with their numbers; None: there are no more."""
        portion = next(self._stored, None)
        if portion is None:
            return None
        return [(event.seq, event_json(event.to_json())) for event in portion]

    def _took(self, outcome: Any) -> None:
        self._asked = False
        if self._running and isinstance(outcome, list) and outcome:
            self._unsent.extend(_portions(outcome[: self._left]))
            self.pump()
            return
        self._queries.sent(self._caller)
        if not self._running:
            return
        if isinstance(outcome, Exception):
            self._fail(outcome)
        elif outcome is None:
            self._stored_ended()
        else:
            self.pump()

    def _stored_ended(self) -> None:
        if not self.follows:
            self._end(reply({}))
        elif self._place >= self._recent.begin:
            self.live = True
            self.pump()
        else:
            # More happened during the last step than is kept: it is stored by now.
            self._stored = self._again(self._sent)
            self.pump()

    def _send_recent(self) -> None:
        texts: list[bytes] = []
        size = 0
        while self._place < self._recent.end and self._running:
            event, text = self._recent.at(self._place)
            self._place += 1
            if not self._wants(event):
                continue
            texts.append(text)
            size += len(text)
            full = self._left is not None and len(texts) >= self._left
            if full or size >= PORTION:
                self._send(texts, event.seq)
                texts, size = [], 0
                if self._sink.full():
                    return
        if texts:
            self._send(texts, self._recent.at(self._place - 1)[0].seq)
        elif self._place > self._recent.begin:
            # What is not wanted is looked at, too: nobody has to come back for it.
            self._sent = max(self._sent, self._recent.at(self._place - 1)[0].seq)

    def _wants(self, event: Event) -> bool:
        return (
            event.seq > self._sent
            and (self._lus is None or event.lu in self._lus)
            and (not self._changes or event.command in CHANGING)
        )

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, PrtraceError):
            _log.error("a query of the history failed", exc_info=error)
            error = PrtraceError("the call failed", hint="see the agent's log")
        self._end(refusal(error).reply)

    def _send(self, events: list[bytes], last: int) -> bool:
        """Whether more may be sent after these."""
        self._sink.write(events_reply(events))
        self._sent = max(self._sent, last)
        if self._left is not None:
            self._left -= len(events)
            if self._left <= 0:
                self._end(reply({}))
        return self._running

    def _end(self, message: bytes) -> None:
        self.stop()
        self._sink.write(message)
        self._sink.finished(self)


def _portions(events: list[tuple[int, bytes]]) -> Iterator[tuple[list[bytes], int]]:
    """The events in replies of about PORTION bytes, each with the number of its last event."""
    texts: list[bytes] = []
    size = 0
    for seq, text in events:
        texts.append(text)
        size += len(text)
        if size >= PORTION:
            yield texts, seq
            texts, size = [], 0
    if texts:
        yield texts, events[-1][0]
