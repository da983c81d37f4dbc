"""Where targets differ: LIO, SCST, SPDK and those that are not known."""

from __future__ import annotations

from test_effects import OTHER, REGISTER, SCST, SPDK, A, B, C, doubted, held, keys, send, start

from prtrace.model import Action, ReservationType
from prtrace.state.unit import Fact

WE, EA, _, _, WEAR, _ = ReservationType


def test_lio_designated_holder_preempted_changes_the_type() -> None:
    state = send(start({A: 1, B: 2, C: 3}), B, Action.RESERVE, 2, 0, WEAR).state
    assert state.reservation.designated == B
    taken = send(state, A, Action.PREEMPT, 1, 2, EA).state
    assert (keys(taken), held(taken)) == ({A: 1, C: 3}, (A, EA, 1))
    kept = send(state, A, Action.PREEMPT, 1, 3, EA).state
    assert (keys(kept), held(kept)) == ({A: 1, B: 2}, (None, WEAR, 0))
    gone = send(state, B, REGISTER, 2, 0).state
    assert gone.reservation.designated == A


def test_lio_designated_holder_not_known_puts_the_reservation_in_doubt() -> None:
    state = start({A: 1, B: 2, C: 3}, (A, WEAR))
    assert state.reservation.designated is None
    after = send(state, A, Action.PREEMPT, 1, 2, EA).state
    assert doubted(after) == {Fact.RESERVATION}
    assert keys(after) == {A: 1, C: 3}


def test_a_successor_is_named_only_where_the_order_is_known() -> None:
    state = send(start({A: 1}), A, Action.RESERVE, 1, 0, WEAR).state
    for nexus in (B, C):
        state = send(state, nexus, REGISTER, 0, 5, start_ns=10, done_ns=20).state
    assert state.doubts == ()
    assert send(state, A, REGISTER, 1, 0).state.reservation.designated is None


def test_scst_keeps_the_sender_and_counts_everything() -> None:
    state = send(start({A: 1, B: 1}, target=SCST), A, Action.PREEMPT, 1, 1, WE).state
    assert (keys(state), state.generation, state.doubts) == ({A: 1}, 11, ())
    state = send(state, A, REGISTER, 1, 0).state
    assert (state.generation, state.doubts) == (12, ())


def test_an_unknown_target_is_doubted_where_targets_differ() -> None:
    own = send(start({A: 1, B: 2}, target=OTHER), A, Action.PREEMPT, 1, 1, WE).state
    assert own.doubted(Fact.REGISTRATIONS)
    left = send(start({A: 1, B: 2}, target=OTHER), A, REGISTER, 1, 0).state
    assert doubted(left) == {Fact.GENERATION}
    released = send(start({A: 1, B: 2}, (A, WEAR), OTHER), A, Action.RELEASE, 1, 0, WEAR).state
    assert released.doubted(Fact.RESERVATION)


def test_spdk_raises_no_unit_attentions() -> None:
    assert not send(start({A: 1, B: 2}, target=SPDK), A, Action.CLEAR, 1).state.expected
