"""Queries of the history, step by step on a thread of their own, beside the event loop.

Each user but root has one portion under way or none, from the step that reads it until it
is sent: who asks for everything a hundred times, or does not read the answer, waits for
himself, and nobody else does.

What a step takes counts into the time that others than root have (prtrace.api.turns): Python runs
one thread at a time, so that a step beside the loop is time of the loop's all the same.  For the
same reason the thread has the priority of the loop.  One with less would keep the loop waiting for
the interpreter whenever other processes want the processor.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from prtrace.api.turns import Turns

Done = Callable[[Any], None]
"""Called on the loop with what a step gave, or with the exception that it raised."""


class _Step(NamedTuple):
    work: Callable[[], Any]
    done: Done


class Queries:
    """Takes steps in turn, the callers one after the other.  Called on the loop's thread."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._waiting: dict[int, deque[_Step]] = {}
        self._unsent: set[int] = set()
        self._pool: ThreadPoolExecutor | None = None
        self._running: asyncio.Task[None] | None = None

    def ask(self, caller: int, work: Callable[[], Any], done: Done) -> None:
        """Let work run on the thread when it is the turn of caller, a user id.

        Who asked says by sent() that what came of it is sent, or not wanted any more.
        """
        self._waiting.setdefault(caller, deque()).append(_Step(work, done))
        self._go_on()

    def sent(self, caller: int) -> None:
        """The portion that caller was given is out of the way."""
        self._unsent.discard(caller)
        if self._waiting:
            self._go_on()

    def _go_on(self) -> None:
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run(), name="history")

    def _next(self) -> int | None:
        """Root's come first; the others take turns."""
        if 0 in self._waiting:
            return 0
        return next((uid for uid in self._waiting if uid not in self._unsent), None)

    async def close(self) -> None:
        """Ask nothing more; the step under way is soon over."""
        self._waiting.clear()
        if self._running is not None:
            await self._running
        if self._pool is not None:
            self._pool.shutdown()

    async def _run(self) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "prtrace-history")
        loop = asyncio.get_running_loop()
        rested = False
        while (caller := self._next()) is not None:
            if caller and not rested and (rest := self._turns.rest):
                # Once: whoever has calls that are answered on the loop begins the next rest.
                await asyncio.sleep(rest)
                rested = True
                continue
            rested = False
            steps = self._waiting.pop(caller)
            step = steps.popleft()
            if steps:
                self._waiting[caller] = steps
            if caller:
                self._unsent.add(caller)
            begun = time.monotonic()
            try:
                outcome = await loop.run_in_executor(self._pool, step.work)
            except Exception as error:
                outcome = error
            if caller:
                self._turns.charge(time.monotonic() - begun)
            step.done(outcome)
        self._running = None
