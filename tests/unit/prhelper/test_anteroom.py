"""Sockets that wait their turn, and deadlines that do: never two in one turn of the loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Callable, Coroutine
from typing import TypeVar

from prtrace.prhelper.anteroom import Anteroom
from prtrace.prhelper.deadlines import Deadlines

Result = TypeVar("Result")
MANY = 20
SECONDS = 20


class Turns:
    """Counts the loop's turns: a callback that calls itself runs once in each."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.number = 0
        self._count()

    def _count(self) -> None:
        self.number += 1
        self._loop.call_soon(self._count)


class Visitor:
    def __init__(self, turns: Turns, served: list[int], wanted: int) -> None:
        self._turns = turns
        self._served = served
        self._wanted = wanted
        self.all_served = asyncio.Event()

    def expire(self) -> None:
        self._served.append(self._turns.number)
        if len(self._served) >= self._wanted:
            self.all_served.set()


def run(play: Callable[[Anteroom], Coroutine[None, None, Result]]) -> Result:
    anteroom = Anteroom()
    with asyncio.Runner(loop_factory=anteroom.new_loop) as runner:
        result = runner.run(play(anteroom))
    anteroom.close()
    return result


def test_others_go_first() -> None:
    async def play(anteroom: Anteroom) -> list[str]:
        loop = asyncio.get_running_loop()
        served: list[str] = []
        done = asyncio.Event()
        with contextlib.ExitStack() as stack:
            slow, one = map(stack.enter_context, socket.socketpair())
            quick, two = map(stack.enter_context, socket.socketpair())
            anteroom.add(slow.fileno(), lambda: (served.append("slow"), done.set())[0])
            loop.add_reader(quick.fileno(), lambda: served.append("quick"))
            one.send(b"x")
            two.send(b"x")
            async with asyncio.timeout(SECONDS):
                await done.wait()
            loop.remove_reader(quick.fileno())
            anteroom.remove(slow.fileno())
        return served

    assert run(play)[:2] == ["quick", "slow"]


def test_all_are_served_and_one_in_a_turn() -> None:
    async def play(anteroom: Anteroom) -> tuple[list[int], set[int]]:
        turns = Turns(asyncio.get_running_loop())
        served: list[int] = []
        whom: set[int] = set()
        done = asyncio.Event()

        def look(sock: socket.socket) -> None:
            served.append(turns.number)
            whom.add(sock.fileno())
            if len(whom) == MANY:
                done.set()

        with contextlib.ExitStack() as stack:
            for _ in range(MANY):
                ours, other = map(stack.enter_context, socket.socketpair())
                # It stays readable: whoever is served must still let the others have a turn.
                other.send(b"x")
                anteroom.add(ours.fileno(), functools.partial(look, ours))
                stack.callback(anteroom.remove, ours.fileno())
            async with asyncio.timeout(SECONDS):
                await done.wait()
        assert not len(anteroom)
        return served, whom

    served, whom = run(play)
    assert len(whom) == MANY
    assert len(set(served)) == len(served), "two in one turn"


def test_who_was_removed_is_not_served() -> None:
    async def play(anteroom: Anteroom) -> list[str]:
        served: list[str] = []
        done = asyncio.Event()
        with contextlib.ExitStack() as stack:
            first, one = map(stack.enter_context, socket.socketpair())
            second, two = map(stack.enter_context, socket.socketpair())
            anteroom.add(first.fileno(), lambda: served.append("removed"))
            anteroom.add(second.fileno(), lambda: (served.append("stays"), done.set())[0])
            one.send(b"x")
            two.send(b"x")
            anteroom.remove(first.fileno())
            async with asyncio.timeout(SECONDS):
                await done.wait()
        return served

    assert set(run(play)) == {"stays"}


def test_deadlines_that_pass_together_take_a_turn_each() -> None:
    async def play() -> tuple[list[int], int]:
        loop = asyncio.get_running_loop()
        deadlines, turns = Deadlines(loop), Turns(loop)
        served: list[int] = []
        visitors = [Visitor(turns, served, MANY) for _ in range(MANY)]
        for visitor in visitors:
            deadlines.set(visitor, 0.05)
        async with asyncio.timeout(SECONDS):
            await visitors[-1].all_served.wait()
        return served, len(deadlines)

    served, left = asyncio.run(play())
    assert len(set(served)) == len(served) == MANY
    assert not left


def test_a_deadline_that_was_dropped_does_not_pass_and_one_set_again_is_late() -> None:
    async def play() -> tuple[list[int], list[int], list[int], float]:
        loop = asyncio.get_running_loop()
        deadlines, turns = Deadlines(loop), Turns(loop)
        dropped, again, other = [], [], []  # type: list[int], list[int], list[int]
        gone, late = Visitor(turns, dropped, 1), Visitor(turns, again, 1)
        deadlines.set(gone, 1.0)
        deadlines.set(late, 1.0)
        await asyncio.sleep(0.05)
        deadlines.drop(gone, 1.0)
        deadlines.drop(late, 1.0)
        begun = loop.time()
        deadlines.set(late, 1.0)
        short = Visitor(turns, other, 1)
        deadlines.set(short, 0.01)
        async with asyncio.timeout(SECONDS):
            await short.all_served.wait()
            assert not again, "the longer one first"
            await late.all_served.wait()
        return dropped, again, other, loop.time() - begun

    dropped, again, other, taken = asyncio.run(play())
    assert not dropped
    assert len(again) == len(other) == 1
    assert taken >= 1.0
