"""Unit attentions, conflicts of ordinary commands, SPC-2 reservations, failures and losses."""

from __future__ import annotations

import pytest
from reference_target import LU
from test_effects import DOUBT, RELEASED, SCST, A, B, doubted, send, start

from prtrace.model import (
    Action,
    Attention,
    AttentionSeen,
    ConflictSeen,
    LegacyReserve,
    Outcome,
    ReadFailed,
    RecordsLost,
    ReservationType,
    UnreadablePrOut,
)
from prtrace.state.apply import apply
from prtrace.state.unit import Fact

WE, WERO = ReservationType.WE, ReservationType.WERO


def attention(nexus: str, what: Attention, count: int = 1) -> AttentionSeen:
    return AttentionSeen(lu=LU, nexus=nexus, attention=what, count=count)


@pytest.mark.parametrize("target", ["LIO-ORG/disk/4.0", SCST])
def test_an_expected_unit_attention_is_taken_once(target: str) -> None:
    state = send(start({A: 1, B: 2}, (A, WERO), target), A, Action.RELEASE, 1, 0, WERO).state
    first = apply(state, attention(B, RELEASED))
    assert first.effect == f"expected: 2A/04 on {B}"
    assert first.state.doubts == ()
    second = apply(first.state, attention(B, RELEASED))
    assert doubted(second.state) == DOUBT
    assert "changed by somebody else" in second.effect


def test_more_than_expected_is_somebody_else() -> None:
    state = send(start({A: 1, B: 2}, (A, WERO)), A, Action.RELEASE, 1, 0, WERO).state
    assert apply(state, attention(B, RELEASED, 2)).state.doubts


def test_one_delivery_drops_the_rest_on_lio_and_not_on_scst() -> None:
    for target, left in (("LIO-ORG/disk/4.0", False), (SCST, True)):
        state = send(start({A: 1, B: 2}, (A, WERO), target), A, Action.RELEASE, 1, 0, WERO).state
        state = send(state, A, Action.CLEAR, 1).state
        state = apply(state, attention(B, Attention.RESERVATIONS_PREEMPTED)).state
        assert (B in state.expected) is left


def test_reset_drops_the_spc2_reservation_and_information_lost_drops_everything() -> None:
    reserve = LegacyReserve(lu=LU, nexus=A, release=False, outcome=Outcome.DONE)
    state = apply(start({}), reserve).state
    assert state.legacy_holder == A
    state = apply(state, attention(A, Attention.RESET)).state
    assert (state.legacy_holder, doubted(state)) == (None, DOUBT)
    lost = apply(start({A: 1}, (A, WE)), attention(A, Attention.INFORMATION_LOST)).state
    assert (dict(lost.registrations), lost.reservation, lost.generation) == ({}, None, None)
    assert doubted(lost) == DOUBT


@pytest.mark.parametrize(
    ("held", "nexus", "doubts"),
    [
        (None, A, True),
        ((A, WE), A, True),
        ((A, WERO), B, True),
        ((A, WE), B, False),
        ((A, WERO), "7:0:0:1", False),
    ],
)
def test_conflicts_of_ordinary_commands(held, nexus: str, doubts: bool) -> None:
    state = start({A: 1, B: 2}, held)
    change = apply(state, ConflictSeen(lu=LU, nexus=nexus, count=3))
    assert bool(change.state.doubts) is doubts


def test_a_conflict_from_before_the_release_is_no_evidence() -> None:
    state = send(start({A: 1}, (A, WE)), A, Action.RELEASE, 1, 0, WE, start_ns=5, done_ns=10).state
    assert apply(state, ConflictSeen(lu=LU, nexus=B, start_ns=7, done_ns=8)).state.doubts == ()
    assert apply(state, ConflictSeen(lu=LU, nexus=B, start_ns=11, done_ns=12)).state.doubts


def legacy(nexus: str, *, release: bool = False, outcome: Outcome = Outcome.DONE) -> LegacyReserve:
    return LegacyReserve(lu=LU, nexus=nexus, release=release, outcome=outcome)


def test_spc2_reserve_and_release() -> None:
    state = apply(start({}), legacy(A)).state
    assert state.legacy_holder == A
    assert apply(state, legacy(B, release=True)).state.legacy_holder == A
    assert apply(state, legacy(A, release=True)).state.legacy_holder is None
    conflict = send(state, B, Action.REGISTER, 0, 1, outcome=Outcome.CONFLICT)
    assert conflict.state.doubts == ()
    assert apply(state, ConflictSeen(lu=LU, nexus=B)).state.doubts == ()


def test_spc2_beside_registrations_changes_nothing() -> None:
    state = start({A: 1}, (A, WE))
    assert apply(state, legacy(A)).state.legacy_holder is None
    assert apply(state, legacy(B, outcome=Outcome.CONFLICT)).state.doubts == ()


def test_spc2_conflict_without_a_reason_and_unknown_outcome() -> None:
    assert doubted(apply(start({}), legacy(A, outcome=Outcome.CONFLICT)).state) == DOUBT
    unknown = apply(start({}), legacy(A, outcome=Outcome.UNKNOWN)).state
    assert doubted(unknown) == {Fact.RESERVATION}


def test_failed_reads() -> None:
    def failed(outcome: Outcome) -> ReadFailed:
        return ReadFailed(lu=LU, nexus=A, action="READ KEYS", outcome=outcome)

    state = start({})
    assert apply(state, failed(Outcome.NOT_EXECUTED)).state == state
    assert doubted(apply(state, failed(Outcome.CONFLICT)).state) == {Fact.RESERVATION}
    assert doubted(apply(start({A: 1}), failed(Outcome.CONFLICT)).state) == DOUBT
    reserved = apply(state, legacy(A)).state
    assert apply(reserved, failed(Outcome.CONFLICT)).state.doubts == ()


def test_losses_and_commands_not_understood() -> None:
    lost = apply(start({A: 1}), RecordsLost(lu=LU, nexus=A, cause="ring full", count=3))
    assert doubted(lost.state) == DOUBT
    assert f"3 records of {A} lost (ring full)" in lost.effect
    unread = UnreadablePrOut(lu=LU, nexus=A, outcome=Outcome.DONE, problem="list too short")
    assert "list too short" in apply(start({A: 1}), unread).effect
    refused = UnreadablePrOut(lu=LU, nexus=A, outcome=Outcome.NOT_EXECUTED, problem="")
    assert apply(start({A: 1}), refused).state.doubts == ()
