"""Whose call is next, and how much of the time all but root have: by a clock of the test's."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from prtrace.api import turns
from prtrace.api.turns import Turns


class Clock:
    """An event loop's clock and its timers; time passes only where the test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def call_at(self, when: float, call: Callable[[], None]) -> None:
        self.timers.append((when, call))

    def run(self, until: float) -> None:
        while self.timers and min(self.timers)[0] <= until:
            when, call = min(self.timers, key=lambda timer: timer[0])
            self.timers.remove((when, call))
            self.now = max(self.now, when)
            call()
        self.now = max(self.now, until)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(turns, "time", SimpleNamespace(monotonic=lambda: made.now))
    monkeypatch.setattr(turns, "asyncio", SimpleNamespace(get_running_loop=lambda: made))
    return made


def test_roots_call_is_answered_at_once(clock: Clock) -> None:
    taken, told = Turns(), list[str]()
    taken.take(1000, lambda: told.append("other"))
    taken.take(0, lambda: told.append("root"))
    clock.run(clock.now)
    assert told == ["root", "other"]


def test_users_take_turns_whoever_asks_most(clock: Clock) -> None:
    taken, told = Turns(), list[int]()
    for uid in (1, 1, 1, 1, 2, 3):
        taken.take(uid, lambda uid=uid: told.append(uid))  # type: ignore[misc]
    clock.run(clock.now)
    assert told == [1, 2, 3, 1, 1, 1]


@pytest.mark.parametrize("seconds", [0.0002, 0.009, 0.03, 1.0])
def test_who_may_only_read_has_half_of_the_time(clock: Clock, seconds: float) -> None:
    """However many calls wait, and however long one of them takes; each leaves another one."""
    taken, begun, spent = Turns(), clock.now, 0.0

    def answer() -> None:
        nonlocal spent
        clock.now += seconds
        spent += seconds
        taken.take(1, answer)

    for _ in range(20):
        taken.take(1, answer)
    clock.run(clock.now + 100)
    assert 0.45 < spent / (clock.now - begun) < 0.51


def test_time_that_was_spent_elsewhere_counts(clock: Clock) -> None:
    """Of a step of the history's, while somebody waits already, and while nobody does."""
    taken, told = Turns(), list[float]()

    def answer() -> None:
        told.append(clock.now)

    taken.charge(2.0)
    taken.take(1, answer)
    clock.run(clock.now + 1)
    assert (told, taken.rest) == ([], 1.0)
    taken.charge(3.0)
    clock.run(clock.now + 3.5)
    assert told == []
    taken.take(0, lambda: told.append(0.0))
    clock.run(clock.now + 1)
    assert told == [0.0, 105.0]


def test_a_rest_holds_for_who_comes_during_it(clock: Clock) -> None:
    taken, told = Turns(), list[float]()

    def answer() -> None:
        clock.now += 0.5

    taken.take(1, answer)
    clock.run(clock.now)
    taken.take(2, lambda: told.append(clock.now))
    clock.run(clock.now + 10)
    assert told == [101.0]
    taken.take(2, lambda: told.append(clock.now))
    clock.run(clock.now)
    assert told == [101.0, 110.5], "nothing was done lately, and it had to wait"
