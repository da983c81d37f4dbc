"""Whose call is answered next: root's at once, the others' in turn and a few at a time.

An event loop runs whatever is ready before it looks at its sockets again.  Without turns two
hundred calls that are ready at once are answered in one go, and nobody else is heard for as
long as that takes.
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

    def take(self, uid: int, answer: Callable[[], None]) -> None:
        """Call answer when it is the turn of uid."""
        if uid == 0:
            answer()
            return
        self._waiting.setdefault(uid, deque()).append(answer)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._serve)

    def _serve(self) -> None:
        end = time.monotonic() + _PORTION
        self._scheduled = False
        while self._waiting and time.monotonic() < end:
            uid = next(iter(self._waiting))
            answers = self._waiting.pop(uid)
            answer = answers.popleft()
            if answers:
                self._waiting[uid] = answers
            answer()
        if self._waiting and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._serve)
