"""An end is told to be lost only where it is over, and nobody told it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prtrace.agent.lostends import LostEnds
from prtrace.state.unit import UnderWay

A, B = "1:0:0:0", "2:0:0:0"
NONE: frozenset[str] = frozenset()
FIRST, SECOND = UnderWay(A, 100, "REGISTER"), UnderWay(A, 200, "RESERVE")


def test_two_looks_prove_it() -> None:
    ends = LostEnds()
    assert ends.look([("lu", FIRST)], frozenset({A}), NONE) == []
    assert ends.look([("lu", FIRST)], frozenset({A}), NONE) == [("lu", A)]


def test_what_the_kernel_still_has_is_not_over() -> None:
    ends = LostEnds()
    for idle in ({A}, set(), {A}, {B}):
        assert ends.look([("lu", FIRST)], frozenset(idle), NONE) == []


def test_a_command_that_timed_out_meanwhile_is_not_ended_with_the_other() -> None:
    ends = LostEnds()
    assert ends.look([("lu", FIRST)], frozenset({A}), NONE) == []
    assert ends.look([("lu", FIRST), ("lu", SECOND)], frozenset({A}), NONE) == []
    assert ends.look([("lu", FIRST), ("lu", SECOND)], frozenset({A}), NONE) == [("lu", A)]


def test_what_was_sent_before_the_programs_is_over_when_the_midlayer_says_so() -> None:
    before = ("lu", FIRST._replace(unwatched=True))
    ends = LostEnds()
    assert ends.look([before], frozenset({A}), NONE) == []
    assert ends.look([before], frozenset({A}), NONE) == []
    assert ends.look([before], NONE, frozenset({A})) == []
    assert ends.look([before], NONE, frozenset({A})) == [("lu", A)]


_WAITING = st.frozensets(
    st.tuples(
        st.sampled_from(["x", "y"]),
        st.builds(UnderWay, st.sampled_from([A, B]), st.sampled_from([1, 2]), st.just("")),
    )
)
_IDLE = st.frozensets(st.sampled_from([A, B]))


@given(st.lists(st.tuples(_WAITING, _IDLE), max_size=6))
def test_nothing_is_told_that_two_looks_did_not_see(looks) -> None:
    ends = LostEnds()
    before = (frozenset(), frozenset())
    for waiting, idle in looks:
        for lu, nexus in ends.look(waiting, idle, NONE):
            of_it = {each for each in waiting if (each[0], each[1].nexus) == (lu, nexus)}
            assert of_it
            assert of_it <= before[0]
            assert nexus in idle & before[1]
        before = waiting, idle
