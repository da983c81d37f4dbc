"""What a reply proves by its PRGENERATION, and what it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_target import LU, TARGET, port_of
from test_binding import descriptor
from test_effects import OTHER, SPDK, A, B, C, doubted, held, keys, send, start

from prtrace.model import (
    Access,
    Action,
    Attention,
    AttentionSeen,
    Capabilities,
    CapabilitiesRead,
    ConflictSeen,
    FullStatusRead,
    KeysRead,
    LocalNexus,
    Outcome,
    PathsSeen,
    PrOut,
    RecordsLost,
    ReservationRead,
    ReservationType,
    Unsupported,
)
from prtrace.state.access import Standing, may, standing
from prtrace.state.apply import apply, new_state
from prtrace.state.codec import from_json, to_json
from prtrace.state.draft import LONG_AGO
from prtrace.state.unit import Fact, LuState, Source
from prtrace.state.view import unit_view

EA, WERO, WEAR = ReservationType.EA, ReservationType.WERO, ReservationType.WEAR


def keys_read(generation: int, *listed: int, at: int = 1000) -> KeysRead:
    return KeysRead(
        lu=LU, nexus=A, generation=generation, keys=listed, truncated=False,
        start_ns=at, done_ns=at + 1,
    )  # fmt: skip


def full(generation: int, *listed, at: int = 2000) -> FullStatusRead:
    return FullStatusRead(
        lu=LU, nexus=A, generation=generation, registrations=listed, truncated=False,
        start_ns=at, done_ns=at + 1,
    )  # fmt: skip


def reserved(generation: int, key: int) -> ReservationRead:
    return ReservationRead(
        lu=LU, nexus=A, generation=generation, key=key, type=WERO, start_ns=1000, done_ns=1001
    )


def nameless(target: str = TARGET) -> LuState:
    """A is a path whose ports nobody knows; nobody is registered at PRGENERATION 0."""
    state = new_state(LU, target)
    state = apply(state, PathsSeen(lu=LU, nexus="", paths=(LocalNexus(A, LU),))).state
    return apply(state, full(0, at=10)).state


def test_an_observed_key_binds_at_its_own_generation_only() -> None:
    """A stranger with the same key preempted the local nexus, which the reply does not list."""
    state = send(nameless(), A, Action.REGISTER, 0, 0xA1, start_ns=20, done_ns=30).state
    same = apply(state, full(1, descriptor("naa.9", 0xA1, 7))).state
    assert keys(same) == {A: 0xA1}
    moved = apply(state, full(4, descriptor("naa.9", 0xA1, 7))).state
    assert keys(moved) == {"naa.9,7": 0xA1}
    assert moved.registrations["naa.9,7"].maybe_local


def test_nobody_is_renamed_on_an_ambiguous_key() -> None:
    """Two nexuses of elsewhere have the sender's key, and one of them holds."""
    state = apply(
        nameless(),
        full(2, descriptor("naa.8", 0xB, 1), descriptor("naa.9", 0xB, 1, holder=True, type=EA)),
    ).state
    assert held(state) == ("naa.9,1", EA, 0xB)
    for sa_key in (0xB, 0):
        after = send(state, A, Action.REGISTER, 0xB, sa_key, start_ns=3000, done_ns=3001).state
        assert after.holders != (A,)
        assert doubted(after) >= {Fact.REGISTRATIONS, Fact.RESERVATION}


def test_a_reply_that_names_no_registrations_does_not_settle_them() -> None:
    """This target may or may not count an unregistration; another host may have come meanwhile."""
    state = send(start({A: 1, B: 2}, None, OTHER), B, Action.REGISTER, 2, 0).state
    assert (state.generation, state.spread) == (10, 1)
    assert doubted(state) == {Fact.GENERATION}
    least = apply(state, reserved(10, 1)).state
    assert doubted(least) == frozenset(), "nothing was counted, so nobody came"
    counted = apply(state, reserved(11, 1)).state
    assert Fact.REGISTRATIONS in doubted(counted), "ours was counted, or another host came"
    beyond = apply(state, reserved(12, 1)).state
    assert Fact.REGISTRATIONS in doubted(beyond)


def test_a_generation_that_can_be_anything_proves_nothing() -> None:
    register = {"all_tg_pt": True, "start_ns": 20, "done_ns": 30}
    state = send(start({A: 1}), A, Action.REGISTER_AND_IGNORE, 0, 2, **register).state
    assert state.spread is None
    assert Fact.REGISTRATIONS in doubted(apply(state, reserved(11, 2)).state)


