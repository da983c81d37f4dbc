"""Calls that wait for devices: each on a thread, its steps and its end told on the loop.

A job belongs to nobody's connection: a client that goes away in the middle of it does not
stop it, and neither does an agent that is told to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from prtrace.api.calls import Refusal, refusal, reply, steps_reply
from prtrace.api.interface import Fault
from prtrace.api.moving import Work
from prtrace.api.rights import Right
from prtrace.api.source import HISTORY_BEHIND, AgentSource, Step
from prtrace.api.stream import PORTION, Sink
from prtrace.errors import PrtraceError, UnavailableError
from prtrace.state.event import Event
from prtrace.store.history import EventQuery

Answer = TypeVar("Answer")

_THREADS: Final = {Right.READ: 2, Right.CHANGE: 8}
"""For peers that may do no more than this: nobody who may only read delays a move."""
_WAITING: Final = 32
"""Jobs of such peers, under way or waiting for a thread; more are refused."""
_PATIENCE: Final = 60.0
"""Seconds for the loop to answer a job; it runs until the last one has ended."""
_ANSWER_SECONDS: Final = 20.0
"""For a device to confirm what is known; less than the time that a client waits for a reply."""
FAULT: Final = refusal(PrtraceError("the call failed", hint="see the agent's log")).reply
"""For what should not happen; the loop logs what it was."""


class Job:
    """One call under way, as its connection sees it.  more: the client wants to hear steps."""

    live = False

    def __init__(self, sink: Sink, *, more: bool, oneway: bool) -> None:
        self._sink: Sink | None = sink
        self._more = more
        self.oneway = oneway

    def pump(self) -> None:
        """Nothing waits in a job: what happens is told when it happens."""

    def give_up(self) -> bool:
        """Nobody can go on with a job later."""
        return False

    def stop(self) -> None:
        """Tell nothing more: the connection is gone.  The work goes on."""
        self._sink = None

    def step(self, lu: str, what: str) -> None:
        """Tell a step; one too many for a client that does not read is left out."""
        if self._more and self._sink is not None and self._sink.waiting() <= PORTION:
            self._sink.write(steps_reply(lu, what))

    def end(self, message: bytes) -> None:
        """Send the last reply."""
        if self._sink is None:
            return
        if not self.oneway:
            self._sink.write(message)
        self._sink.finished(self)


class Jobs:
    """Threads for jobs.  Every method is called on the loop's thread."""

    def __init__(self) -> None:
        self._pools: dict[Right, ThreadPoolExecutor] = {}
        self._running: dict[Right, set[asyncio.Task[None]]] = {right: set() for right in Right}
        self._closing = False

    def start(self, right: Right, work: Work, job: Job) -> None:
        """Begin work, or wait for a thread to do so; Refusal where too much waits.

        right: the most that the caller may do.
        """
        running = self._running[right]
        if self._closing or len(running) >= _WAITING:
            why = "the agent ends" if self._closing else f"{_WAITING} such calls are under way"
            raise Refusal(Fault.BUSY, {"message": why, "hint": "wait"}, oneway=job.oneway)
        if right not in self._pools:
            name = f"prtrace-{right.value}"
            self._pools[right] = ThreadPoolExecutor(_THREADS[right], thread_name_prefix=name)
        loop = asyncio.get_running_loop()

        def step(lu: str, what: str) -> None:
            loop.call_soon_threadsafe(job.step, lu, what)

        task = loop.create_task(_run(self._pools[right], work, step, job), name=f"job {right}")
        running.add(task)
        task.add_done_callback(running.discard)

    @property
    def under_way(self) -> int:
        """How many jobs there are."""
        return sum(len(running) for running in self._running.values())

    async def close(self) -> None:
        """Wait for the jobs to end.

        Every command has a time limit and every job a number of commands, so they do end;
        whoever cannot wait kills the process, and the journal knows the rest.
        """
        self._closing = True
        if tasks := [task for running in self._running.values() for task in running]:
            await asyncio.wait(tasks)
        for pool in self._pools.values():
            pool.shutdown()


async def _run(pool: ThreadPoolExecutor, work: Work, step: Step, job: Job) -> None:
    loop = asyncio.get_running_loop()
    message = FAULT
    try:
        message = reply(await loop.run_in_executor(pool, work, step))
    except PrtraceError as error:
        message = refusal(error).reply
    except Refusal as error:
        message = error.reply
    finally:
        job.end(message)


class News:
    """Wakes those who wait for the agent to learn something.  For the loop's thread."""

    def __init__(self) -> None:
        self._came = asyncio.Event()

    def came(self) -> None:
        """Wake all who wait now."""
        self._came.set()
        self._came = asyncio.Event()

    async def wait(self) -> None:
        """Until came() is called."""
        await self._came.wait()


class SourceForThreads:
    """The AgentSource for other threads: each question is answered on the loop's thread.

    news: comes whenever a state may have changed.
    """

    def __init__(self, source: AgentSource, news: News, loop: asyncio.AbstractEventLoop) -> None:
        self._source = source
        self._news = news
        self._loop = loop

    def show(self, names: Sequence[str]) -> dict[str, Any]:
        """As Observed.show."""

        async def shown() -> dict[str, Any]:
            return self._source.show(names, behind=not await self._current())

        return self._there(shown())

    def changes(self, lu: str, last: int) -> Iterator[Event]:
        """As Observed.changes."""
        query = EventQuery(lus=(lu,), last=last, changes=True)

        async def stored() -> Iterator[list[Event]]:
            if not await self._current():
                raise UnavailableError(HISTORY_BEHIND, hint="ask again later")
            return self._source.events(query)

        for portion in self._there(stored()):
            yield from portion

    def refresh(self, names: Sequence[str], max_age: int) -> list[dict[str, Any]]:
        """Have the devices confirm what is older than max_age seconds, and wait for it."""
        return self._there(self._refreshed(names, max_age))

    async def _refreshed(self, names: Sequence[str], max_age: int) -> list[dict[str, Any]]:
        wanted = self._source.want(names, max_age)
        waiting = [each.lu for each in wanted if each.asked and not each.problem]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_SECONDS):
                while waiting := list(self._source.unconfirmed(waiting)):
                    await self._news.wait()
        late = f"the device has not confirmed it within {_ANSWER_SECONDS:g} s"
        return [
            {
                "lu": each.lu,
                "asked": each.asked,
                "problem": late if each.lu in waiting else each.problem,
            }
            for each in wanted
        ]

    async def _current(self) -> bool:
        waiting = self._source.caught_up()
        return waiting is None or await waiting

    def _there(self, answer: Coroutine[Any, Any, Answer]) -> Answer:
        try:
            return asyncio.run_coroutine_threadsafe(answer, self._loop).result(_PATIENCE)
        except TimeoutError:
            raise PrtraceError("the agent is too busy to say what it knows") from None
