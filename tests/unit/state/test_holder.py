"""Who holds a reservation is told by its key only where that key can be nobody else's.

A target may name the holder by the key that it had when it reserved: SPDK does
(lib/scsi/scsi_pr.c, reservation.crkey stays while scsi_pr_replace_registrant_key runs), and a
PREEMPT is then compared with that one.  An unknown target may be like it.
"""

from __future__ import annotations

import pytest
from reference_target import LU, TARGET
from test_effects import A, B, doubted, send, start
from test_partial import full, keys_read

from prtrace.model import (
    Action,
    FullStatus,
    LocalNexus,
    Outcome,
    PathsSeen,
    PrOut,
    ReservationRead,
    ReservationType,
    Unsupported,
)
from prtrace.state.apply import apply, new_state
from prtrace.state.unit import Fact, LuState

ACME = "ACME/ARRAY/1"
EA, WERO, WEAR = ReservationType.EA, ReservationType.WERO, ReservationType.WEAR
FAR = "naa.9,1"
PATHS = (
    LocalNexus(A, LU, initiator_port="naa.1", relative_target_port=1),
    LocalNexus(B, LU, initiator_port="naa.2", relative_target_port=1),
)


def reserved(key: int, kind: ReservationType = WERO, generation: int = 5, at: int = 3000):
    return ReservationRead(
        lu=LU, nexus=A, generation=generation, key=key, type=kind, start_ns=at, done_ns=at + 1
    )


def descriptor(port: str, key: int, kind: ReservationType | None = None) -> FullStatus:
    return FullStatus(
        initiator_port=port, relative_target_port=1, key=key, holder=kind is not None, type=kind
    )


def holder(state: LuState) -> str | None:
    return None if state.reservation is None else state.reservation.holder


def told(target: str, *, by: str = "naa.1", kind: ReservationType = WERO) -> LuState:
    """READ FULL STATUS at 5: A has 1, B has 2, another host's two nexuses have 3."""
    state = new_state(LU, target)
    state = apply(state, PathsSeen(lu=LU, nexus="", paths=PATHS)).state
    keys = {"naa.1": 1, "naa.2": 2, "naa.9": 3, "naa.8": 3}
    listed = (descriptor(port, key, kind if by == port else None) for port, key in keys.items())
    state = apply(state, keys_read(5, *keys.values())).state
    return apply(state, full(5, *listed)).state


@pytest.mark.parametrize(("target", "certain"), [(TARGET, True), (ACME, False)])
def test_a_key_may_be_one_that_the_holder_had(target: str, certain: bool) -> None:
    """The registrations are read, the reservation never was: B has the key that is shown."""
    state = apply(told(target, by=""), reserved(2, generation=6)).state
    state = apply(state, keys_read(6, 1, 2, 3, 3, at=3100)).state
    state = apply(state, reserved(2, generation=6, at=3200)).state
    assert Fact.RESERVATION in doubted(state) or certain
    assert holder(state) is None or certain


def test_the_holder_by_read_full_status_is_not_replaced_by_its_former_key() -> None:
    """A holds; READ RESERVATION shows 2, which is B's key by now."""
    state = apply(told(ACME), reserved(2)).state
    assert Fact.RESERVATION in doubted(state) or holder(state) == A


def test_the_key_that_a_preempt_must_name_is_not_taken_from_read_full_status() -> None:
    state = told(ACME)
    assert holder(state) == A
    assert state.reservation.key is None
    assert told(TARGET).reservation.key == 1
    after = send(state, B, Action.PREEMPT, 2, 1, WERO, start_ns=3000, done_ns=3001).state
    assert Fact.RESERVATION in doubted(after)


def test_the_key_that_read_reservation_told_stays_when_the_holder_is_named() -> None:
    """The order in which the agent reads: READ KEYS, READ RESERVATION, READ FULL STATUS."""
    state = apply(new_state(LU, ACME), PathsSeen(lu=LU, nexus="", paths=PATHS)).state
    listed = descriptor("naa.1", 1, WERO), descriptor("naa.2", 2)
    state = apply(state, keys_read(5, 1, 2, at=1000)).state
    state = apply(state, reserved(1, at=1100)).state
    state = apply(state, full(5, *listed, at=1200)).state
    assert (holder(state), state.reservation.key, doubted(state)) == (A, 1, frozenset())


def test_what_is_observed_has_its_key() -> None:
    state = told(ACME, by="")
    state = send(state, A, Action.RESERVE, 1, 0, WERO, start_ns=3000, done_ns=3001).state
    assert (holder(state), state.reservation.key) == (A, 1)
    assert Fact.RESERVATION not in doubted(apply(state, reserved(1, at=3100)).state)


def test_two_of_another_host_with_one_key_can_have_changed_places() -> None:
    """naa.9 releases and naa.8 reserves: PRGENERATION and key stay."""
    state = told(TARGET, by="naa.9")
    assert holder(state) == FAR
    assert Fact.RESERVATION in doubted(apply(state, reserved(3)).state)


def test_a_holder_of_this_host_would_have_been_seen_to_let_go() -> None:
    state = told(TARGET)
    state = apply(state, reserved(1)).state
    assert (holder(state), doubted(state)) == (A, frozenset())


