"""Knowledge that is older than a caller wants: who wants which unit confirmed, and since when.

A unit that somebody wants confirmed looks to the resolver as if it were in doubt, until the device
has confirmed it by a command that was submitted after the wish.  Nobody else sees that doubt.
Ages are of CLOCK_MONOTONIC: the wall clock can be set back, and what is old would look new.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from prtrace.state.apply import in_doubt
from prtrace.state.unit import Fact, LuState

ASKED_FOR: Final = "newer knowledge was asked for"
PATIENCE_NS: Final = 30_000_000_000
"""How long a wish lasts: what a slow array may take, and the limits on asking."""


class Now(NamedTuple):
    """A moment on both clocks: nanoseconds since the epoch, and of CLOCK_MONOTONIC."""

    time: int
    ns: int


class Freshness:
    """The wishes.  states: the units' present states, by designator."""

    def __init__(self, states: Mapping[str, LuState]) -> None:
        self._states = states
        self._wanted: dict[str, Now] = {}

    def want(self, lu: str, now: Now, max_age_s: int) -> bool:
        """Want lu confirmed, if its knowledge is older than max_age_s at now; whether it is."""
        confirmed = _confirmed_ns(self._states.get(lu))
        young = confirmed is not None and now.ns - confirmed <= max_age_s * 1_000_000_000
        if young and max_age_s:
            return False
        self._wanted[lu] = now
        return True

    def is_met(self, lu: str) -> bool:
        """Whether the device has confirmed lu since it was wanted."""
        since = self._wanted.get(lu)
        if since is None:
            return True
        confirmed = _confirmed_ns(self._states.get(lu))
        if confirmed is not None and confirmed >= since.ns:
            del self._wanted[lu]
            return True
        return False

    def state(self, lu: str, now_ns: int) -> LuState | None:
        """The state as the resolver is to see it: in doubt while somebody waits for it."""
        state = self._states.get(lu)
        if state is None or self.is_met(lu):
            return state
        since = self._wanted[lu]
        if now_ns - since.ns > PATIENCE_NS:
            del self._wanted[lu]
            return state
        return in_doubt(state, ASKED_FOR, since.time)


def _confirmed_ns(state: LuState | None) -> int | None:
    """Since when every fact is confirmed (CLOCK_MONOTONIC); None where one never was, or where
    it is not known on this clock, which began anew when the host was started."""
    if state is None or len(state.confirmed) < len(Fact):
        return None
    oldest = min(each.start_ns for each in state.confirmed.values())
    return oldest or None