@pytest.mark.parametrize("target", [TARGET, OTHER])
def test_a_reply_that_contradicts_what_was_observed(target: str) -> None:
    """READ FULL STATUS shows another key than the REGISTER that nothing has followed."""
    # Of a target that is not known this one could be in the other byte order.
    other = 0xA << 56 if target == TARGET else 0xB
    state = send(
        start({}, None, target), A, Action.REGISTER, 0, 0xA, start_ns=20, done_ns=30
    ).state
    change = apply(state, full(11, descriptor("naa.2001", other)))
    assert keys(change.state) == {A: 0xA}
    assert Fact.REGISTRATIONS in doubted(change.state)
    assert "contradicts what was observed" in change.effect
    # Repeating it does not make it right; READ KEYS that says so, too, does.
    again = apply(change.state, full(11, descriptor("naa.2001", other), at=3000)).state
    assert keys(again) == {A: 0xA}


def test_two_replies_of_one_generation_that_differ() -> None:
    state = apply(new_state(LU, TARGET), keys_read(3, 0x666E0001)).state
    change = apply(state, full(3, descriptor("naa.9", 0x01006E6600000000)))
    assert "list other keys" in change.effect
    assert Fact.REGISTRATIONS in doubted(change.state)
    assert keys(change.state) == {}


@pytest.mark.parametrize("target", [SPDK, OTHER])
@pytest.mark.parametrize("told", ["READ KEYS", "REGISTER"])
def test_spdk_turns_numbers_round(told: str, target: str) -> None:
    state = start({}, None, target)
    state = send(state, A, Action.REGISTER, 0, 0xA, start_ns=20, done_ns=30).state
    if told == "READ KEYS":
        state = apply(state, keys_read(11, 0xA)).state
    state = apply(state, full(11, descriptor("naa.2001", 0xA << 56, 1 << 8))).state
    assert keys(state) == {A: 0xA}
    assert state.doubts == ()


PALINDROME = 0x11 * 0x0101010101010101


@pytest.mark.parametrize("target", [SPDK, OTHER])
@pytest.mark.parametrize("key", [0xA << 56, 0xA])
def test_a_byte_order_that_nothing_shows_teaches_nothing(key: int, target: str) -> None:
    """READ FULL STATUS alone, at a PRGENERATION of which nothing else is known."""
    seen = full(3, descriptor("naa.9", key, 1 << 8))
    fresh = apply(new_state(LU, target), seen)
    assert (keys(fresh.state), doubted(fresh.state) - {Fact.GENERATION}) == (
        {},
        {Fact.REGISTRATIONS, Fact.RESERVATION},
    )
    assert "byte order" in fresh.effect
    state = send(
        start({}, None, target), A, Action.REGISTER, 0, 0xA, start_ns=20, done_ns=30
    ).state
    later = apply(state, full(13, descriptor("naa.2001", key, 1 << 8))).state
    assert keys(later) == {A: 0xA}
    assert doubted(later) >= {Fact.REGISTRATIONS, Fact.RESERVATION}
    # READ KEYS at that PRGENERATION shows it.
    if key == 0xA << 56:
        told = apply(later, keys_read(13, 0xA, at=3000)).state
        told = apply(told, full(13, descriptor("naa.2001", key, 1 << 8), at=4000)).state
        assert (keys(told), told.doubts) == ({"naa.2001,1": 0xA}, ())


def test_keys_that_are_alike_in_both_byte_orders_are_at_any_target_ports() -> None:
    """READ KEYS does not show how the target ports are to be read, so asking again is no use."""
    path = LocalNexus(A, LU, initiator_port="naa.9", relative_target_port=1)
    for relative in (1, 1 << 8):
        state = apply(new_state(LU, OTHER), PathsSeen(lu=LU, nexus="", paths=(path,))).state
        state = apply(state, keys_read(3, PALINDROME)).state
        state = apply(state, full(3, descriptor("naa.9", PALINDROME, relative))).state
        assert (keys(state), state.doubts) == ({"naa.9,*": PALINDROME}, ())
        assert standing(state, A) is Standing.UNKNOWN


def test_keys_that_are_none_of_those_known_are_doubt_in_any_byte_order() -> None:
    """LIO does not count an unregistration, so that the same PRGENERATION proves nothing."""
    state = send(start({A: 1, B: 2}, None, OTHER), B, Action.REGISTER, 2, 0).state
    assert not apply(state, full(10, descriptor(port_of(A), 1))).state.doubts
    assert not apply(state, full(10, descriptor(port_of(A), 1 << 56))).state.doubts
    other = apply(state, full(10, descriptor("naa.9", 3))).state
    assert doubted(other) == {Fact.REGISTRATIONS, Fact.RESERVATION}
    assert keys(other) == {A: 1}


