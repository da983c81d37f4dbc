"""Knowledge that is older than a caller wants: who wants which unit confirmed, and since when.

A unit that somebody wants confirmed looks to the resolver as if it were in doubt, until the device
has confirmed it by a command that was submitted after the wish.  Nobody else sees that doubt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prtrace.state.apply import in_doubt
from prtrace.state.unit import LuState

ASKED_FOR: Final = "newer knowledge was asked for"
PATIENCE_NS: Final = 30_000_000_000
"""How long a wish lasts: what a slow array may take, and the limits on asking."""


class Freshness:
    """The wishes.  states: the units' present states, by designator."""

    def __init__(self, states: Mapping[str, LuState]) -> None:
        self._states = states
        self._wanted: dict[str, int] = {}

    def want(self, lu: str, now: int, max_age_s: int) -> bool:
        """Want lu confirmed, if its knowledge is older than max_age_s at now; whether it is.

        now: nanoseconds since the epoch.
        """
        state = self._states.get(lu)
        as_of = None if state is None else state.as_of
        if as_of is not None and now - as_of <= max_age_s * 1_000_000_000 and max_age_s:
            return False
        self._wanted[lu] = now
        return True

    def is_met(self, lu: str) -> bool:
        """Whether the device has confirmed lu since it was wanted."""
        since = self._wanted.get(lu)
        if since is None:
            return True
        state = self._states.get(lu)
        if state is not None and state.as_of is not None and state.as_of >= since:
            del self._wanted[lu]
            return True
        return False

    def state(self, lu: str, now: int) -> LuState | None:
        """The state as the resolver is to see it: in doubt while somebody waits for it."""
        state = self._states.get(lu)
        if state is None or self.is_met(lu):
            return state
        if now - self._wanted[lu] > PATIENCE_NS:
            del self._wanted[lu]
            return state
        return in_doubt(state, ASKED_FOR, self._wanted[lu])
