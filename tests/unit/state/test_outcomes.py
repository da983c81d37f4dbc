"""Conflicts, unknown outcomes, and outcomes that the state rules out."""

from __future__ import annotations

import pytest
from test_effects import DOUBT, REGISTER, A, B, doubted, keys, send, start

from prtrace.model import Action, Outcome, ReservationType
from prtrace.state.unit import Fact

WE, EA = ReservationType.WE, ReservationType.EA

PREDICTED_CONFLICTS = [
    ("register, wrong key", {A: 1}, None, (A, REGISTER, 2, 3)),
    ("register, key though unregistered", {}, None, (A, REGISTER, 2, 3)),
    ("reserve, wrong key", {A: 1}, None, (A, Action.RESERVE, 2, 0, WE)),
    ("reserve by non-holder", {A: 1, B: 2}, (B, WE), (A, Action.RESERVE, 1, 0, WE)),
    ("reserve by holder, other type", {A: 1}, (A, WE), (A, Action.RESERVE, 1, 0, EA)),
    ("release by holder, other type", {A: 1}, (A, WE), (A, Action.RELEASE, 1, 0, EA)),
    ("release by holder, wrong key", {A: 1}, (A, WE), (A, Action.RELEASE, 2, 0, WE)),
    ("clear, wrong key", {A: 1}, None, (A, Action.CLEAR, 2)),
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
    unknown = send(state, *arguments, outcome=Outcome.UNKNOWN)
    assert unknown.state.doubts == ()


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