@given(
    st.lists(st.integers(1, 2**64 - 1), max_size=4),
    st.booleans(),
    st.booleans(),
)
def test_no_byte_order_is_guessed(registered: list[int], turned: bool, told: bool) -> None:
    """What is stated of a target that may turn numbers round is right, whether it does or not."""

    def sent(number: int, size: int) -> int:
        raw = number.to_bytes(size, "little" if turned else "big")
        return int.from_bytes(raw, "big")

    state = new_state(LU, SPDK)
    if told:
        state = apply(state, keys_read(3, *registered)).state
    listed = [descriptor(f"naa.{number}", sent(key, 8), sent(number, 2))
              for number, key in enumerate(registered, 1)]  # fmt: skip
    state = apply(state, full(3, *listed)).state
    if not state.doubts:
        assert keys(state) == {
            f"naa.{number},{number}": key for number, key in enumerate(registered, 1)
        }


def test_who_registered_is_not_kept_where_it_may_have_been_made_anew() -> None:
    """The same key at a later PRGENERATION is no proof of the same registration."""
    named = LocalNexus(A, LU, initiator_port="naa.2001", relative_target_port=1)
    state = apply(start({}), PathsSeen(lu=LU, nexus="", paths=(named,))).state
    state = send(state, A, Action.REGISTER, 0, 0xA, start_ns=20, done_ns=30).state
    assert apply(state, full(11, descriptor("naa.2001", 0xA))).state.registrations[A].source is (
        Source.OBSERVED
    )
    later = apply(state, full(17, descriptor("naa.2001", 0xA))).state.registrations[A]
    assert (later.source, later.by) == (Source.READ, None)


def test_one_descriptor_for_all_target_ports() -> None:
    """As SPC-4 6.15.5 describes it every nexus of that initiator port is registered; as LIO lists
    them, it is the one of them that is left.

    What others of them have is not known any more once one of them changes: a device may have
    more target ports than are visible here, or none.
    """
    paths = tuple(
        LocalNexus(nexus, LU, initiator_port="naa.1", relative_target_port=number)
        for number, nexus in enumerate((A, B), 1)
    )
    state = apply(new_state(LU, OTHER), PathsSeen(lu=LU, nexus="", paths=paths)).state
    state = apply(state, keys_read(1, 5)).state
    state = apply(state, full(1, descriptor("naa.1", 5, 0, all_target_ports=True))).state
    assert (keys(state), state.doubts) == ({"naa.1,*": 5}, ())
    assert {standing(state, each) for each in (A, B)} == {Standing.UNKNOWN}
    # READ KEYS may list it once, or once for each port.
    for listed in ((5,), (5, 5), (5, 5, 5, 5)):
        assert not apply(state, keys_read(1, *listed, at=3000)).state.unattributed
    # Who sends its key has it.
    state = send(state, A, Action.REGISTER, 5, 5).state
    assert A in keys(state)
    left = send(state, A, Action.REGISTER, 5, 0).state
    assert Fact.REGISTRATIONS in doubted(left)
    holding = full(1, descriptor("naa.1", 5, 0, all_target_ports=True, holder=True, type=WEAR))
    left = send(apply(state, holding).state, A, Action.REGISTER, 5, 0).state
    assert {Fact.REGISTRATIONS, Fact.RESERVATION} <= doubted(left)


def test_a_key_that_is_for_all_target_ports_explains_no_other_port_s() -> None:
    """Which of naa.1's two nexuses holds it is not known; READ KEYS does not say so either."""
    paths = tuple(
        LocalNexus(nexus, LU, initiator_port=port, relative_target_port=number)
        for nexus, port, number in ((A, "naa.1", 1), (B, "naa.1", 2), (C, "naa.2", 1))
    )
    state = apply(new_state(LU, TARGET), PathsSeen(lu=LU, nexus="", paths=paths)).state
    everywhere = {"all_target_ports": True}
    one, two = descriptor("naa.1", 5, 0, **everywhere), descriptor("naa.2", 5, 0, **everywhere)
    state = apply(state, full(1, two, two, one, replace(one, holder=True, type=EA))).state
    assert {Fact.REGISTRATIONS, Fact.RESERVATION} <= doubted(state)
    state = apply(state, keys_read(1, 5, 5, 5, 5, at=3000)).state
    assert Fact.REGISTRATIONS in doubted(state)


def test_a_nexus_whose_key_is_gone_may_have_another_s() -> None:
    """A key that is for all target ports hides it: READ KEYS does not say who is registered."""
    wild, other = descriptor("naa.1", 5, 0, all_target_ports=True), descriptor("naa.2", 6)
    state = apply(new_state(LU, OTHER), keys_read(1, 5, 6, at=100)).state
    state = apply(state, full(1, wild, other)).state
    assert not state.doubts
    state = apply(state, keys_read(1, 5, 5, 5, at=3000)).state
    assert Fact.REGISTRATIONS in doubted(state)


