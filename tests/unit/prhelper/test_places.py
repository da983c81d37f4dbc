"""The places of processes, units and users."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from prtrace.prhelper.places import Limits, Places

SMALL = Limits(connections=6, of_user=4, of_unit=3, of_process=2)


def test_a_refusal_names_the_limit_that_is_reached() -> None:
    places = Places(SMALL)
    assert places.take(1, "a.scope", 10) == places.take(1, "a.scope", 10) == ""
    assert places.take(1, "a.scope", 10) == "pid 10 has 2 connections"
    assert places.take(1, "a.scope", 11) == ""
    assert places.take(1, "a.scope", 12) == "unit a.scope has 3 connections"
    assert places.take(1, "b.scope", 13) == ""
    assert places.take(1, "c.scope", 14) == "uid 1 has 4 connections"
    assert places.take(2, "c.scope", 15) == places.take(2, "c.scope", 15) == ""
    assert places.take(3, "d.scope", 16) == "all 6 connections are taken"
    places.give_back(1, "b.scope", 13)
    assert places.take(1, "c.scope", 14) == ""


def test_what_is_unknown_has_no_limit_of_its_own() -> None:
    places = Places(Limits(10, 10, 1, 1))
    assert [places.take(1, "", 0) for _ in range(5)] == [""] * 5


CALLS = st.tuples(st.integers(0, 2), st.sampled_from(["", "a", "b"]), st.integers(0, 3))


@given(st.lists(CALLS, max_size=60), st.randoms())
def test_no_limit_is_ever_passed_and_nothing_leaks(calls, random) -> None:
    places, taken = Places(SMALL), []
    for call in calls:
        if taken and random.random() < 0.4:
            places.give_back(*taken.pop(random.randrange(len(taken))))
        if not places.take(*call):
            taken.append(call)
        assert len(places) == len(taken) <= 6
        assert max(Counter(uid for uid, _, _ in taken).values(), default=0) <= 4
        assert max(Counter(unit for _, unit, _ in taken if unit).values(), default=0) <= 3
        assert max(Counter(pid for _, _, pid in taken if pid).values(), default=0) <= 2
    for call in taken:
        places.give_back(*call)
    assert not len(places)
    assert not places._taken
