"""What happened just now, kept once for all followers."""

from __future__ import annotations

from typing import Final

from prtrace.api.calls import event_json
from prtrace.state.event import Event

MAX_BYTES: Final = 8 << 20
"""A follower that is further behind than this has to come back for the rest."""

Entry = tuple[Event, bytes]
"""An event, and what event_json() makes of it."""


class Recent:
    """The newest events as bytes, numbered by their place since the server's start.

    begin: the oldest place that is kept.  end: the place of the next one to come.
    """

    def __init__(self) -> None:
        self._kept: list[Entry] = []
        self._size = 0
        self.begin = 0

    @property
    def end(self) -> int:
        """The place of the next event to come."""
        return self.begin + len(self._kept)

    def add(self, event: Event) -> int:
        """Keep event, and drop the oldest ones beyond MAX_BYTES; returns its size."""
        text = event_json(event.to_json())
        self._kept.append((event, text))
        self._size += len(text)
        dropped = 0
        while self._size > MAX_BYTES and dropped < len(self._kept) - 1:
            self._size -= len(self._kept[dropped][1])
            dropped += 1
        self.begin += dropped
        del self._kept[:dropped]
        return len(text)

    def skip(self, count: int) -> None:
        """So many events happened that nobody waits for; what was kept is dropped, too."""
        self.begin = self.end + count
        self._kept.clear()
        self._size = 0

    def at(self, place: int) -> Entry:
        """The event at a place from begin to end, end excluded."""
        return self._kept[place - self.begin]
