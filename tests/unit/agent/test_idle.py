"""Readings that told nothing new: what is stored says exactly how many there were."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab.load import check_counted

from prtrace.agent.idle import Idle
from prtrace.state.event import Command, Event

_READINGS = ("READ KEYS", "READ RESERVATION")


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[list[Event]], set[int]]:
    """Batches of the events of two units, as the kernel counts them; the idle ones' records."""
    kinds = draw(st.lists(st.sampled_from(("idle", "own", "other", "told")), max_size=40))
    events, idle, record = [], set(), 0
    for kind in kinds:
        record += kind != "told"
        own = kind in ("idle", "own")
        idle |= {record} if kind == "idle" else set()
        events.append(
            Event(
                Command.PR_IN if own else Command.PR_OUT if kind == "other" else Command.LOST,
                lu=draw(st.sampled_from(("one", "two"))),
                record=0 if kind == "told" else record,
                action=draw(st.sampled_from(_READINGS)) if own else "REGISTER",
                device="own" if own else "",
                status=draw(st.sampled_from(("GOOD", "BUSY"))) if own else "",
                truncated=own and draw(st.booleans()),
            )
        )
    batches = []
    while events:
        size = draw(st.integers(1, 10))
        batches.append(events[:size])
        events = events[size:]
    return batches, idle


def stored(batches: list[list[Event]], idle: set[int]) -> list[Event]:
    """What the store has after all of them."""
    counts = Idle(lambda event: event.device == "own")
    history: list[Event] = []
    for batch in batches:
        chosen = counts.counted(batch, idle)
        assert set(counts.replaced) <= {event.seq for event in history}
        history = [event for event in history if event.seq not in counts.replaced]
        first = max((event.seq for event in history), default=0) + 1
        numbered = [event._replace(seq=first + n) for n, event in enumerate(chosen)]
        counts.stored(numbered, idle)
        history += numbered
    return history


def shown(events: list[Event]) -> list[dict[str, Any]]:
    """As prtrace.event/1 has them, as far as it is looked at here."""
    return [
        {
            "record": event.record,
            "command": event.command.value,
            "comm": "prtrace" if event.device else "load",
            "lu": event.lu,
            "count": event.count,
        }
        for event in events
    ]


def missing(batches: list[list[Event]], history: list[Event]) -> set[int]:
    made = {event.record for batch in batches for event in batch if event.record}
    return made - {event.record for event in history}


@given(histories())
def test_what_is_missing_is_counted_and_nothing_else(
    drawn: tuple[list[list[Event]], set[int]],
) -> None:
    batches, idle = drawn
    history = stored(batches, idle)
    gone = missing(batches, history)
    assert gone <= idle
    check_counted(shown(history), gone)


@given(histories())
def test_the_newest_of_each_kind_stays(drawn: tuple[list[list[Event]], set[int]]) -> None:
    """A reading that failed, or whose reply was cut off, does not stand for a whole one."""
    batches, idle = drawn
    there = {event.record for event in stored(batches, idle)}
    newest: dict[tuple[object, ...], int] = {}
    for event in (event for batch in batches for event in batch if event.record in idle):
        newest[event.lu, event.action, event.status, event.truncated] = event.record
    assert there >= set(newest.values())


@given(histories(), st.data())
def test_a_record_that_is_lost_shows(
    drawn: tuple[list[list[Event]], set[int]], data: st.DataObject
) -> None:
    """The judge of the lab's histories: it can fail."""
    batches, idle = drawn
    history = stored(batches, idle)
    kept = [event for event in history if event.record]
    if not kept:
        return
    lost = data.draw(st.sampled_from(kept))
    history.remove(lost)
    with pytest.raises(AssertionError):
        check_counted(shown(history), missing(batches, history))


def test_a_count_does_not_stand_for_what_came_before_something_else() -> None:
    events = [
        {"record": 1, "command": "PR OUT", "comm": "load", "lu": "one", "count": 1},
        {"record": 3, "command": "PR OUT", "comm": "load", "lu": "one", "count": 1},
        {"record": 4, "command": "PR IN", "comm": "prtrace", "lu": "one", "count": 2},
    ]
    with pytest.raises(AssertionError):
        check_counted(events, {2})
    check_counted([events[0], events[2]], {3})
