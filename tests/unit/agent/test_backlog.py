"""While a long backlog is taken the loop runs: callers are answered, or wait, and are told."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from labkit import pace

from agent.test_watch import Agent, register
from prtrace.agent import watch
from prtrace.agent.backlog import Backlog
from prtrace.errors import StoreError
from prtrace.store.database import Store

FULL = 64
"""Records that fit into the ring."""


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    """An agent to whom every batch is a slice, and one record a batch."""
    monkeypatch.setattr(watch, "_SLICE", 0.0)
    monkeypatch.setattr(watch, "_BATCH", 1)
    monkeypatch.setattr(watch, "_LEAST", 1)
    made = Agent(tmp_path / "prtrace.db")
    monkeypatch.setattr(made.watch, "count", lambda: None)  # there is no kernel here
    yield made
    made.close()
    os.close(made.producer.fd)


def backlog_of(agent: Agent, *, patience: float = 60.0) -> Backlog:
    def or_end(work: object) -> None:
        assert callable(work)
        work()

    made = Backlog(agent.watch, or_end, patience=patience)
    made.adopted()
    return made


def fill(agent: Agent, first: int = 1, count: int = FULL) -> None:
    agent.put(*(register(n, 0x700 + n) for n in range(first, first + count)))


def taken(agent: Agent) -> int:
    """How many records: what else is told by itself, when time passes, is no part of a backlog."""
    return sum(event.record > 0 for event in agent.store.events())


def test_a_short_backlog_is_taken_at_once(agent: Agent) -> None:
    async def asked() -> object:
        return backlog_of(agent).caught_up()

    fill(agent, count=1)
    assert asyncio.run(asked()) is None
    assert taken(agent) == 1


def test_others_are_heard_while_a_long_one_is_taken(agent: Agent) -> None:
    async def asked() -> tuple[bool, int]:
        backlog = backlog_of(agent)
        waiting = backlog.caught_up()
        assert waiting is not None
        assert backlog.behind
        turns = 0
        while not waiting.done():
            turns += 1
            await asyncio.sleep(0)
        assert not backlog.behind
        return waiting.result(), turns

    fill(agent)
    current, turns = asyncio.run(asked())
    assert current
    assert turns >= FULL // 2
    assert taken(agent) == FULL


def test_one_slice_for_all_who_ask_at_once(agent: Agent) -> None:
    async def asked() -> None:
        backlog = backlog_of(agent)
        waiting = [backlog.caught_up() for _ in range(20)]
        assert all(each is not None for each in waiting)
        # As long again as the slice took is the others'; a processor may be taken away there.
        assert taken(agent) < 10
        assert all(await asyncio.gather(*(each for each in waiting if each is not None)))

    fill(agent)
    asyncio.run(asked())
    assert taken(agent) == FULL


def test_nobody_waits_for_what_comes_later(agent: Agent) -> None:
    async def asked() -> None:
        backlog = backlog_of(agent)
        first = backlog.caught_up()
        assert first is not None
        fill(agent, 1 + FULL // 2, FULL // 2)
        later = backlog.caught_up()
        assert later is not None
        assert await first
        assert taken(agent) < FULL
        assert await later

    fill(agent, count=FULL // 2)
    asyncio.run(asked())
    assert taken(agent) == FULL


def test_who_waited_for_long_is_told_that_it_is_not_current(agent: Agent, monkeypatch) -> None:
    async def asked() -> bool:
        backlog = backlog_of(agent, patience=0.05)
        waiting = backlog.caught_up()
        assert waiting is not None
        return await waiting

    pump = agent.watch.pump

    def slow() -> bool:
        time.sleep(0.02)
        return pump()

    monkeypatch.setattr(agent.watch, "pump", slow)
    fill(agent)
    assert not asyncio.run(asked())
    assert taken(agent) < FULL


def test_a_store_that_fails_holds_nobody_up(agent: Agent, monkeypatch) -> None:
    """Its problem is the answer then."""

    async def asked() -> bool:
        backlog = backlog_of(agent)
        waiting = backlog.caught_up()
        assert waiting is not None

        def full(*_: object, **__: object) -> None:
            raise StoreError("the disk is full")

        monkeypatch.setattr(Store, "commit", full)
        return await asyncio.wait_for(waiting, pace.limit(10))

    fill(agent)
    assert asyncio.run(asked())
    assert agent.watch.stalled == "the disk is full"


def test_callers_wait_until_what_was_before_is_adopted(agent: Agent) -> None:
    """Taken is not enough: the agent then looks at paths and counters."""

    async def asked() -> None:
        backlog = Backlog(agent.watch, lambda work: work())
        assert backlog.behind
        wells: list[int] = []
        waiting = backlog.caught_up()
        assert waiting is not None
        await backlog.adopt(lambda: wells.append(taken(agent)))
        await asyncio.sleep(0)
        assert taken(agent) == FULL
        assert len(set(wells)) > FULL // 2
        assert not waiting.done()
        assert backlog.behind
        backlog.adopted()
        assert await waiting
        assert not backlog.behind

    fill(agent)
    asyncio.run(asked())


def test_who_has_gone_is_forgotten(agent: Agent) -> None:
    async def asked() -> None:
        backlog = backlog_of(agent)
        waiting, other = backlog.caught_up(), backlog.caught_up()
        assert waiting is not None
        assert other is not None
        waiting.cancel()
        assert await other
        backlog.look()

    fill(agent)
    asyncio.run(asked())
