"""One call of Events: what is stored, then (with follow) what happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final, Protocol

from prtrace.api.calls import event_json, events_reply, refusal, reply
from prtrace.errors import PrtraceError
from prtrace.state.event import CHANGING, Event

_PORTION: Final = 64
"""Stored events in one reply, at most; others are served between two replies."""

MAX_BEHIND: Final = 1 << 20
"""Bytes that may wait for a follower, before it is told to come back for the rest."""


class Sink(Protocol):
    """The connection, as far as a stream needs it."""

    def write(self, message: bytes) -> None:
        """Send message, after what waits to be sent."""

    def waiting(self) -> int:
        """How many bytes wait to be sent."""

    def full(self) -> bool:
        """Whether so many wait that stored events should wait, too."""

    def finished(self, stream: Stream) -> None:
        """The stream has sent its last reply."""


class Stream(Protocol):
    """A call with several replies, or with one that takes its time.

    live: nothing waits that the receiver's pace could hold up.
    """

    live: bool

    def pump(self) -> None:
        """Send what waits, as far as the sink takes it."""

    def stop(self) -> None:
        """Send nothing more: the connection is gone."""


class EventStream:
    """Sends events from stored until there are no more, then those handed to publish().

    follow: called when the stored ones are all sent, with this stream; None: that is the end.
    lus: whose events are wanted, None for all.  limit: how many at most.  since_seq: what
    was sent last.  changes: only those of CHANGING commands are wanted.
    """

    __slots__ = (
        "_changes",
        "_follow",
        "_left",
        "_lus",
        "_running",
        "_sent",
        "_sink",
        "_stored",
        "live",
    )

    def __init__(
        self,
        sink: Sink,
        stored: Iterator[Event],
        *,
        follow: Callable[[EventStream], None] | None,
        lus: frozenset[str] | None,
        limit: int | None,
        since_seq: int,
        changes: bool = False,
    ) -> None:
        self._sink = sink
        self._stored = stored
        self._follow = follow
        self._lus = lus
        self._left = limit
        self._sent = since_seq
        self._changes = changes
        self._running = True
        self.live = False

    def pump(self) -> None:
        """Send a portion of what is stored, and see to it that the next one follows.

        Does nothing while the sink is full: the sink calls again when it is not.
        """
        if not self._running or self.live or self._sink.full():
            return
        try:
            portion = list(islice(self._stored, _PORTION))
        except PrtraceError as error:
            self._end(refusal(error).reply)
            return
        texts = [event_json(event.to_json()) for event in portion]
        if texts and not self._send(texts, portion[-1].seq):
            return
        if len(portion) == _PORTION:
            asyncio.get_running_loop().call_soon(self.pump)
        elif self._follow is None:
            self._end(reply({}))
        else:
            # The last look at the store, just now, found nothing, and nothing can be published
            # between it and this.
            self.live = True
            self._follow(self)

    def publish(self, events: Sequence[tuple[Event, bytes]]) -> None:
        """Send those of events that are wanted; bytes are event_json()'s."""
        wanted = [
            (event.seq, text)
            for event, text in events
            if event.seq > self._sent
            and (self._lus is None or event.lu in self._lus)
            and (not self._changes or event.command in CHANGING)
        ]
        if not wanted or not self._running:
            return
        if self._sink.waiting() > MAX_BEHIND:
            self._end(reply({"gap": self._sent}))
            return
        self._send([text for _, text in wanted[: self._left]], wanted[-1][0])

    def stop(self) -> None:
        """Send nothing more: the connection is gone."""
        self._running = False

    def _send(self, events: list[bytes], last: int) -> bool:
        """Whether more may be sent after these."""
        self._sink.write(events_reply(events))
        self._sent = last
        if self._left is not None:
            self._left -= len(events)
            if self._left <= 0:
                self._end(reply({}))
        return self._running

    def _end(self, message: bytes) -> None:
        self._running = False
        self._sink.write(message)
        self._sink.finished(self)
