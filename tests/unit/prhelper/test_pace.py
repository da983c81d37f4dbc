"""The stock of arrivals of each process."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from prtrace.prhelper.pace import Pace

AT_ONCE, EACH_SECOND = 3, 4
LONGEST = AT_ONCE / EACH_SECOND - 1e-6


def test_an_empty_stock_fills_steadily() -> None:
    pace = Pace(AT_ONCE, EACH_SECOND)
    assert [pace.due(1, 100.0) for _ in range(6)] == [100.0, 100.0, 100.0, 100.25, 100.5, 100.75]
    assert pace.due(2, 100.0) == 100.0
    # One second later the stock lacks two of the four that it had given out beyond itself.
    assert pace.due(1, 101.0) == 101.0
    assert pace.due(1, 110.0) == 110.0


def test_nobody_waits_for_longer_than_a_stock_takes_to_fill() -> None:
    pace = Pace(AT_ONCE, EACH_SECOND)
    assert max(pace.due(1, 100.0) for _ in range(1000)) == 100.0 + AT_ONCE / EACH_SECOND


ARRIVALS = st.lists(st.tuples(st.integers(1, 3), st.sampled_from((0.0, 0.05, 0.3, 2.0))))


@given(ARRIVALS)
def test_no_process_is_served_more_often_and_none_waits_that_comes_seldom(arrivals) -> None:
    pace, now = Pace(AT_ONCE, EACH_SECOND), 50.0
    served: dict[int, list[float]] = defaultdict(list)
    came: dict[int, list[float]] = defaultdict(list)
    for pid, later in arrivals:
        now += later
        due = pace.due(pid, now)
        assert due >= now
        before = served[pid]
        assert not before or due >= before[-1]
        # Whoever had as many as that in the time that a stock takes to fill may have to wait.
        lately = [at for at in before if at > now - AT_ONCE / EACH_SECOND]
        if len(lately) < AT_ONCE:
            assert due == now
        before.append(due)
        came[pid].append(now)
    for pid, each in served.items():
        # As far as nobody waited for the longest time there is, with how many others.
        longest = [at for at, now in zip(each, came[pid], strict=True) if at - now >= LONGEST]
        if not longest:
            for first, at in enumerate(each):
                for last in range(first, len(each)):
                    assert last - first <= AT_ONCE + (each[last] - at) * EACH_SECOND + 1e-6


def test_who_has_a_full_stock_again_is_forgotten() -> None:
    pace = Pace(AT_ONCE, EACH_SECOND)
    for pid in range(1, 100_000):
        assert pace.due(pid, pid / 100) == pid / 100
    assert len(pace) <= 1025
