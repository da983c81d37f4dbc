"""A log that guests cannot fill: so many lines of one kind in so much time, then a count."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

BURST: Final = 5
"""Lines of one kind in PERIOD_SECONDS."""
BURST_OF_ALL: Final = 100
"""Lines of all kinds together in PERIOD_SECONDS."""
PERIOD_SECONDS: Final = 60.0
_MOST_KINDS: Final = 1024


@dataclass(slots=True)
class _Kind:
    began: float
    said: int = 0
    unsaid: int = 0


class SparingLog:
    """Says what is given to it, sparingly; called by any thread."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._lock = threading.Lock()
        self._kinds: dict[str, _Kind] = {}
        self._all = _Kind(clock())

    def say(self, level: int, kind: str, message: str) -> None:
        """Log the message, unless too many of its kind, or of all kinds, were logged just now.

        The first message of a kind after such a time says how many were left out.
        """
        with self._lock:
            unsaid = self._count(kind)
        if unsaid is None:
            return
        left_out = f" ({unsaid} like it were not logged)" if unsaid else ""
        self._log.log(level, "%s%s", message, left_out)

    def _count(self, kind: str) -> int | None:
        """How many of the kind were left out before; None where this one is left out, too."""
        now = self._clock()
        if now - self._all.began >= PERIOD_SECONDS:
            self._all = _Kind(now)
            # What was left out is kept until it is said.
            self._kinds = {name: k for name, k in self._kinds.items()
                           if k.unsaid or now - k.began < PERIOD_SECONDS}  # fmt: skip
        found = self._kinds.get(kind)
        if found is None:
            if len(self._kinds) >= _MOST_KINDS:
                self._kinds.clear()
            found = self._kinds[kind] = _Kind(now)
        elif now - found.began >= PERIOD_SECONDS:
            found.began, found.said = now, 0
        if found.said >= BURST or self._all.said >= BURST_OF_ALL:
            found.unsaid += 1
            return None
        found.said += 1
        self._all.said += 1
        unsaid, found.unsaid = found.unsaid, 0
        return unsaid
