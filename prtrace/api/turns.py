"""Whose call is answered next: root's at once, the others' in turn and a few at a time.

An event loop runs whatever is ready before it looks at its sockets again.  Without turns two
hundred calls that are ready at once are answered in one go, and nobody else is heard for as
long as that takes.

The others together have half of the time at most.  Who may only read could otherwise keep a
processor busy for ever: root's own programs need it to ask, and whatever is recorded waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

_PORTION: Final = 0.01
"""Seconds of answering between two looks of the loop at everything else."""


class Turns:
    """Calls that wait for their turn, by user."""

    def __init__(self) -> None:
        self._waiting: dict[int, deque[Callable[[], None]]] = {}
        self._scheduled = False
        self._rests_until = 0.0

    def take(self, uid: int, answer: Callable[[], None]) -> None:
        """Call answer when it is the turn of uid."""
        if uid == 0:
            answer()
            return
        self._waiting.setdefault(uid, deque()).append(answer)
        self._go_on()

    def charge(self, seconds: float) -> None:
        """So much time was spent for others than root: for as long nothing is done for them."""
        self._rests_until = max(self._rests_until, time.monotonic()) + seconds

    @property
    def rest(self) -> float:
        """Seconds for which nothing is done for others than root."""
        return max(0.0, self._rests_until - time.monotonic())

    def _go_on(self) -> None:
        if self._waiting and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_at(self._rests_until, self._serve)

    def _serve(self) -> None:
        if self.rest:  # more was charged meanwhile
            self._scheduled = False
            self._go_on()
            return
        begun = time.monotonic()
        try:
            while self._waiting and time.monotonic() < begun + _PORTION:
                uid = next(iter(self._waiting))
                answers = self._waiting.pop(uid)
                answer = answers.popleft()
                if answers:
                    self._waiting[uid] = answers
                answer()
        finally:
            # As long as it took: a call that is long for its kind counts with what it is.
            self.charge(time.monotonic() - begun)
            # Not before: what comes during an answer waits for the rest, too.
            self._scheduled = False
            self._go_on()
