"""Deadlines of many clients, of which one is carried out in a turn of the event loop.

The loop's own timers all run in the turn in which they are due: clients that connected together
would be thrown out together, and a request that comes meanwhile would wait for all of them.
There are few different durations, and the deadlines of one are due in the order they were set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio


class Late(Protocol):
    """What has a deadline; it is known by its identity."""

    def expire(self) -> None:
        """The deadline has passed."""
        ...


class Deadlines:
    """At most one for each; call it from the event loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: dict[float, dict[Late, float]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._due.values()))

    def set(self, late: Late, seconds: float) -> None:
        """Let it expire so many seconds from now."""
        due = self._loop.time() + seconds
        waiting = self._due.get(seconds)
        if waiting is None:
            waiting = self._due[seconds] = {}
            self._loop.call_at(due, self._expire_one, seconds)
        waiting[late] = due

    def drop(self, late: Late, seconds: float) -> None:
        """Forget the one that was set with so many seconds, if it is still to come."""
        # The queue stays until its timer finds it empty: there is one timer for each.
        self._due.get(seconds, {}).pop(late, None)

    def _expire_one(self, seconds: float) -> None:
        waiting = self._due[seconds]
        late, due = next(iter(waiting.items()), (None, 0.0))
        if late is None:
            del self._due[seconds]
            return
        # At once where that is past: in the next turn, after whatever is ready by then.
        self._loop.call_at(due, self._expire_one, seconds)
        if due <= self._loop.time():
            del waiting[late]
            late.expire()