def test_an_unregistration_may_take_its_siblings_at_other_target_ports_along() -> None:
    """LIO asks how the registration was made, and not what this command says."""
    paths = tuple(
        LocalNexus(nexus, LU, initiator_port="naa.1", relative_target_port=number)
        for number, nexus in enumerate((A, B), 1)
    )
    state = apply(new_state(LU, TARGET), PathsSeen(lu=LU, nexus="", paths=paths)).state
    state = apply(state, keys_read(0)).state
    for at, nexus in ((1100, A), (1300, B)):
        span = {"start_ns": at, "done_ns": at + 1}
        state = send(state, nexus, Action.REGISTER_AND_IGNORE, 0, 5, all_tg_pt=True, **span).state
    one = descriptor("naa.1", 5, 0, all_target_ports=True)
    state = apply(state, full(4, one, one)).state
    assert not state.doubts
    left = send(state, A, Action.REGISTER, 5, 0, start_ns=3000, done_ns=3001).state
    assert Fact.REGISTRATIONS in doubted(left)


def test_a_sibling_that_nobody_knows_to_be_registered_may_take_the_holder_along() -> None:
    """Registered at all target ports by one path, and unregistered there by another."""
    state = send(start({}), A, Action.REGISTER, 0, 1, all_tg_pt=True).state
    state = send(state, A, Action.RESERVE, 1, 0, WERO).state
    state = send(state, B, Action.REGISTER_AND_IGNORE, 0, 0, all_tg_pt=True).state
    assert Fact.RESERVATION in doubted(state)


def test_a_registration_that_is_in_doubt_tells_no_target_port() -> None:
    """Two REGISTERs of one nexus overlapped: which of its target ports is left is not known."""
    path = LocalNexus(A, LU, initiator_port="naa.1", relative_target_port=1)
    one = descriptor("naa.1", 5, 0, all_target_ports=True)
    state = apply(new_state(LU, TARGET), PathsSeen(lu=LU, nexus="", paths=(path,))).state
    state = apply(state, keys_read(0)).state
    sure = send(state, A, Action.REGISTER, 0, 5, all_tg_pt=True, start_ns=1100, done_ns=1200).state
    assert apply(sure, full(1, one)).state.registrations.keys() == {A}
    other = send(sure, A, Action.REGISTER, 5, 5, start_ns=1150, done_ns=1250).state
    (left,) = apply(other, full(2, one)).state.registrations.values()
    assert left.maybe_local


ONE = descriptor("naa.1", 5, 0, all_target_ports=True)


def unreserved(generation: int) -> ReservationRead:
    return replace(reserved(generation, 0), type=None, start_ns=1500, done_ns=1501)


def registered_everywhere(target: str = TARGET) -> LuState:
    """A REGISTER with ALL_TG_PT over the only path here, of which nobody has read yet."""
    path = LocalNexus(A, LU, initiator_port="naa.1", relative_target_port=1)
    state = apply(new_state(LU, target), PathsSeen(lu=LU, nexus="", paths=(path,))).state
    state = apply(state, keys_read(0)).state
    return send(state, A, Action.REGISTER, 0, 5, all_tg_pt=True, start_ns=1100, done_ns=1200).state


@pytest.mark.parametrize(
    ("target", "reads"),
    [
        (TARGET, ()),
        (TARGET, (unreserved(3),)),
        (TARGET, (keys_read(3, 5, 5, 5, at=1500),)),
        (OTHER, (keys_read(3, 5, 5, 5, at=1500),)),
    ],
)
def test_a_path_that_registers_for_all_target_ports_is_registered(target, reads) -> None:
    """LIO raises PRGENERATION once for each port, and how many there are is read with it."""
    state = registered_everywhere(target)
    for each in reads:
        state = apply(state, each).state
    state = apply(state, full(3, ONE, ONE, ONE)).state
    assert (keys(state), state.doubts) == ({A: 5, "naa.1,*": 5}, ())
    # Another host registers: it takes nothing away.
    state = apply(state, keys_read(4, 5, 5, 5, 6, at=2500)).state
    state = apply(state, full(4, ONE, ONE, ONE, descriptor("naa.2", 6), at=3000)).state
    assert keys(state) == {A: 5, "naa.1,*": 5, "naa.2,1": 6}


@pytest.mark.parametrize("reads", [(), (unreserved(4),)])
@pytest.mark.parametrize("known", [False, True])
def test_what_is_left_for_all_target_ports_is_not_the_path_s_after_an_unseen_preempt(
    known, reads
) -> None:
    """The same initiator port has preempted its own key over a target port that is not here."""
    state = registered_everywhere()
    if known:
        state = apply(state, full(3, ONE, ONE, ONE, at=1300)).state
    for each in reads:
        state = apply(state, each).state
    state = apply(state, full(4, ONE)).state
    assert keys(state) == {"naa.1,*": 5}
    assert standing(state, A) is Standing.UNKNOWN


