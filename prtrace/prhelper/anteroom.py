"""Where the sockets wait that nobody's command depends on: one of them is served in a turn.

New clients, and clients that have sent a part of something, may be many, and ready all at once.
The event loop serves whatever is ready before it looks again, so that a request which comes
meanwhile waits for all of them.  Behind a poll set of their own (an epoll(7) descriptor is itself
readable while one of its set is) they are one thing to the loop; the kernel lets them take turns.
"""

from __future__ import annotations

import asyncio
import select
import selectors
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class _Patient(selectors.EpollSelector):
    """Has one descriptor last in what is ready at a time."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self._last = last

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout)
        if len(ready) > 1:
            ready.sort(key=lambda each: each[0].fd == self._last)
        return ready


class Anteroom:
    """Call it from its event loop's thread."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._looks: dict[int, Callable[[], None]] = {}

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """Make the event loop, which in each turn serves whatever else is ready first."""
        loop = asyncio.SelectorEventLoop(_Patient(self._poll.fileno()))
        loop.add_reader(self._poll.fileno(), self._serve_one)
        return loop

    def __len__(self) -> int:
        return len(self._looks)

    def add(self, number: int, look: Callable[[], None]) -> None:
        """Call look, in its turn, while descriptor number is readable."""
        self._poll.register(number, select.EPOLLIN)
        self._looks[number] = look

    def remove(self, number: int) -> None:
        """Before the descriptor is closed."""
        self._poll.unregister(number)
        del self._looks[number]

    def close(self) -> None:
        """Nobody is served any more; the loop is closed already."""
        self._poll.close()

    def _serve_one(self) -> None:
        for number, _ in self._poll.poll(0, 1):
            self._looks[number]()
