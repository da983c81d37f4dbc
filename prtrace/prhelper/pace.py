"""How often one process may come (pure).

A new connection costs the others more than a request does: a look at who has come, a place, a
thread.  A client that comes again as soon as it is thrown out would take that from them again and
again, so a process has a stock of arrivals.  Each connection takes one, and the stock fills
steadily; where it is empty, the connection waits until there is one.
"""

from __future__ import annotations

from typing import Final

_MANY: Final = 1024


class Pace:
    """at_once: a full stock.  each_second: how fast it fills.  Used by one thread."""

    def __init__(self, at_once: int, each_second: int) -> None:
        self._step = 1 / each_second
        self._stock = at_once * self._step
        # When the stock of a process is full again; nobody who has a full one is in here.
        self._full_at: dict[int, float] = {}
        self._many = _MANY

    def due(self, pid: int, now: float) -> float:
        """When the process's connection of now is served: now, or later.

        now: seconds of a clock that does not go back.  pid 0 stands for all processes that have no
        number here, guests among them that have done nothing: they do not wait.
        """
        if not pid:
            return now
        full_at = max(self._full_at.get(pid, now), now) + self._step
        self._full_at[pid] = full_at
        if len(self._full_at) > self._many:
            self._full_at = {each: at for each, at in self._full_at.items() if at > now}
            self._many = max(_MANY, 2 * len(self._full_at))
        return max(now, full_at - self._stock)

    def __len__(self) -> int:
        """Of how many processes something is remembered."""
        return len(self._full_at)
