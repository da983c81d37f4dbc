"""Replies of PR IN, and what is known from each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from reference_target import LU, TARGET
from test_binding import IQN1, descriptor, path
from test_effects import ALL, DOUBT, REGISTER, A, B, C, doubted, held, keys, send, start

from prtrace.model import (
    Action,
    FullStatusRead,
    Issuer,
    KeysRead,
    Outcome,
    ReservationRead,
    ReservationType,
)
from prtrace.state.apply import apply, new_state
from prtrace.state.unit import Fact, Source

WE, WERO, WEAR = ReservationType.WE, ReservationType.WERO, ReservationType.WEAR


def read_full(*registrations, generation=10, paths=(), **more) -> FullStatusRead:
    return FullStatusRead(
        lu=LU,
        nexus=A,
        generation=generation,
        registrations=registrations,
        truncated=False,
        paths=paths,
        time=9,
        **more,
    )


def test_confirming_keeps_who_did_it() -> None:
    state = send(start({}), A, REGISTER, 0, 7).state
    change = apply(
        state, read_full(descriptor("naa.1", 7), generation=11, paths=(path(A, "naa.1"),))
    )
    assert change.effect == "confirmed by reading"
    assert change.state.registrations[A].source is Source.OBSERVED
    assert change.state.registrations[A].initiator_port == "naa.1"
    corrected = apply(
        state, read_full(descriptor("naa.1", 8), generation=12, paths=(path(A, "naa.1"),))
    )
    assert corrected.effect.startswith("corrected by reading")
    assert corrected.state.registrations[A].source is Source.READ


def test_a_reply_that_contradicts_itself_is_in_doubt() -> None:
    twice = apply(new_state(LU, TARGET), read_full(descriptor("naa.1", 7), descriptor("naa.1", 8)))
    assert doubted(twice.state) == {Fact.REGISTRATIONS}
    holders = [descriptor(f"naa.{i}", i, holder=True, type=WE) for i in (1, 2)]
    assert doubted(apply(new_state(LU, TARGET), read_full(*holders)).state) == {Fact.RESERVATION}
    no_type = descriptor("naa.1", 7, holder=True)
    assert doubted(apply(new_state(LU, TARGET), read_full(no_type)).state) == {Fact.RESERVATION}


def test_an_unmatched_registration_is_bound_when_its_nexus_speaks() -> None:
    reply = read_full(
        descriptor("naa.1", 7, holder=True, type=WE),
        descriptor("naa.2", 8),
        paths=(path(A, None),),
    )
    state = apply(new_state(LU, TARGET), reply).state
    assert held(state) == ("naa.1,1", WE, 7)
    state = send(state, A, REGISTER, 7, 9).state
    assert state.doubts == ()
    assert keys(state) == {A: 9, "naa.2,1": 8}
    assert held(state) == (A, WE, 9)


def read_keys(generation: int, *listed: int, truncated=False) -> KeysRead:
    return KeysRead(lu=LU, nexus=A, generation=generation, keys=listed, truncated=truncated)


def test_the_same_keys_confirm_the_registrations() -> None:
    change = apply(start({A: 1, B: 2}), read_keys(10, 2, 1))
    assert change.effect == "confirmed by reading"
    assert change.state.doubts == ()


def test_keys_resolve_an_uncertain_register_that_did_nothing() -> None:
    state = send(start({A: 1}), B, REGISTER, 0, 2, outcome=Outcome.UNKNOWN).state
    assert apply(state, read_keys(10, 1)).state.doubts == ()
    happened = apply(state, read_keys(11, 1, 2)).state
    # Anything counted may have happened: another host's PREEMPT, too.
    assert doubted(happened) == {Fact.REGISTRATIONS, Fact.RESERVATION}
    assert happened.unattributed == (2,)


def test_equal_keys_at_another_generation_prove_nothing() -> None:
    state = apply(start({A: 1, B: 1}), read_keys(12, 1, 1)).state
    assert doubted(state) == {Fact.REGISTRATIONS, Fact.RESERVATION}
    assert state.generation == 12
    assert doubted(apply(state, read_keys(12, 1, 1)).state) >= {Fact.REGISTRATIONS}


def test_keys_that_are_gone_and_ambiguous_counts() -> None:
    # A local registration cannot leave unseen: only when it is said twice is it believed.
    gone = apply(start({A: 1, B: 2}), read_keys(10, 2))
    assert keys(gone.state) == {A: 1, B: 2}
    assert doubted(gone.state) == {Fact.REGISTRATIONS}
    gone = apply(gone.state, read_keys(10, 2))
    assert keys(gone.state) == {B: 2}
    assert gone.state.doubts == ()
    fewer = apply(start({A: 1, B: 1, C: 2}), read_keys(10, 1, 2)).state
    assert doubted(fewer) == {Fact.REGISTRATIONS}
    holder = apply(start({A: 1, B: 2}, (A, WE)), read_keys(10, 2)).state
    holder = apply(holder, read_keys(10, 2)).state
    assert doubted(holder) == {Fact.RESERVATION}


def test_no_keys_means_nothing_at_all() -> None:
    state = apply(new_state(LU, TARGET), read_keys(4)).state
    assert (state.doubts, state.generation, state.reservation) == ((), 4, None)


def test_keys_of_a_unit_never_seen() -> None:
    state = apply(new_state(LU, TARGET, 3), read_keys(4, 5, 5)).state
    assert state.unattributed == (5, 5)
    assert doubted(state) == {Fact.REGISTRATIONS, Fact.RESERVATION}
    reasons = {doubt.what: doubt for doubt in state.doubts}
    assert reasons[Fact.REGISTRATIONS].reason == "which nexus has which key is not known"
    assert reasons[Fact.REGISTRATIONS].since == 3
    state = send(state, A, Action.RESERVE, 5, 0, WE).state
    assert (keys(state), state.unattributed) == ({A: 5}, (5,))


def test_truncated_replies_teach_the_generation_only() -> None:
    change = apply(start({A: 1}), read_keys(10, 9, truncated=True))
    assert "not learned: truncated" in change.effect
    assert (keys(change.state), change.state.doubts) == ({A: 1}, ())


def read_reservation(generation: int, kind=None, key: int = 0) -> ReservationRead:
    return ReservationRead(lu=LU, nexus=A, generation=generation, type=kind, key=key, time=9)


def test_reservation_names_the_holder_by_a_unique_key() -> None:
    state = apply(start({A: 1, B: 2}), read_reservation(10, WE, 2)).state
    assert (held(state), state.doubts) == ((B, WE, 2), ())
    shared = apply(start({A: 1, B: 1}), read_reservation(10, WE, 1)).state
    assert held(shared) == (None, WE, 1)
    assert any("several nexuses" in doubt.reason for doubt in shared.doubts)
    nobody = apply(start({A: 1}), read_reservation(10, WE, 9)).state
    assert doubted(nobody) == DOUBT


def test_reservation_of_all_registrants_and_of_key_zero() -> None:
    state = apply(start({A: 1, B: 2}), read_reservation(10, WEAR)).state
    assert (held(state), state.doubts) == ((None, WEAR, 0), ())
    odd = apply(start({A: 1, B: 2}), read_reservation(10, WERO)).state
    assert held(odd) == (None, WERO, 0)
    assert doubted(odd) == {Fact.RESERVATION}


def test_reservation_confirms_a_holder_whose_key_is_shared() -> None:
    change = apply(start({A: 1, B: 1}, (B, WE)), read_reservation(10, WE, 1))
    assert (held(change.state), change.effect) == ((B, WE, 1), "confirmed by reading")


def test_reservation_at_another_generation_doubts_the_registrations() -> None:
    change = apply(start({A: 1}, (A, WE)), read_reservation(13, None))
    assert doubted(change.state) == {Fact.REGISTRATIONS}
    assert "PRGENERATION is 13, expected 10" in change.effect


@pytest.mark.parametrize("nexus", ALL)
def test_full_status_lists_a_local_nexus_once(nexus: str) -> None:
    state = start({nexus: 4})
    assert list(state.registrations) == [nexus]
    assert state.registrations[nexus].local


def test_a_full_status_that_ends_early_is_not_learned() -> None:
    state = start({A: 1, B: 2})
    us, them = Issuer(pid=7, comm="prtrace"), Issuer(pid=8, comm="sg_persist")
    seen = {"lu": LU, "nexus": A, "generation": 10, "truncated": False}
    state = apply(state, KeysRead(**seen, keys=(1, 2), issuer=us, start_ns=5, done_ns=6)).state
    reply = FullStatusRead(
        **seen, registrations=(descriptor(IQN1, 1),), issuer=us, start_ns=7, done_ns=8
    )
    change = apply(state, reply)
    assert keys(change.state) == keys(state)
    assert change.state.doubted(Fact.REGISTRATIONS)
    assert "lists 1 of 2" in change.effect
    # Of another's look nobody knows whether someone left in between: LIO does not count that.
    assert "not learned" not in apply(state, replace(reply, issuer=them)).effect
    assert "not learned" not in apply(state, replace(reply, start_ns=2_000_000_000)).effect
    # A command in between may be why there are fewer.
    assert send(state, A, REGISTER, 1, 0).state.census is None
