"""Whether every record has come, over the death of an agent too."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prtrace.agent.sequence import MOST_STORED, Sequence


def successor(of: Sequence) -> Sequence:
    """The next agent's, from what is stored."""
    return Sequence(of.newest, of.no_room, of.missing_after(()))


def lost(sequence: Sequence, no_room: int = 0) -> int:
    return max(sequence.look(no_room), sequence.look(no_room))


def test_a_number_that_is_missing_at_the_second_look_is_gone() -> None:
    sequence = Sequence(None, 0)
    sequence.came([1, 3])
    assert (sequence.look(0), sequence.look(0)) == (0, 1)
    sequence.told(1)
    assert sequence.look(0) == 0


def test_the_next_agent_looks_for_what_was_missing() -> None:
    sequence = Sequence(None, 0)
    sequence.came([1, 3, 7])
    assert sequence.missing_after([5]) == [(2, 2), (4, 4), (6, 6)]
    after = successor(sequence)
    after.came([2, 8])
    assert lost(after) == 3
    after.told(3)
    assert lost(successor(after)) == 0


def test_what_found_no_room_is_no_gap_of_the_next_agent_either() -> None:
    sequence = Sequence(None, 5)
    sequence.came([1, 4])
    # The two that found no room were counted, and told, before the agent died.
    assert lost(successor(sequence), 7) == 0
    assert lost(successor(sequence), 6) == 1


def test_a_great_many_gaps_are_stored_as_fewer() -> None:
    sequence = Sequence(0, 0)
    sequence.came(range(2, 1000, 2))
    stored = sequence.missing_after(())
    assert len(stored) == MOST_STORED
    assert stored[0][0] == 1
    assert all(any(first <= n <= last for first, last in stored) for n in range(1, 998, 2))


@given(
    st.lists(st.integers(1, 30), unique=True),
    st.integers(0, 30),
    st.booleans(),
)
def test_a_death_at_any_moment_changes_nothing(numbers: list[int], at: int, look: bool) -> None:
    """At most one look away from the same answer: the next agent looks anew."""
    living, dying = Sequence(0, 0), Sequence(0, 0)
    for place, number in enumerate(numbers):
        if place == at:
            if look:
                living.look(0)
                dying.look(0)
            dying = successor(dying)
        living.came([number])
        dying.came([number])
    assert lost(living) == lost(dying)


def test_numbers_that_are_missing_at_the_end_are_found() -> None:
    """Nothing behind them came: a store was put back that is older than the ring."""
    sequence = Sequence(4, 0)
    assert sequence.look(0, 7) == 0
    assert sequence.look(0, 7) == 3
    sequence.told(3)
    assert lost(successor(sequence)) == 0
    sequence.came([8])
    assert [sequence.look(0, 8) for _ in range(3)] == [0, 0, 0]


def test_the_first_agent_of_all_misses_nothing() -> None:
    sequence = Sequence(None, 0)
    assert [sequence.look(0, 7) for _ in range(3)] == [0, 0, 0]


@given(st.data())
def test_what_comes_within_a_look_is_never_gone(data: st.DataObject) -> None:
    """A record is counted as it is numbered, and comes before the next look but one."""
    sequence, made = Sequence(0, 0), 0
    on_their_way: list[int] = []
    for size in data.draw(st.lists(st.integers(0, 9), max_size=8)):
        new = data.draw(st.permutations(range(made + 1, made + size + 1)))
        made += size
        early = data.draw(st.integers(0, size))
        sequence.came(data.draw(st.permutations([*on_their_way, *new[:early]])))
        on_their_way = new[early:]
        assert sequence.look(0, made) == 0
