"""What waits in the ring, taken in slices between which the event loop answers callers.

A ring can hold minutes of work: a storm that an agent finds when it starts after an upgrade, or
what came while the store's disk was full.  A call that needs to know what has happened by now
waits beside the loop until the records that were there when it came are taken, for a while; then
it is answered with what is known, and the answer says that this is not current.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

from prtrace.agent.watch import Watch

_PATIENCE: Final = 10.0
"""Seconds that a call waits: less than a client waits for its reply."""


class _Waiting(NamedTuple):
    """A caller who waits until everything up to end is taken."""

    end: int
    done: asyncio.Future[bool]


class Backlog:
    """Everything is called on the loop's thread.

    or_end: calls its argument; what that raises ends the agent.  patience: seconds that a caller
    waits at most.
    """

    def __init__(
        self,
        watch: Watch,
        or_end: Callable[[Callable[[], None]], None],
        *,
        patience: float = _PATIENCE,
    ) -> None:
        self._watch = watch
        self._or_end = or_end
        self._patience = patience
        self._waiting: list[_Waiting] = []
        self._scheduled = False
        self._adopting = True

    @property
    def behind(self) -> bool:
        """Whether records wait that a caller may know the commands of."""
        return self._adopting or self._watch.behind

    def caught_up(self) -> asyncio.Future[bool] | None:
        """None where everything that has happened by now is taken.

        Otherwise what is done once it is (True), or when the caller's patience is over (False).
        """
        self._watch.drain()
        if not self.behind:
            return None
        loop = asyncio.get_running_loop()
        waiting = _Waiting(self._watch.end, loop.create_future())
        timer = loop.call_later(self._patience, _finish, waiting.done, False)
        waiting.done.add_done_callback(lambda _: timer.cancel())
        self._waiting.append(waiting)
        self._go_on()
        return waiting.done

    async def adopt(self, still_well: Callable[[], None]) -> None:
        """Take what happened before this agent began; the agent is behind until adopted().

        still_well: called between two batches.
        """
        end = self._watch.end
        while not self._watch.reached(end) and self._watch.pump():
            still_well()
            await asyncio.sleep(0)

    def adopted(self) -> None:
        """What happened before this agent began is in the states."""
        self._adopting = False
        self.look()

    def look(self) -> None:
        """Records were taken: let the callers go on that have waited for them."""
        if self._adopting:
            return
        for each in self._waiting:
            if self._watch.reached(each.end):
                _finish(each.done, True)
        self._waiting = [each for each in self._waiting if not each.done.done()]

    def _go_on(self) -> None:
        # The ring's descriptor wakes the loop for new records, not for those that a drain left.
        if not self._scheduled and not self._adopting:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._or_end, self._slice)

    def _slice(self) -> None:
        self._scheduled = False
        more = self._watch.pump()
        self.look()
        if more and self._waiting:
            self._go_on()


def _finish(done: asyncio.Future[bool], current: bool) -> None:
    if not done.done():
        done.set_result(current)