@pytest.mark.parametrize("reads", [(), (keys_read(3, 5, at=1600),)], ids=["at once", "keys"])
def test_a_target_that_has_begun_anew_proves_nothing_of_what_was_before(reads) -> None:
    """Its PRGENERATION less the number of registrations can come to the number of before."""
    state = apply(registered_everywhere(), full(2, ONE, ONE, at=1300)).state
    for number, (key, sa_key) in enumerate(((5, 6), (6, 5))):
        at = 1400 + 20 * number
        state = send(
            state, A, Action.REGISTER, key, sa_key, all_tg_pt=True, start_ns=at, done_ns=at + 10
        ).state
    if not reads:
        state = apply(state, full(4, ONE, ONE, at=1500)).state
        assert keys(state) == {A: 5, "naa.1,*": 5}
    # Over a port that is not here it was registered for two, and preempted the one that is.
    for each in reads:
        state = apply(state, each).state
    state = apply(state, full(3, ONE, at=1700)).state
    assert keys(state) == {"naa.1,*": 5}
    assert standing(state, A) is Standing.UNKNOWN


def test_two_unseen_commands_do_not_hide_each_other() -> None:
    """One takes a registration away and another is made: PRGENERATION is as far as for two."""
    state = apply(registered_everywhere(), full(2, ONE, ONE, at=1300)).state
    other = descriptor("naa.2", 6)
    state = apply(state, full(4, ONE, other)).state
    assert standing(state, A) is Standing.UNKNOWN


def test_a_nexus_that_lost_its_registration_may_have_another_for_all_target_ports() -> None:
    """LIO does not ask whether those are registered that ALL_TG_PT registers along."""
    paths = tuple(
        LocalNexus(nexus, LU, initiator_port=port, relative_target_port=1)
        for nexus, port in ((A, "naa.1"), (B, "naa.2"))
    )
    state = apply(new_state(LU, TARGET), PathsSeen(lu=LU, nexus="", paths=paths)).state
    own, other = descriptor("naa.1", 4), descriptor("naa.2", 6)
    state = apply(state, full(5, own, ONE, ONE, other, at=1300)).state
    assert (keys(state), state.doubts) == ({A: 4, "naa.1,*": 5, B: 6}, ())
    state = send(state, B, Action.PREEMPT, 6, 4, WERO).state
    assert standing(state, A) is Standing.UNKNOWN


def test_a_device_that_forgets_its_reservations_for_a_moment() -> None:
    """LIO answers so while emulate_pr is 0, and has all the registrations still."""
    state = start({A: 1})
    gone = apply(state, Unsupported(lu=LU, nexus=A)).state
    assert gone.supported
    assert keys(gone) == {A: 1}
    assert doubted(gone) == frozenset(Fact)
    never = apply(new_state(LU, TARGET), Unsupported(lu=LU, nexus=A)).state
    assert (never.supported, never.doubts) == (False, ())


def test_the_scope_of_a_reservation_is_kept() -> None:
    state = send(start({A: 1}), A, Action.RESERVE, 1, 0, WERO, scope=2).state
    assert state.reservation is not None
    assert state.reservation.scope == 2


def test_a_target_without_read_full_status_is_not_in_doubt_for_ever() -> None:
    """The keys are known; whose they are is not asked again and again."""
    state = apply(new_state(LU, OTHER), keys_read(3, 5, 6, at=500)).state
    assert Fact.REGISTRATIONS in doubted(state)
    state = apply(state, Unsupported(lu=LU, nexus=A, full_status=True)).state
    state = apply(state, reserved(3, 5)).state
    assert doubted(state) == frozenset()
    assert (state.unattributed, state.reservation and state.reservation.holder) == ((5, 6), None)
    again = apply(state, keys_read(4, 5, 6, 7, at=2000)).state
    assert Fact.REGISTRATIONS not in doubted(again)
    assert again.unattributed == (5, 6, 7)


def test_a_device_that_names_nexuses_after_all_leaves_doubt_until_it_is_understood() -> None:
    """Its first READ FULL STATUS overlapped another reading: nothing is learned from it but that
    it can tell whose the keys are."""
    state = apply(new_state(LU, OTHER), keys_read(3, 5, 6, at=500)).state
    state = apply(state, Unsupported(lu=LU, nexus=A, full_status=True)).state
    state = apply(state, reserved(3, 5)).state
    assert (doubted(state), state.unattributed) == (frozenset(), (5, 6))
    overlapping = apply(state, full(3, descriptor("naa.1", 5), at=990))
    assert "not learned" in overlapping.effect
    assert doubted(overlapping.state) == {Fact.REGISTRATIONS, Fact.RESERVATION}
    listed = descriptor("naa.1", 5, WERO), descriptor("naa.2", 6)
    assert doubted(apply(overlapping.state, full(3, *listed)).state) == frozenset()


