"""The schedule of readings in simulated time: rates, lanes, paths, and what is left alone."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from examples import share

from prtrace.agent.schedule import Candidate, ReadingLimits, ReadOrder, Result, Schedule

LIMITS = ReadingLimits()


@dataclass
class World:
    """Units, their paths, and a clock.  answer: (result, seconds that it takes)."""

    paths: dict[str, list[Candidate]]
    answer: Callable[[ReadOrder], tuple[Result, float]] = lambda _: (Result.ANSWERED, 0.002)
    limits: ReadingLimits = LIMITS
    now: float = 0.0
    begun: list[tuple[float, ReadOrder]] = field(default_factory=list)
    most_under_way: int = 0

    def __post_init__(self) -> None:
        chance = random.Random(1).random
        self.schedule = Schedule(lambda lu: self.paths.get(lu, []), self.limits, chance)
        self._ends: list[tuple[float, int, ReadOrder, Result]] = []

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            for order in self.schedule.begin(self.now):
                self.begun.append((self.now, order))
                result, takes = self.answer(order)
                heapq.heappush(self._ends, (self.now + takes, order.number, order, result))
            self.most_under_way = max(self.most_under_way, self.schedule.under_way)
            times = [self._ends[0][0]] if self._ends else []
            at = self.schedule.next_at(self.now)
            if at is not None:
                times.append(max(at, self.now + 1e-6))
            if not times or min(times) > end:
                self.now = end
                return
            self.now = min(times)
            while self._ends and self._ends[0][0] <= self.now:
                _, _, order, result = heapq.heappop(self._ends)
                self.ended(order)
                self.schedule.end(order, result, self.now)

    def ended(self, order: ReadOrder) -> None:
        """For a world that keeps count."""

    def times_of(self, lu: str) -> list[float]:
        return [when for when, order in self.begun if order.lu == lu]

    def used(self, lu: str) -> list[str]:
        return [order.path.nexus for _, order in self.begun if order.lu == lu]


def path(nexus: str, *reluctance: int) -> Candidate:
    host, channel, target, _ = nexus.split(":")
    return Candidate(nexus, f"{host}:{channel}:{target}", host, reluctance)


def most_in_a_second(times: list[float]) -> int:
    most = first = 0
    for last, when in enumerate(times):
        while times[first] <= when - 1:
            first += 1
        most = max(most, last - first + 1)
    return most


def test_four_thousand_units_that_never_settle() -> None:
    """The stated rates hold from start to end, of all and of each target; then all is quiet."""
    paths = {f"lu{n}": [path(f"{host}:0:{host}:{n}") for host in range(4)] for n in range(4000)}
    world = World(paths)
    for lu in paths:
        world.schedule.want(lu, 0.0, fresh=False)
    world.run(41)
    assert {order.lu for _, order in world.begun} == set(paths), "each was asked once after 40 s"
    world.run(3600)
    assert most_in_a_second([when for when, _ in world.begun]) <= LIMITS.rate + 1
    for host in range(4):
        mine = [when for when, order in world.begun if order.path.host == str(host)]
        assert most_in_a_second(mine) <= LIMITS.target_rate + 1
    assert set(Counter(order.lu for _, order in world.begun).values()) == {LIMITS.futile}
    before = len(world.begun)
    world.run(86_400)
    assert len(world.begun) == before, "what they do not tell is not asked again"


def test_a_target_is_asked_at_its_own_rate() -> None:
    """Units of one target alone: its rate is the limit, from the first second on."""
    paths = {f"lu{n}": [path(f"0:0:0:{n}")] for n in range(300)}
    world = World(paths, lambda _: (Result.ANSWERED, 0.0001))
    for lu in paths:
        world.schedule.want(lu, 0.0, fresh=False)
    world.run(5)
    times = [when for when, _ in world.begun]
    assert most_in_a_second(times) <= LIMITS.target_rate + 1
    assert len(times) > 4 * LIMITS.target_rate


def test_what_waits_goes_first_when_something_new_is_seen_of_it() -> None:
    paths = {f"lu{n}": [path(f"0:0:0:{n}")] for n in range(1000)}
    world = World(paths)
    for lu in paths:
        world.schedule.want(lu, 0.0, fresh=False)
    world.run(2)
    waits = next(lu for lu in reversed(list(paths)) if not world.times_of(lu))
    world.schedule.want(waits, world.now, fresh=True)
    world.run(0.5)
    assert world.times_of(waits)


def test_units_that_never_answer_are_asked_less_and_less() -> None:
    paths = {f"lu{n}": [path(f"0:0:0:{n}"), path(f"1:0:0:{n}")] for n in range(400)}
    world = World(paths, lambda _: (Result.PATH_FAILED, 0.001))
    for lu in paths:
        world.schedule.want(lu, 0.0, fresh=False)
    world.run(7200)
    last = [when for when, _ in world.begun if when > 3600]
    assert len(last) / 3600 <= 2 * 400 / (LIMITS.longest_pause_s * (1 - LIMITS.jitter)) * 1.1
    assert last, "but never no more: a path may come back"
    assert most_in_a_second([when for when, _ in world.begun]) <= LIMITS.rate + 1


@pytest.mark.parametrize("same_target", [False, True])
def test_dead_units_do_not_delay_a_healthy_one(same_target: bool) -> None:
    paths = {f"dead{n}": [path(f"0:0:0:{n}")] for n in range(40)}
    paths["healthy"] = [path("0:0:0:99" if same_target else "0:0:1:99")]
    dead = (Result.PATH_FAILED, 60.0)
    world = World(
        paths, lambda order: dead if order.lu != "healthy" else (Result.ANSWERED, 0.002),
        ReadingLimits(spread_s=0.0),
    )  # fmt: skip
    for lu in paths:
        world.schedule.want(lu, 0.0, fresh=False)
    world.run(5)
    assert world.times_of("healthy")[0] < 1.0
    assert world.most_under_way >= 40


def test_a_target_has_few_readings_at_a_time() -> None:
    paths = {f"lu{n}": [path(f"0:0:0:{n}")] for n in range(100)}
    world = World(paths, lambda _: (Result.ANSWERED, 0.039))
    for lu in paths:
        world.schedule.want(lu, 0.0, fresh=False)
    world.run(20)
    assert world.most_under_way <= LIMITS.target_busy
    paths = {f"lu{n}": [path(f"0:0:{n}:0")] for n in range(100)}
    world = World(paths, lambda _: (Result.ANSWERED, 0.039), ReadingLimits(rate=10_000))
    for lu in paths:
        world.schedule.want(lu, 0.0, fresh=False)
    world.run(20)
    assert world.most_under_way == LIMITS.host_busy


def test_the_number_under_way_is_limited_whatever_hangs() -> None:
    paths = {f"lu{n}": [path(f"0:0:{n}:0")] for n in range(50)}
    world = World(paths, lambda _: (Result.PATH_FAILED, 1000.0), ReadingLimits(under_way=20))
    for lu in paths:
        world.schedule.want(lu, 0.0, fresh=False)
    world.run(900)
    assert world.most_under_way == 20


def test_after_a_failure_the_next_path_is_asked_at_once() -> None:
    world = World({"lu": [path("0:0:0:0", 0), path("1:0:0:0", 1), path("2:0:0:0", 2)]})
    world.answer = lambda order: (
        (Result.ANSWERED, 0.0) if order.path.host == "2" else (Result.PATH_FAILED, 0.01)
    )
    world.schedule.want("lu", 0.0, fresh=True)
    world.run(1)
    assert world.used("lu")[:3] == ["0:0:0:0", "1:0:0:0", "2:0:0:0"]
    assert world.times_of("lu")[2] < 0.5, "at once"


def test_a_failed_path_is_not_taken_before_the_others_failed_as_often() -> None:
    world = World({"lu": [path("0:0:0:0", 0), path("1:0:0:0", 1)]})
    world.answer = lambda _: (Result.PATH_FAILED, 0.01)
    world.schedule.want("lu", 0.0, fresh=True)
    world.run(100)
    used = world.used("lu")
    assert used[:4] == ["0:0:0:0", "1:0:0:0"] * 2
    assert abs(used.count("0:0:0:0") - used.count("1:0:0:0")) <= 1


def test_the_path_with_the_least_against_it_is_read() -> None:
    world = World({"lu": [path("0:0:0:0", 1, 0), path("1:0:0:0", 0, 1), path("2:0:0:0", 1, 1)]})
    world.schedule.want("lu", 0.0, fresh=True)
    world.run(0.3)
    assert world.used("lu") == ["1:0:0:0"]


def test_a_unit_without_a_path_is_looked_at_again() -> None:
    world = World({})
    world.schedule.want("lu", 0.0, fresh=True)
    world.run(1000)
    assert world.begun == []
    world.paths["lu"] = [path("0:0:0:0")]
    world.run(2 * LIMITS.longest_pause_s)
    assert world.times_of("lu")


def test_what_refuses_over_every_path_is_asked_again_after_a_day() -> None:
    world = World({"lu": [path("0:0:0:0", 0), path("1:0:0:0", 1)]})
    world.answer = lambda _: (Result.REFUSED, 0.001)
    world.schedule.want("lu", 0.0, fresh=True)
    world.run(80_000)
    assert world.used("lu") == ["0:0:0:0", "1:0:0:0"]
    world.schedule.want("lu", world.now, fresh=True)
    world.run(3600)
    assert len(world.begun) == 2, "nor because somebody else is refused"
    world.schedule.want("lu", world.now, fresh=True, wanted=True)
    world.run(3600)
    assert len(world.begun) == 3, "but when somebody wants it, once"
    world.run(86_400)
    assert len(world.begun) > 3


def test_something_new_wakes_a_unit_and_goes_first() -> None:
    paths = {f"lu{n}": [path(f"0:0:0:{n}")] for n in range(1000)}
    world = World(paths)
    for lu in paths:
        world.schedule.want(lu, 0.0, fresh=False)
    world.run(600)
    before = len(world.begun)
    for n in range(999):
        world.schedule.want(f"lu{n}", world.now, fresh=False)
    world.run(1)
    assert len(world.begun) == before, "nothing new"
    for lu in list(paths)[:999]:
        world.schedule.drop(lu)
        world.schedule.want(lu, world.now, fresh=False)
    world.run(1)
    asked = world.now
    world.schedule.want("lu999", asked, fresh=True)
    world.run(30)
    assert world.times_of("lu999")[-1] > asked
    first = next(when for when in world.times_of("lu999") if when > asked)
    assert first - asked < 1


def test_news_during_a_reading_are_followed_by_another() -> None:
    world = World({"lu": [path("0:0:0:0")]}, lambda _: (Result.ANSWERED, 1.0))
    world.schedule.want("lu", 0.0, fresh=True)
    for _ in range(10):
        world.run(1.5)
        world.schedule.want("lu", world.now, fresh=True)
    world.run(1000)
    assert len(world.begun) > LIMITS.futile


def test_what_is_dropped_is_not_asked() -> None:
    paths = {f"lu{n}": [path(f"0:0:0:{n}")] for n in range(10)}
    world = World(paths, lambda _: (Result.ANSWERED, 1.0))
    for lu in paths:
        world.schedule.want(lu, 0.0, fresh=False)
    world.run(0.3)
    for lu in paths:
        world.schedule.drop(lu)
    before = len(world.begun)
    world.run(1000)
    assert len(world.begun) == before
    assert world.schedule.under_way == 0
    assert "lu0" not in world.schedule


def test_a_unit_under_an_spc2_reservation_is_not_asked_over_every_path() -> None:
    world = World({"lu": [path("0:0:0:0"), path("1:0:0:0")]})
    world.answer = lambda _: (Result.UNIT_FAILED, 0.001)
    world.schedule.want("lu", 0.0, fresh=True)
    world.run(LIMITS.first_pause_s / 2)
    assert len(world.begun) == 1
    world.run(10_000)
    assert len(world.begun) > 10


def test_a_target_that_hangs_leaves_room_for_others() -> None:
    """A whole array hangs, more units than may be read at a time: another one does not wait."""
    paths = {f"dead{n}": [path(f"0:0:{n % 3}:{n}")] for n in range(4000)}
    paths["healthy"] = [path("1:0:0:0")]
    world = World(paths)
    world.answer = lambda order: (
        (Result.ANSWERED, 0.002) if order.lu == "healthy" else (Result.PATH_FAILED, 60.0)
    )
    for lu in paths:
        if lu != "healthy":
            world.schedule.want(lu, 0.0, fresh=False)
    for _ in range(40):
        world.run(7)
        asked = world.now
        world.schedule.drop("healthy")
        world.schedule.want("healthy", asked, fresh=True)
        world.run(1)
        assert any(when > asked for when in world.times_of("healthy"))
    assert LIMITS.under_way / 2 < world.most_under_way < LIMITS.under_way


class MovingWorld(World):
    """Units come, go and move between targets; targets get slow; answers never come.

    Target "8:0:0" is healthy all the time, as is its one unit, which is wanted now and then.
    Every reading is judged when it begins.
    """

    SLOW = 60.0

    def __init__(self, units: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.slow: set[str] = set()
        self.lost: set[int] = set()
        self.may_get_lost = 20
        self.running: dict[int, ReadOrder] = {}
        self.wanted: dict[str, float] = {}
        super().__init__({f"lu{n}": self.some_paths(n) for n in range(units)})
        self.paths["healthy"] = [path("8:0:0:0")]
        self.answer = self.answered

    def some_paths(self, number: int) -> list[Candidate]:
        hosts = self.random.sample(range(8), self.random.randint(1, 4))
        return [path(f"{host}:0:{number % 2}:{number}") for host in hosts]

    def answered(self, order: ReadOrder) -> tuple[Result, float]:
        """Judge a reading that begins, and choose how it ends."""
        assert order.lu not in {each.lu for each in self.running.values()}, "two of one unit"
        assert order.lu in self.schedule
        assert order.path in self.paths[order.lu], "over a path that it has now"
        self.running[order.number] = order
        self.wanted.pop(order.lu, None)
        if order.lu == "healthy":
            return Result.ANSWERED, 0.002
        if order.path.target in self.slow:
            return Result.PATH_FAILED, self.SLOW
        if self.may_get_lost and self.random.random() < 0.01:
            self.may_get_lost -= 1
            return Result.PATH_FAILED, 1e9
        return self.random.choice(list(Result)), self.random.choice((0.001, 0.01, 0.1))

    def ended(self, order: ReadOrder) -> None:
        self.running.pop(order.number, None)

    def forget(self, lu: str) -> None:
        """A reading of it that is under way says nothing of the next ones any more."""
        self.schedule.drop(lu)
        self.wanted.pop(lu, None)
        self.running = {n: order for n, order in self.running.items() if order.lu != lu}

    def something_happens(self) -> None:
        lu = f"lu{self.random.randrange(len(self.paths) - 1)}"
        match self.random.randrange(7):
            case 0:
                self.paths[lu] = []
                self.forget(lu)
            case 1 | 2:
                self.paths[lu] = self.some_paths(int(lu[2:]))
                self.schedule.want(lu, self.now, fresh=self.random.random() < 0.5)
            case 3:
                self.schedule.want(lu, self.now, fresh=True, wanted=self.random.random() < 0.2)
            case 4:
                self.slow ^= {f"{self.random.randrange(8)}:0:{self.random.randrange(2)}"}
            case 5:
                # Nobody looked at the clock for a while: SIGSTOP, or a machine that slept.
                self.now += self.random.choice((0.5, 30.0, 7200.0))
            case 6:
                self.forget("healthy")
                self.schedule.want("healthy", self.now, fresh=True)
                self.wanted["healthy"] = self.now
        self.run(self.random.choice((0.0, 0.01, 0.1, 2.0)))
        if "healthy" in self.wanted:
            self.run(1.0)
            assert "healthy" not in self.wanted, "it waited for a second"


@pytest.mark.parametrize("seed", range(share(3)))
@pytest.mark.parametrize("units", [40, 400, pytest.param(4000, marks=pytest.mark.slow)])
def test_no_unit_is_forgotten_whatever_moves(units: int, seed: int) -> None:
    """The rates hold from start to end, whatever moves; and no unit is forgotten."""
    world = MovingWorld(units, seed)
    for lu in world.paths:
        world.schedule.want(lu, 0.0, fresh=False)
    for _ in range(600):
        world.something_happens()
    times: dict[str, list[float]] = {}
    for when, order in world.begun:
        times.setdefault(order.path.target, []).append(when)
    assert most_in_a_second([when for when, _ in world.begun]) <= LIMITS.rate + 1
    assert all(most_in_a_second(each) <= LIMITS.target_rate + 1 for each in times.values())
    assert world.most_under_way <= LIMITS.under_way
    # All is well again, and something new is seen of every unit.
    world.slow.clear()
    world.may_get_lost = 0
    world.run(2 * world.SLOW)
    at = world.now
    for number in range(units):
        lu = f"lu{number}"
        world.paths[lu] = world.some_paths(number)
        world.forget(lu)
        world.schedule.want(lu, at, fresh=True)
    world.run(units / LIMITS.rate + 60)
    asked = {order.lu for when, order in world.begun if when >= at}
    assert asked >= world.paths.keys() - {"healthy"}


def test_anything_may_happen_in_any_order() -> None:
    """No limit is passed and no unit is lost, whatever comes."""
    chance = random.Random(7)
    paths = {
        f"lu{n}": [path(f"{n % 3}:0:{n % 5}:{n}"), path(f"3:0:{n % 2}:{n}")] for n in range(60)
    }
    world = World(paths, lambda _: (chance.choice(list(Result)), chance.random() / 5))
    for _ in range(2000):
        lu = chance.choice(list(paths))
        match chance.randrange(4):
            case 0 | 1:
                world.schedule.want(lu, world.now, fresh=chance.random() < 0.5)
            case 2:
                world.schedule.drop(lu)
            case 3:
                paths[lu] = (
                    chance.sample(paths[lu], len(paths[lu])) if chance.random() < 0.7 else []
                )
        world.run(chance.random() / 10)
        assert world.schedule.under_way <= 60
    assert most_in_a_second([when for when, _ in world.begun]) <= LIMITS.rate + 1
    for lu in paths:
        paths[lu] = [path("9:0:9:9")]
        world.schedule.drop(lu)
        world.schedule.want(lu, world.now, fresh=True)
    at = world.now
    world.run(60)
    assert {order.lu for when, order in world.begun if when >= at} == set(paths)
