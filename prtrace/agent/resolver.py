"""Ask the device where the state is in doubt.

What is sent is not looked at here: the reply comes back up through the kernel as a record
like everybody else's.  A PR IN collects the unit attention that its nexus was owed, so a
unit is read over the nexus that just had one delivered, or over one that nobody uses.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from prtrace.agent.surroundings import Surroundings
from prtrace.errors import PrtraceError
from prtrace.linux.sgio import Reply, SgDevice
from prtrace.model import LocalNexus
from prtrace.scsi.cdb import PrInCdb
from prtrace.scsi.codes import InAction, Status
from prtrace.state.unit import LuState

_THREADS: Final = 8
"""Reads under way at once; a dead device keeps its thread until the command times out."""
_TIMEOUT_MS: Final = 10_000
_LENGTH: Final = 8128
"""What a record can hold of a reply, less what LIO may write behind it: see prtrace.linux.sgio.

A multiple of the page size would let LIO write into the page behind, in its own host.
"""
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 30.0
_QUICK_TRIES: Final = 8
_PAUSE_GROWS: Final = 2.0
_SETTLE: Final = 0.5
"""Seconds given to a record to come back up, before the next try."""

_log = logging.getLogger("prtrace.resolver")


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of asking once: commands sent, and what kept them from being sent."""

    sent: int
    problem: str = ""


class Resolver:
    """One task a unit in doubt; it ends when the doubt does.

    state: gives the present state of a unit.
    """

    def __init__(
        self,
        surroundings: Surroundings,
        state: Callable[[str], LuState | None],
    ) -> None:
        self._surroundings = surroundings
        self._state = state
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="prtrace-read")
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._settled: dict[str, asyncio.Event] = {}
        self._safe: dict[str, str] = {}
        self.sent = 0

    def resolve(self, lu: str, safe: str = "") -> None:
        """Read a unit until nothing of it is in doubt.  safe: where reading disturbs nobody."""
        if safe:
            self._safe[lu] = safe
        if lu not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._run(lu), name=f"read {lu}")
            self._tasks[lu] = task
            task.add_done_callback(lambda _: self._tasks.pop(lu, None))

    def changed(self, states: Mapping[str, LuState]) -> None:
        """New states are in force: whoever waits for one of them goes on."""
        for lu in states:
            if lu in self._settled:
                self._settled[lu].set()

    async def close(self) -> None:
        """Stop asking; commands under way end by themselves."""
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, lu: str) -> None:
        pause = _FIRST_PAUSE
        tries = 0
        while True:
            state = self._state(lu)
            if state is None or not state.doubts:
                return
            nexus = self._nexus(lu, state)
            if nexus is None:
                return  # not here any more; a uevent that brings it back asks again
            settled = self._settled[lu] = asyncio.Event()
            asked = await asyncio.get_running_loop().run_in_executor(self._pool, _ask, nexus)
            self.sent += asked.sent
            if asked.problem:
                _log.warning("%s: reading over %s: %s", lu, nexus.nexus, asked.problem)
            await self._wait(lu, settled)
            tries += 1
            if tries > _QUICK_TRIES:
                pause = min(pause * _PAUSE_GROWS, _LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def _wait(self, lu: str, settled: asyncio.Event) -> None:
        """Until the doubt is gone, or the records had time enough to come up."""
        end = asyncio.get_running_loop().time() + _SETTLE
        while (left := end - asyncio.get_running_loop().time()) > 0:
            state = self._state(lu)
            if state is None or not state.doubts:
                break
            try:
                await asyncio.wait_for(settled.wait(), left)
            except TimeoutError:
                break
            settled.clear()
        self._settled.pop(lu, None)

    def _nexus(self, lu: str, state: LuState) -> LocalNexus | None:
        """Where to read: where a command was just answered, so that no unit attention waits;
        where none is known to wait; where nobody is registered who could miss one.
        """
        safe = self._safe.pop(lu, "")
        running = [
            nexus
            for nexus in self._surroundings.paths(lu)
            if nexus.state in ("", "running") and (nexus.sg or nexus.bsg or nexus.device)
        ]
        return min(
            running,
            key=lambda nexus: (
                nexus.nexus != safe,
                nexus.nexus in state.expected,
                nexus.nexus in state.registrations,
            ),
            default=None,
        )


def _ask(nexus: LocalNexus) -> Asked:
    """READ KEYS, which tells how many there are; READ FULL STATUS; where that is not to be
    had whole, READ RESERVATION.
    """
    sent = 0
    try:
        with SgDevice(nexus.sg or nexus.device or nexus.bsg) as device:
            for action in (
                InAction.READ_KEYS,
                InAction.READ_FULL_STATUS,
                InAction.READ_RESERVATION,
            ):
                cdb = PrInCdb(action, _LENGTH).build()
                reply = device.pr_in(cdb, _LENGTH, _TIMEOUT_MS)
                sent += 1
                if reply.attention:
                    reply = device.pr_in(cdb, _LENGTH, _TIMEOUT_MS)
                    sent += 1
                if action is InAction.READ_FULL_STATUS and _complete(reply):
                    return Asked(sent)
    except PrtraceError as error:
        return Asked(sent, problem=error.message)
    return Asked(sent)


def _complete(reply: Reply) -> bool:
    if reply.status != Status.GOOD or len(reply.received) < 8:
        return False
    return 8 + int.from_bytes(reply.received[4:8], "big") <= len(reply.received)
