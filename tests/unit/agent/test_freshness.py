"""A wish for newer knowledge: when there is one, what the resolver sees, when it is over."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from prtrace.agent.freshness import PATIENCE_NS, Freshness, Now
from prtrace.model import NotWatched
from prtrace.state.apply import apply
from prtrace.state.unit import Confirmation, Fact, LuState

SECOND = 1_000_000_000
NOW = 5_000 * SECOND
"""Of CLOCK_MONOTONIC."""
WALL = 1_700_000_000 * SECOND


def moment(ns: int, wall: int = WALL) -> Now:
    return Now(wall + ns, ns)


def confirmed(at: int) -> LuState:
    how = Confirmation(WALL + at, "READ FULL STATUS", "1:0:0:0", at)
    return LuState("naa.1", confirmed=MappingProxyType(dict.fromkeys(Fact, how)))


def test_only_what_is_older_is_wanted() -> None:
    wishes = Freshness({"naa.1": confirmed(NOW - 10 * SECOND)})
    assert not wishes.want("naa.1", moment(NOW), 11)
    assert wishes.is_met("naa.1")
    assert wishes.want("naa.1", moment(NOW), 9)
    assert not wishes.is_met("naa.1")


def test_no_age_at_all_asks_now_and_what_was_never_confirmed_is_too_old() -> None:
    wishes = Freshness({"naa.1": confirmed(NOW), "naa.2": LuState("naa.2")})
    assert wishes.want("naa.1", moment(NOW), 0)
    assert wishes.want("naa.2", moment(NOW), 1000)


def test_the_resolver_sees_doubt_until_a_command_submitted_later_confirms() -> None:
    states = {"naa.1": confirmed(NOW - SECOND)}
    wishes = Freshness(states)
    wishes.want("naa.1", moment(NOW), 0)
    seen = wishes.state("naa.1", NOW + 1)
    assert seen is not None
    assert all(seen.doubted(fact) for fact in Fact)
    assert states["naa.1"].doubts == ()
    states["naa.1"] = confirmed(NOW - 1)
    assert not wishes.is_met("naa.1"), "that command was submitted before"
    states["naa.1"] = confirmed(NOW + 5)
    assert wishes.is_met("naa.1")
    assert wishes.state("naa.1", NOW + 6) == states["naa.1"]


def test_one_fact_that_is_not_confirmed_is_waited_for() -> None:
    states = {"naa.1": confirmed(NOW - SECOND)}
    wishes = Freshness(states)
    wishes.want("naa.1", moment(NOW), 0)
    late = Confirmation(WALL + NOW + 5, "READ KEYS", "1:0:0:0", NOW + 5)
    both = MappingProxyType({**states["naa.1"].confirmed, Fact.GENERATION: late})
    states["naa.1"] = replace(states["naa.1"], confirmed=both)
    assert not wishes.is_met("naa.1")


def test_a_wish_ends_with_time() -> None:
    wishes = Freshness({"naa.1": confirmed(NOW - SECOND)})
    wishes.want("naa.1", moment(NOW), 0)
    seen = wishes.state("naa.1", NOW + PATIENCE_NS + 1)
    assert seen is not None
    assert seen.doubts == ()


def test_a_unit_that_nobody_knows_is_wanted_and_has_no_state() -> None:
    wishes = Freshness({})
    assert wishes.want("naa.9", moment(NOW), 5)
    assert wishes.state("naa.9", NOW) is None


def test_a_clock_that_is_set_back_makes_nothing_young() -> None:
    """What was confirmed an hour ago has a time that is still to come."""
    states = {"naa.1": confirmed(NOW)}
    wishes = Freshness(states)
    later = moment(NOW + 3600 * SECOND, WALL - 86_400 * SECOND)
    assert wishes.want("naa.1", later, 60)
    assert not wishes.is_met("naa.1")


def test_what_is_of_another_start_of_the_host_is_old() -> None:
    states = {"naa.1": apply(confirmed(NOW), NotWatched(lu="naa.1", nexus="")).state}
    assert states["naa.1"].as_of == WALL + NOW
    assert Freshness(states).want("naa.1", moment(NOW + SECOND), 60)
