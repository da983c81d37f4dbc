"""Conflicts, unknown outcomes, and outcomes that the state rules out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from reference_target import LU
from test_effects import DOUBT, REGISTER, A, B, doubted, keys, send, start

from prtrace.model import (
    Action,
    KeysRead,
    NotWatched,
    Outcome,
    PathsSeen,
    RecordsLost,
    ReservationType,
)
from prtrace.state.apply import apply
from prtrace.state.codec import from_json, to_json
from prtrace.state.decode import END_LOST
from prtrace.state.doubt import MAX_PER_FACT
from prtrace.state.draft import MAX_UNDER_WAY
from prtrace.state.unit import Fact

WE, EA = ReservationType.WE, ReservationType.EA

PREDICTED_CONFLICTS = [
    (
        "register, wrong key",
        {A: 1},
        None,
        (A, REGISTER, 2, 3),
    ),
    ("register, key though unregistered", {}, None, (A, REGISTER, 2, 3)),
    (
        "reserve, wrong key",
        {A: 1},
        None,
        (A, Action.RESERVE, 2, 0, WE),
    ),
    (
        "reserve by non-holder",
        {A: 1, B: 2},
        (B, WE),
        (A, Action.RESERVE, 1, 0, WE),
    ),
    (
        "reserve by holder, other type",
        {A: 1},
        (A, WE),
        (A, Action.RESERVE, 1, 0, EA),
    ),
    (
        "release by holder, other type",
        {A: 1},
        (A, WE),
        (A, Action.RELEASE, 1, 0, EA),
    ),
    (
        "release by holder, wrong key",
        {A: 1},
        (A, WE),
        (A, Action.RELEASE, 2, 0, WE),
    ),
    (
        "clear, wrong key",
        {A: 1},
        None,
        (A, Action.CLEAR, 2),
    ),
]


@pytest.mark.parametrize("row", PREDICTED_CONFLICTS, ids=[row[0] for row in PREDICTED_CONFLICTS])
def test_conflict_that_was_due_changes_nothing_and_its_absence_is_evidence(row) -> None:
    _, before, before_held, command = row
    state = start(before, before_held)
    arguments = (*command, None)[:5]
    refused = send(state, *arguments, outcome=Outcome.CONFLICT)
    assert refused.effect == "none"
    assert refused.state == state
    done = send(state, *arguments)
    assert done.state.doubts
    assert "should not have been done" in done.effect
    # The state that rules it out may be old, and this is the cheapest moment to look.
    unknown = send(state, *arguments, outcome=Outcome.UNKNOWN)
    assert unknown.state.doubts


@pytest.mark.parametrize("action", [Action.PREEMPT, Action.PREEMPT_AND_ABORT])
def test_preempt_conflict_puts_all_in_doubt(action: Action) -> None:
    state = send(start({A: 1, B: 2}), A, action, 1, 9, WE, Outcome.CONFLICT).state
    assert doubted(state) == DOUBT
    assert keys(state) == {A: 1, B: 2}


def test_conflict_though_nothing_is_in_the_way_is_evidence() -> None:
    state = send(start({A: 1}), A, Action.RESERVE, 1, 0, WE, Outcome.CONFLICT).state
    assert doubted(state) == DOUBT


@pytest.mark.parametrize(
    ("command", "facts"),
    [
        ((A, REGISTER, 1, 2), {Fact.REGISTRATIONS, Fact.GENERATION, Fact.RESERVATION}),
        ((B, REGISTER, 2, 3), {Fact.REGISTRATIONS, Fact.GENERATION}),
        ((B, REGISTER, 2, 0), {Fact.REGISTRATIONS, Fact.GENERATION}),
        ((A, Action.RELEASE, 1, 0, WE), {Fact.RESERVATION}),
        ((A, Action.CLEAR, 1), DOUBT),
        ((B, Action.PREEMPT, 2, 1, WE), DOUBT),
    ],
)
def test_unknown_outcome_doubts_what_could_have_changed(command, facts) -> None:
    state = start({A: 1, B: 2}, (A, WE))
    change = send(state, *(*command, None)[:5], outcome=Outcome.UNKNOWN, problem="timeout")
    assert doubted(change.state) == facts
    assert "timeout" in change.effect
    assert keys(change.state) == keys(state)
    assert send(state, *(*command, None)[:5], outcome=Outcome.NOT_EXECUTED).state == state


def timed_out(state, *command, **more):
    return send(
        state, *command, outcome=Outcome.UNKNOWN, problem="TIMEOUT", timed_out=True,
        start_ns=100, done_ns=200, **more,
    ).state  # fmt: skip


def reading(at: int) -> KeysRead:
    return KeysRead(
        lu=LU, nexus=B, generation=10, keys=(), truncated=False, start_ns=at, done_ns=at + 1
    )


def test_a_command_that_timed_out_is_under_way_until_its_request_is_over() -> None:
    """A reply before that shows what was, and not what the device will still do."""
    state = timed_out(start({}), A, REGISTER, 0, 5)
    early = apply(state, reading(300)).state
    assert doubted(early) >= {Fact.REGISTRATIONS, Fact.GENERATION}
    cleared = send(start({A: 1, B: 2}), B, Action.CLEAR, 2).state
    cleared = timed_out(cleared, A, REGISTER, 0, 5)
    assert doubted(send(cleared, B, REGISTER, 0, 2).state) >= {Fact.REGISTRATIONS}
    over = send(
        early, A, REGISTER, 0, 5, outcome=Outcome.UNKNOWN, problem="host error DID_TIME_OUT",
        start_ns=100, done_ns=400,
    ).state  # fmt: skip
    assert over.doubts
    assert not over.under_way
    assert apply(over, reading(500)).state.doubts == ()


NOBODY = PathsSeen(lu=LU, nexus="", paths=(), start_ns=300, done_ns=301)
UNWATCHED = NotWatched(lu=LU, nexus="", start_ns=300, done_ns=301)


def test_an_end_that_will_never_be_told_is_waited_for_no_longer() -> None:
    """The scsi_device is gone."""
    state = timed_out(start({A: 1}), A, REGISTER, 1, 5)
    assert state.under_way
    assert not apply(state, NOBODY).state.under_way
    assert not apply(apply(state, UNWATCHED).state, NOBODY).state.under_way


def test_a_command_stays_under_way_while_nobody_watches() -> None:
    """The error handler has it still: whoever watches next may not take a reading for the end."""
    state = apply(timed_out(start({A: 1}), A, REGISTER, 1, 5), UNWATCHED).state
    state = apply(from_json(to_json(state)), reading(500)).state
    assert [each.unwatched for each in state.under_way] == [True]
    assert Fact.REGISTRATIONS in doubted(state)
    over = RecordsLost(lu=LU, nexus=A, cause=END_LOST, over=True, start_ns=600, done_ns=601)
    state = apply(apply(state, over).state, reading(700)).state
    assert not state.under_way
    assert not state.doubts


def test_doubts_that_found_no_room_come_back_with_what_is_under_way() -> None:
    """A list of doubts is bounded; what a command may still do is not forgotten for it."""
    state = start({A: 1})
    sent = range(100, 100 + MAX_PER_FACT + 1)
    for at in sent:
        state = send(
            state, A, REGISTER, 1, at, outcome=Outcome.UNKNOWN, problem=f"TIMEOUT {at}",
            timed_out=True, start_ns=at, done_ns=200,
        ).state  # fmt: skip
    for at in sent[:-1]:
        state = send(
            state, A, REGISTER, 1, at, outcome=Outcome.NOT_EXECUTED, start_ns=at, done_ns=300
        ).state
    assert len(state.under_way) == 1
    state = apply(from_json(to_json(state)), reading(500)).state
    assert doubted(state) >= {Fact.REGISTRATIONS}


def test_more_commands_under_way_than_are_remembered() -> None:
    state = start({A: 1})
    for at in range(1, MAX_UNDER_WAY + 3):
        state = send(
            state, A, REGISTER, 1, 5, outcome=Outcome.UNKNOWN, problem="TIMEOUT",
            timed_out=True, start_ns=at, done_ns=at + 1,
        ).state  # fmt: skip
    for at in range(1, MAX_UNDER_WAY + 1):
        state = send(
            state, A, REGISTER, 1, 5, outcome=Outcome.NOT_EXECUTED, start_ns=at, done_ns=9000
        ).state
    assert len(state.under_way) == 1
    assert apply(state, reading(9500)).state.doubts
    over = RecordsLost(lu=LU, nexus=A, cause=END_LOST, over=True, start_ns=9600, done_ns=9601)
    assert not apply(apply(state, over).state, reading(9700)).state.doubts


def test_a_lost_record_ends_no_command() -> None:
    """It may have been the record of any command: this one may be carried out yet."""
    state = timed_out(start({A: 1}), A, REGISTER, 1, 5)
    lost = RecordsLost(lu=LU, nexus=A, cause="the ring was full", start_ns=300, done_ns=301)
    state = apply(apply(state, lost).state, reading(500)).state
    assert state.under_way
    assert state.doubts


def test_a_command_that_is_over_without_a_record_of_its_end_is_settled_by_a_reading() -> None:
    state = timed_out(timed_out(start({A: 1, B: 2}), A, REGISTER, 1, 5), B, REGISTER, 2, 6)
    over = RecordsLost(lu=LU, nexus=A, cause=END_LOST, over=True, start_ns=300, done_ns=301)
    state = apply(state, over).state
    assert [each.nexus for each in state.under_way] == [B]
    state = apply(state, replace(over, nexus=B)).state
    assert not state.under_way
    assert state.doubts
    assert not apply(state, reading(500)).state.doubts