def test_a_holder_of_this_host_may_have_been_preempted_where_anything_is_possible() -> None:
    """Another host took A's registration and reserved with the same key: PRGENERATION tells of it,
    unless it can be anything."""
    state = told(TARGET)
    uncertain = PrOut(
        lu=LU, nexus=B, action=Action.REGISTER, outcome=Outcome.UNKNOWN, key=2, sa_key=2,
        start_ns=3000, done_ns=3001,
    )  # fmt: skip
    state = apply(state, uncertain).state
    state = apply(state, keys_read(6, 1, 2, at=3100)).state
    state = apply(state, reserved(1, generation=6, at=3200)).state
    assert Fact.RESERVATION in doubted(state) or holder(state) != A


def test_the_designated_holder_is_not_confirmed_by_a_reading() -> None:
    """Another registrant may have released and reserved: no reply names who was first."""
    state = told(TARGET, by="")
    state = send(state, A, Action.RESERVE, 1, 0, WEAR, start_ns=3000, done_ns=3001).state
    assert state.reservation.designated == A
    after = apply(state, reserved(0, WEAR, at=3100)).state
    assert after.reservation.designated is None


@pytest.mark.parametrize("outcome", [Outcome.UNKNOWN, Outcome.DONE])
def test_whose_hold_is_not_known_may_be_the_senders(outcome: Outcome) -> None:
    """The device names nobody: A's key is held, and A gives its registration up, perhaps."""
    state = new_state(LU, TARGET)
    state = apply(state, PathsSeen(lu=LU, nexus="", paths=PATHS)).state
    state = apply(state, keys_read(5, 1, 2)).state
    state = apply(state, Unsupported(lu=LU, nexus=A, full_status=True)).state
    state = apply(state, reserved(1)).state
    assert Fact.RESERVATION not in doubted(state)
    sent = PrOut(
        lu=LU, nexus=A, action=Action.REGISTER_AND_IGNORE, outcome=outcome, key=0, sa_key=0,
        start_ns=4000, done_ns=4001,
    )  # fmt: skip
    assert Fact.RESERVATION in doubted(apply(state, sent).state)


def test_a_holder_that_is_preempted_by_its_new_key_leaves_its_reservation_in_doubt() -> None:
    """It reserved with 1 and has 7: a PREEMPT of 7 takes the registration and not the hold."""
    state = told(ACME, by="")
    state = send(state, A, Action.RESERVE, 1, 0, WERO, start_ns=3000, done_ns=3001).state
    state = apply(state, reserved(1, at=3050)).state
    state = send(state, A, Action.REGISTER, 1, 7, start_ns=3100, done_ns=3101).state
    listed = descriptor("naa.1", 7, WERO), descriptor("naa.2", 2)
    state = apply(state, full(6, *listed, at=3200)).state
    state = apply(state, reserved(1, generation=6, at=3300)).state
    assert (holder(state), state.reservation.key) == (A, 1)
    state = send(state, B, Action.PREEMPT, 2, 7, WERO, start_ns=3400, done_ns=3401).state
    assert A not in state.registrations
    assert Fact.RESERVATION in doubted(state)


def test_nobody_is_renamed_by_a_key_while_others_are_not_known() -> None:
    """One known registration and one unknown key: the known one need not be the holder."""
    state = start({}, None, ACME)
    state = apply(state, Unsupported(lu=LU, nexus=A, full_status=True)).state
    state = send(state, A, Action.REGISTER, 0, 1, start_ns=3000, done_ns=3001).state
    generation = state.generation or 0
    state = apply(state, keys_read(generation + 1, 1, 9, at=3100)).state
    state = apply(state, reserved(1, generation=generation + 1, at=3200)).state
    assert holder(state) is None


def test_a_holder_that_preempts_the_key_it_reserved_with_may_remove_others() -> None:
    """It reserved with 1 and has 7: a PREEMPT of 1 is of its own hold, whoever has 1 by now."""
    state = told(ACME, by="")
    state = send(state, A, Action.RESERVE, 1, 0, WERO, start_ns=3000, done_ns=3001).state
    state = send(state, A, Action.REGISTER, 1, 7, start_ns=3100, done_ns=3101).state
    listed = descriptor("naa.1", 7, WERO), descriptor("naa.9", 1)
    state = apply(state, keys_read(7, 7, 1, at=3150)).state
    state = apply(state, full(7, *listed, at=3200)).state
    state = apply(state, reserved(1, generation=7, at=3300)).state
    assert doubted(state) == frozenset()
    state = send(state, A, Action.PREEMPT, 7, 1, EA, start_ns=3400, done_ns=3401).state
    assert Fact.REGISTRATIONS in doubted(state)


@pytest.mark.parametrize(("target", "shown"), [(ACME, None), (TARGET, 2)])
def test_a_holder_that_reserves_again_is_not_named_by_its_present_key(
    target: str, shown: int | None
) -> None:
    """READ RESERVATION shows a key of before; a RESERVE by who holds already changes nothing."""
    state = told(target, by="")
    met = send(state, B, Action.PREEMPT, 2, 7, WERO, outcome=Outcome.CONFLICT).state
    state = apply(met, reserved(3)).state
    state = send(state, A, Action.RESERVE, 1, 0, WERO, start_ns=5000, done_ns=5001).state
    assert holder(state) == A
    assert state.reservation.key == (None if shown is None else 1)
    if shown is None:
        state = send(state, B, Action.PREEMPT, 2, 1, WERO, start_ns=6000, done_ns=6001).state
        assert Fact.RESERVATION in doubted(state)
