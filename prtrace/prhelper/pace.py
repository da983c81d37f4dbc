"""How often somebody may come (pure).

A new connection costs the others more than a request does: a look at who has come, a place, a
thread.  A client that comes again as soon as it is thrown out would take that from them again and
again, so everybody has a stock of arrivals.  Each connection takes one, and the stock fills
steadily; where it is empty, the connection waits until there is one.  Nobody waits for longer than
an empty stock takes to fill, however often it has come: who waits has a place, and those are few.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

_MANY: Final = 1024


class Pace:
    """at_once: a full stock.  each_second: how fast it fills.  Used by one thread at a time."""

    def __init__(self, at_once: int, each_second: int) -> None:
        self._step = 1 / each_second
        self._stock = at_once * self._step
        # When the stock of somebody is full again; nobody who has a full one is in here.
        self._full_at: dict[Hashable, float] = {}
        self._many = _MANY

    def due(self, who: Hashable, now: float) -> float:
        """When the connection that who makes now is served: now, or later.

        now: seconds of a clock that does not go back.
        """
        full_at = max(self._full_at.get(who, now), now) + self._step
        full_at = min(full_at, now + 2 * self._stock)
        self._full_at[who] = full_at
        if len(self._full_at) > self._many:
            self._full_at = {each: at for each, at in self._full_at.items() if at > now}
            self._many = max(_MANY, 2 * len(self._full_at))
        return max(now, full_at - self._stock)

    def __len__(self) -> int:
        """Of how many something is remembered."""
        return len(self._full_at)