def blind(*, key: int) -> LuState:
    """A is registered with key, and holds, on a device that does not know READ FULL STATUS."""
    state = apply(new_state(LU, OTHER), keys_read(0, at=10)).state
    state = apply(state, Unsupported(lu=LU, nexus=A, full_status=True)).state
    state = send(state, A, Action.REGISTER, 0, key, start_ns=20, done_ns=30).state
    state = send(state, A, Action.RESERVE, key, 0, WERO, start_ns=40, done_ns=50).state
    state = apply(state, keys_read(1, key, at=60)).state
    assert (keys(state), held(state), state.doubts) == ({A: key}, (A, WERO, key), ())
    return state


@pytest.mark.parametrize("first", ["READ KEYS", "READ RESERVATION"])
def test_an_equal_key_is_no_sign_of_its_nexus(first: str) -> None:
    """Another host preempted A, and registered A's key: nobody can tell, and nobody says so."""
    state = blind(key=0xA)
    before = first == "READ KEYS"
    replies = [keys_read(4, 0xA, at=100 if before else 1100), reserved(4, 0xA)]
    for reply in replies if before else replies[::-1]:
        state = apply(state, reply).state
    assert Fact.REGISTRATIONS not in doubted(state)
    assert keys(state) == {}
    assert state.unattributed == (0xA,)
    assert held(state) == (None, WERO, 0xA)
    assert unit_view(state, None, 0)["unknowable"]
    # A command with the key, done, is a sign.
    state = send(state, A, Action.REGISTER, 0xA, 0xA, start_ns=2000, done_ns=2001).state
    assert (keys(state), state.unattributed) == ({A: 0xA}, ())


def test_readings_at_the_expected_generation_keep_what_was_observed() -> None:
    state = blind(key=0xA)
    state = send(state, B, Action.REGISTER_AND_IGNORE, 0, 0xB, start_ns=70, done_ns=80).state
    state = apply(state, keys_read(2, 0xA, 0xB, at=100)).state
    assert (keys(state), state.unattributed) == ({A: 0xA, B: 0xB}, ())
    assert state.reservation is not None
    assert state.reservation.holder == A


def test_losing_sight_of_names_takes_away_doubts_about_names_only() -> None:
    state = apply(new_state(LU, OTHER), keys_read(3, 5, at=500)).state
    state = apply(state, RecordsLost(lu=LU, nexus=A, cause="ring full", count=1)).state
    state = apply(state, Unsupported(lu=LU, nexus=A, full_status=True)).state
    assert Fact.REGISTRATIONS in doubted(state)


def test_keys_that_nobody_names_are_as_of_when_they_were_listed() -> None:
    """READ FULL STATUS is refused hours after READ KEYS: nothing was confirmed then."""
    hour = 3600 * 10**9
    listed = replace(keys_read(3, 5, at=hour), time=hour + 1)
    state = apply(new_state(LU, OTHER), listed).state
    refused = Unsupported(
        lu=LU, nexus=A, full_status=True, time=10 * hour, start_ns=10 * hour - 5, done_ns=10 * hour
    )
    state = apply(state, refused).state
    assert Fact.REGISTRATIONS not in doubted(state)
    told = state.confirmed[Fact.REGISTRATIONS]
    assert (told.by, told.at, told.start_ns) == ("READ KEYS", hour, hour)
    assert from_json(to_json(state)) == state
    state = apply(new_state(LU, OTHER), replace(listed, start_ns=LONG_AGO)).state
    assert Fact.REGISTRATIONS not in apply(state, refused).state.confirmed


def test_what_a_power_loss_will_do_is_not_known_after_a_register_that_went_unseen() -> None:
    """Each REGISTER replaces the APTPL bit of the logical unit, whoever sends it."""
    state = send(start({}, None), A, Action.REGISTER, 0, 1, aptpl=True).state
    assert state.aptpl is True
    later = (state.generation or 0) + 1
    listed = descriptor(port_of(A), 1), descriptor(port_of(OTHER), 2)
    assert apply(state, full(later, *listed)).state.aptpl is None
    assert apply(state, reserved(later, 1)).state.aptpl is None
    assert apply(state, RecordsLost(lu=LU, nexus=B, cause="ring")).state.aptpl is None
    same = apply(state, full(later - 1, descriptor(port_of(A), 1))).state
    assert same.aptpl is True
    failed = send(state, A, Action.REGISTER, 1, 2, outcome=Outcome.UNKNOWN, aptpl=False).state
    assert failed.aptpl is None


@pytest.mark.parametrize(("target", "left"), [(TARGET, False), (OTHER, None)])
def test_an_unregistration_may_switch_aptpl_off(target: str, left: bool | None) -> None:
    state = send(start({}, None, target), A, Action.REGISTER, 0, 1, aptpl=True).state
    state = send(state, B, Action.REGISTER, 0, 2, aptpl=True).state
    assert send(state, B, Action.REGISTER, 2, 0, aptpl=True).state.aptpl is True
    assert send(state, B, Action.REGISTER, 2, 0, aptpl=False).state.aptpl is left
    # Nobody's: nothing is changed.
    assert send(state, C, Action.REGISTER_AND_IGNORE, 0, 0, aptpl=False).state.aptpl is True


def test_capabilities_that_overlap_a_register_do_not_tell_what_it_left() -> None:
    state = start({}, None)
    registered = send(
        state, A, Action.REGISTER, 0, 1, aptpl=True, start_ns=5000, done_ns=5010
    ).state
    told = Capabilities(
        rlr_c=False, crh=True, sip_c=True, atp_c=True, ptpl_c=True, ptpl_a=False,
        allow_commands=0, types=None,
    )  # fmt: skip
    late = CapabilitiesRead(lu=LU, nexus=B, start_ns=5005, done_ns=5020, capabilities=told)
    state = apply(registered, late).state
    assert (state.capabilities, state.aptpl) == (told, None)
    again = replace(late, start_ns=6000, done_ns=6001)
    assert apply(registered, again).state.aptpl is False


@pytest.mark.parametrize(
    "seen",
    [
        PrOut(
            lu=LU, nexus=A, action=Action.REGISTER, outcome=Outcome.UNKNOWN, key=0xB, sa_key=0,
            start_ns=1500, done_ns=1501,
        ),
        RecordsLost(lu=LU, nexus=A, cause="ring"),
    ],
    ids=["uncertain", "lost"],
)  # fmt: skip
def test_what_is_not_counted_may_have_happened_at_the_same_generation(seen) -> None:
    """A's registration may be gone, and the one that is listed another nameless path's."""
    paths = (LocalNexus(A, LU), LocalNexus(B, LU))
    state = apply(new_state(LU, TARGET), PathsSeen(lu=LU, nexus="", paths=paths)).state
    state = apply(state, full(5, descriptor("naa.2", 0xB), at=10)).state
    state = send(state, A, Action.REGISTER, 0, 0xB, start_ns=1000, done_ns=1001).state
    state = apply(state, seen).state
    state = apply(state, full(6, descriptor("naa.2", 0xB))).state
    assert A not in state.registrations
    assert state.registrations["naa.2,1"].maybe_local


APTPL = {"aptpl": True}


@pytest.mark.parametrize(
    "reply",
    [keys_read(13), keys_read(13, 1), full(13, descriptor(port_of(A), 1))],
    ids=["no keys", "keys", "full status"],
)
def test_aptpl_does_not_outlive_a_register_that_went_unseen(reply) -> None:
    state = send(start({}), A, Action.REGISTER, 0, 1, **APTPL).state
    assert (state.generation, state.aptpl) == (11, True)
    assert apply(state, reply).state.aptpl is None


@pytest.mark.parametrize("known", ["never read", "may be registered", "in doubt"])
def test_aptpl_of_a_command_that_may_not_have_changed_it(known) -> None:
    """Another host's REGISTER went unseen; or whether an unregistration met a registration."""
    state = new_state(LU, TARGET)
    if known == "never read":
        state = send(state, A, Action.REGISTER_AND_IGNORE, 0, 1, **APTPL).state
        assert apply(state, keys_read(3, 1, 2)).state.aptpl is None
        return
    state = apply(state, full(1, descriptor("naa.9", 7))).state
    if known == "in doubt":
        state = apply(state, RecordsLost(lu=LU, nexus=A, cause="the ring was full")).state
    state = send(state, B, Action.REGISTER, 0, 2).state
    state = send(state, A, Action.REGISTER_AND_IGNORE, 0, 0, **APTPL).state
    assert state.aptpl is None


def test_how_many_go_is_not_known_where_one_stands_for_any_target_ports() -> None:
    path = LocalNexus(A, LU, initiator_port="naa.1", relative_target_port=1)
    state = apply(new_state(LU, OTHER), PathsSeen(lu=LU, nexus="", paths=(path,))).state
    state = apply(state, keys_read(1, 5)).state
    state = apply(state, full(1, descriptor("naa.1", 5, 0, all_target_ports=True))).state
    assert not state.doubts
    assert Fact.GENERATION in doubted(send(state, A, Action.CLEAR, 5).state)


def test_a_key_binds_no_nameless_path_that_may_be_registered_for_all_target_ports() -> None:
    """Rule 2 of the binding: the observed key is the stranger's as well."""
    state = apply(new_state(LU, OTHER), PathsSeen(lu=LU, nexus="", paths=(LocalNexus(A, LU),)))
    state = apply(state.state, keys_read(0)).state
    state = send(state, A, Action.REGISTER, 0, 5, start_ns=1100, done_ns=1200).state
    everywhere = descriptor("naa.1", 5, 0, all_target_ports=True)
    state = apply(state, keys_read(1, 5, 5, at=1300)).state
    state = apply(state, full(1, descriptor("naa.9", 5), everywhere)).state
    assert all(each.maybe_local for each in state.registrations.values())
    assert state.registrations.keys() == {"naa.9,1", "naa.1,*"}


@pytest.mark.parametrize("listed", [True, False], ids=["READ KEYS besides", "alone"])
def test_two_sessions_that_a_reply_gives_one_name(listed) -> None:
    """Without ISIDs: whoever unregisters may be the one that does not hold the reservation."""
    paths = tuple(
        LocalNexus(
            nexus, LU, initiator_port=f"iqn.a,i,0x00000000000{number}", relative_target_port=1
        )
        for number, nexus in enumerate((A, B), 1)
    )
    state = apply(new_state(LU, OTHER), PathsSeen(lu=LU, nexus="", paths=paths)).state
    one = descriptor("iqn.a", 3)
    state = apply(state, full(5, replace(one, holder=True, type=WERO), one)).state
    if listed:
        state = apply(state, keys_read(5, 3, 3, at=3000)).state
    state = send(state, B, Action.REGISTER, 3, 0, start_ns=4000, done_ns=4001).state
    assert Fact.RESERVATION in doubted(state)
    assert may(state, A, Access.WRITE).allowed is None


def test_aptpl_is_not_known_where_anything_fits() -> None:
    """The reply of READ KEYS settles PRGENERATION: what comes after it explains nothing."""
    state = send(start({}), A, Action.REGISTER, 0, 1, all_tg_pt=True, **APTPL).state
    state = apply(state, keys_read(12, 1, 5)).state
    state = apply(state, full(12, descriptor(port_of(A), 1), descriptor("naa.5", 5))).state
    assert not state.doubts
    assert state.aptpl is None


def test_aptpl_of_two_registers_that_overlap_is_not_known() -> None:
    state = send(start({}), A, Action.REGISTER, 0, 1, start_ns=5000, done_ns=5010).state
    state = send(state, B, Action.REGISTER, 0, 2, start_ns=5001, done_ns=5011, **APTPL).state
    assert not state.doubts
    assert state.aptpl is None


def test_what_a_preempt_left_is_as_old_as_the_reservation() -> None:
    """Whether the sender stays depends on who held it, which another host can have changed."""
    state = send(start({A: 1}), A, Action.REGISTER, 1, 1).state
    state = apply(state, replace(keys_read(11, 1, at=3000), time=5000)).state
    assert not state.doubts
    old = state.confirmed[Fact.RESERVATION]
    assert state.confirmed[Fact.REGISTRATIONS] is not old
    state = send(state, A, Action.PREEMPT, 1, 1, WERO).state
    assert state.confirmed[Fact.REGISTRATIONS] == old


def test_a_key_is_not_taken_for_that_of_a_nexus_with_other_ports() -> None:
    """Somebody registered the sender's nexus unseen, with the key of a stranger."""
    paths = (
        LocalNexus(A, LU, initiator_port="naa.1", relative_target_port=1),
        LocalNexus(B, LU),
    )
    state = apply(new_state(LU, OTHER), PathsSeen(lu=LU, nexus="", paths=paths)).state
    state = apply(state, keys_read(5, 7)).state
    state = apply(state, full(5, descriptor("naa.9", 7))).state
    assert state.registrations["naa.9,1"].maybe_local
    reserved_by = send(state, A, Action.RESERVE, 7, 0, WERO).state
    assert reserved_by.registrations.keys() == {A, "naa.9,1"}
    assert Fact.REGISTRATIONS in doubted(reserved_by)
    assert B in send(state, B, Action.RESERVE, 7, 0, WERO).state.registrations


@pytest.mark.parametrize(
    "sign",
    [
        ConflictSeen(lu=LU, nexus=A, access=Access.WRITE, start_ns=500, done_ns=501),
        AttentionSeen(
            lu=LU, nexus=A, attention=Attention.REGISTRATIONS_PREEMPTED, start_ns=500, done_ns=501
        ),
        PrOut(
            lu=LU, nexus=A, action=Action.RESERVE, outcome=Outcome.CONFLICT, key=1, sa_key=0,
            type=WERO, start_ns=500, done_ns=501,
        ),
    ],
    ids=["conflict", "attention", "PR OUT"],
)  # fmt: skip
def test_what_was_said_to_have_none_has_reservations_once_it_answers_so(sign) -> None:
    paths = (LocalNexus(A, LU, initiator_port="naa.1", relative_target_port=1),)
    state = apply(new_state(LU, OTHER), PathsSeen(lu=LU, nexus="", paths=paths)).state
    state = apply(state, Unsupported(lu=LU, nexus=A)).state
    assert may(state, A, Access.WRITE).allowed
    state = apply(state, sign).state
    assert state.supported
    assert may(state, A, Access.WRITE).allowed is None
    assert state.paths.keys() == {A}
