"""Unit attentions, conflicts of ordinary commands, SPC-2 reservations, failures and losses."""

from __future__ import annotations

from dataclasses import replace

import pytest
from reference_target import LU
from test_effects import DOUBT, GONE, OTHER, RELEASED, SCST, A, B, C, doubted, send, start

from prtrace.model import (
    Access,
    Action,
    Attention,
    AttentionSeen,
    Capabilities,
    ConflictSeen,
    FullStatusRead,
    KeysRead,
    LegacyReserve,
    LocalNexus,
    Outcome,
    PathsSeen,
    PrOut,
    ReadFailed,
    RecordsLost,
    ReservationType,
    UnreadablePrOut,
    Unsupported,
)
from prtrace.state.access import may
from prtrace.state.apply import apply, new_state
from prtrace.state.decode import OTHER_UNIT, UNPROVEN
from prtrace.state.event import Command, Event
from prtrace.state.expecting import LIMIT_NS
from prtrace.state.fold import fold
from prtrace.state.unit import Fact, UnderWay

WE, WERO = ReservationType.WE, ReservationType.WERO


def attention(nexus: str, what: Attention, count: int = 1) -> AttentionSeen:
    return AttentionSeen(lu=LU, nexus=nexus, attention=what, count=count)


PTPL = Capabilities(
    rlr_c=False,
    crh=True,
    sip_c=True,
    atp_c=True,
    ptpl_c=True,
    ptpl_a=True,
    allow_commands=0,
    types=None,
)


def preempted(target: str = "LIO-ORG/disk/4.0"):
    """B's registration was preempted by A at 100: 2A/05 waits for B."""
    before = start({A: 1, B: 2}, (A, WERO), target)
    return send(before, A, Action.PREEMPT, 1, 2, WERO, start_ns=90, done_ns=100).state


def met(nexus: str, start_ns: int, what: Attention = GONE, count: int = 1) -> AttentionSeen:
    return AttentionSeen(
        lu=LU, nexus=nexus, attention=what, count=count, start_ns=start_ns, done_ns=start_ns + 5
    )


@pytest.mark.parametrize("target", ["LIO-ORG/disk/4.0", SCST])
def test_an_expected_unit_attention_is_taken_once(target: str) -> None:
    state = preempted(target)
    first = apply(state, met(B, 110))
    assert first.effect == f"expected: 2A/05 on {B}"
    assert Fact.REGISTRATIONS not in doubted(first.state)
    second = apply(first.state, met(B, 120))
    assert doubted(second.state) == DOUBT
    assert "what was seen here does not explain it" in second.effect


@pytest.mark.parametrize(
    "seen",
    [met(B, 95), met(B, 1), met(B, 110, count=2), met(B, 100 + LIMIT_NS + 1)],
    ids=["submitted before its cause", "submission not seen", "two", "too late"],
)
def test_an_attention_that_the_cause_does_not_explain(seen: AttentionSeen) -> None:
    assert doubted(apply(preempted(), seen).state) == DOUBT


def test_a_released_reservation_may_have_been_released_twice() -> None:
    """A target merges equal ones: the 2A/04 of a RELEASE seen here may hide another."""
    state = send(start({A: 1, B: 2}, (A, WERO)), A, Action.RELEASE, 1, 0, WERO).state
    assert B in state.expected
    assert doubted(apply(state, attention(B, RELEASED)).state) == DOUBT


ANSWERS = {
    "GOOD": PrOut(
        lu=LU, nexus=B, action=Action.REGISTER, outcome=Outcome.DONE, key=0, sa_key=2,
        start_ns=110, done_ns=120,
    ),
    "RESERVATION CONFLICT": PrOut(
        lu=LU, nexus=B, action=Action.RESERVE, outcome=Outcome.CONFLICT, key=9, sa_key=0,
        start_ns=110, done_ns=120,
    ),
    "a reply": KeysRead(
        lu=LU, nexus=B, generation=11, keys=(1,), truncated=False, start_ns=110, done_ns=120
    ),
    "a conflict of an ordinary command": ConflictSeen(lu=LU, nexus=B, start_ns=110, done_ns=120),
}  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_ends_what_is_expected(answer) -> None:
    """No unit attention waits on a nexus that was answered: the next one is a stranger's."""
    state = apply(preempted(), answer).state
    assert not state.expected
    assert doubted(apply(state, met(B, 200)).state) == DOUBT


def test_an_answer_to_an_earlier_command_ends_nothing() -> None:
    early = ConflictSeen(lu=LU, nexus=B, start_ns=80, done_ns=120)
    assert B in apply(preempted(), early).state.expected


@pytest.mark.parametrize(("target", "shared"), [("LIO-ORG/disk/4.0", True), (SCST, False)])
def test_sessions_of_one_initiator_name_share_them_on_lio(target: str, shared: bool) -> None:
    """Raised for session 1 and delivered on session 2; then session 1 expects none.

    Another host may have preempted session 2 before: both are told of by this one.
    """
    paths = tuple(
        LocalNexus(nexus, LU, initiator_port=f"iqn.a,i,0x{number:012x}", relative_target_port=1)
        for number, nexus in enumerate((A, B, C), 1)
    )
    state = apply(start({}, None, target), PathsSeen(lu=LU, nexus="", paths=paths)).state
    state = send(state, A, Action.REGISTER, 0, 1).state
    state = send(state, B, Action.REGISTER, 0, 2).state
    state = send(state, A, Action.PREEMPT, 1, 2, WERO, start_ns=90, done_ns=100).state
    seen = apply(state, met(C, 110))
    assert Fact.REGISTRATIONS in doubted(seen.state)
    assert (B not in seen.state.expected) is shared


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
def test_a_conflict_of_an_ordinary_command_is_a_sign_where_access_is_allowed(
    held, nexus: str, doubts: bool
) -> None:
    state = start({A: 1, B: 2}, held)
    change = apply(state, ConflictSeen(lu=LU, nexus=nexus, count=3))
    assert bool(change.state.doubts) is doubts


def test_a_conflict_from_before_the_release_is_no_evidence() -> None:
    state = send(start({A: 1}, (A, WE)), A, Action.RELEASE, 1, 0, WE, start_ns=5, done_ns=10).state
    assert apply(state, ConflictSeen(lu=LU, nexus=B, start_ns=7, done_ns=8)).state.doubts == ()
    assert apply(state, ConflictSeen(lu=LU, nexus=B, start_ns=11, done_ns=12)).state.doubts


def legacy(nexus: str, *, release: bool = False, outcome: Outcome = Outcome.DONE) -> LegacyReserve:
    return LegacyReserve(lu=LU, nexus=nexus, release=release, outcome=outcome)


def test_spc2_reserve_for_a_third_party_is_not_the_senders() -> None:
    seen = LegacyReserve(lu=LU, nexus=A, release=False, outcome=Outcome.DONE, third_party=True)
    state = apply(start({}), seen).state
    assert (state.legacy_holder, doubted(state)) == (None, {Fact.RESERVATION})


@pytest.mark.parametrize(("access", "doubts"), [(Access.READ, True), (Access.WRITE, False)])
def test_a_read_that_the_known_type_lets_in_shows_another_type(access, doubts: bool) -> None:
    state = start({A: 1, B: 2}, (A, WE))
    change = apply(state, ConflictSeen(lu=LU, nexus=B, access=access))
    assert bool(change.state.doubts) is doubts


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


def test_spc2_reserve_that_registrations_should_have_refused() -> None:
    """Done by a nexus that is not registered: then nobody is, whatever is known."""
    state = apply(start({A: 1}), legacy(B)).state
    assert state.legacy_holder == B
    assert doubted(state) == DOUBT
    assert may(state, A, Access.WRITE).allowed is None
    lost = RecordsLost(lu=LU, nexus=A, cause="ring full")
    state = apply(apply(start({A: 1}), lost).state, legacy(A)).state
    assert Fact.RESERVATION in doubted(state)


def test_a_holder_by_spc2_that_is_in_doubt_lets_nobody_be_sure() -> None:
    """A RELEASE of unknown outcome: another host may have reserved since."""
    state = apply(
        apply(start({}), legacy(A)).state, legacy(A, release=True, outcome=Outcome.UNKNOWN)
    )
    for nexus in (A, B):
        assert may(state.state, nexus, Access.WRITE).allowed is None


def test_a_reservation_of_spc2_stays_on_a_device_that_has_no_others() -> None:
    none = Unsupported(lu=LU, nexus=A)
    state = apply(apply(new_state(LU, OTHER), none).state, legacy(A)).state
    state = apply(state, none).state
    assert state.legacy_holder == A
    assert may(state, B, Access.WRITE).allowed is False
    for unsure in (legacy(B, outcome=Outcome.UNKNOWN), replace(legacy(B), third_party=True)):
        state = apply(apply(new_state(LU, OTHER), none).state, unsure).state
        assert may(apply(state, none).state, A, Access.WRITE).allowed is None


@pytest.mark.parametrize("met", ["conflict", "RESERVE"])
def test_a_reservation_of_spc2_on_a_device_that_has_no_others(met) -> None:
    """Whose it is nobody tells, and READ KEYS does not say that it is gone."""
    none = Unsupported(lu=LU, nexus=A)
    sign = (
        legacy(A, outcome=Outcome.CONFLICT) if met == "RESERVE" else ConflictSeen(lu=LU, nexus=A)
    )
    state = apply(apply(new_state(LU, OTHER), none).state, sign).state
    state = apply(state, none).state
    assert may(state, A, Access.WRITE).allowed is None
    reset = AttentionSeen(lu=LU, nexus=A, attention=Attention.RESET)
    assert may(apply(apply(state, reset).state, none).state, A, Access.WRITE).allowed
    own = apply(state, legacy(A)).state
    assert own.legacy_holder == A
    assert not own.doubts
    assert may(own, B, Access.WRITE).allowed is False


def test_spc2_conflict_without_a_reason_and_unknown_outcome() -> None:
    assert doubted(apply(start({}), legacy(A, outcome=Outcome.CONFLICT)).state) == DOUBT
    unknown = apply(start({}), legacy(A, outcome=Outcome.UNKNOWN)).state
    assert doubted(unknown) == {Fact.RESERVATION}


def test_a_read_that_conflicts_is_a_sign_and_other_failures_are_none() -> None:
    def failed(outcome: Outcome) -> ReadFailed:
        return ReadFailed(lu=LU, nexus=A, action="READ KEYS", outcome=outcome)

    state = start({})
    assert apply(state, failed(Outcome.NOT_EXECUTED)).state == state
    assert doubted(apply(state, failed(Outcome.CONFLICT)).state) == {Fact.RESERVATION}
    assert doubted(apply(start({A: 1}), failed(Outcome.CONFLICT)).state) == DOUBT
    reserved = apply(state, legacy(A)).state
    assert apply(reserved, failed(Outcome.CONFLICT)).state.doubts == ()


def test_lost_records_and_commands_that_cannot_be_read_leave_doubt() -> None:
    lost = apply(start({A: 1}), RecordsLost(lu=LU, nexus=A, cause="ring full", count=3))
    assert doubted(lost.state) == DOUBT
    assert f"3 records of {A} lost (ring full)" in lost.effect
    unread = UnreadablePrOut(lu=LU, nexus=A, outcome=Outcome.DONE, problem="list too short")
    assert "list too short" in apply(start({A: 1}), unread).effect
    refused = UnreadablePrOut(lu=LU, nexus=A, outcome=Outcome.NOT_EXECUTED, problem="")
    assert apply(start({A: 1}), refused).state.doubts == ()


def test_replies_of_nobody_knows_which_unit_leave_nothing_certain() -> None:
    """Until the unit is read: what was confirmed over the nexus, capabilities and support too."""
    told = Event(Command.LOST, lu=LU, nexus=B, problem=UNPROVEN, start_ns=200, done_ns=200)
    late = UnderWay(B, 90, "REGISTER timed out")
    known = replace(start({A: 1}), aptpl=True, capabilities=PTPL, names_nexuses=False)
    state = fold(replace(known, under_way=(late,)), told).state
    assert state is not None
    assert doubted(state) == DOUBT
    assert (state.aptpl, state.capabilities, state.names_nexuses) == (None, None, True)
    assert state.under_way == (late,), "nothing says that the command is over"
    none = Unsupported(lu=LU, nexus=B, start_ns=100, done_ns=110)
    state = apply(new_state(LU), none).state
    assert not state.supported
    state = fold(state, told).state
    assert state is not None
    assert state.supported
    assert doubted(state) == DOUBT
    reply = FullStatusRead(
        lu=LU, nexus=A, generation=3, registrations=(), truncated=False, start_ns=300, done_ns=310
    )
    assert not apply(state, reply).state.doubts


def test_commands_that_met_another_unit_leave_nothing_certain() -> None:
    """A nexus of the unit leads to another unit, and since when is not known."""
    told = Event(
        Command.LOST, lu=LU, nexus=B, problem=f"{OTHER_UNIT}naa.b", start_ns=200, done_ns=200
    )
    before = preempted()
    over_b = replace(before.confirmed[Fact.GENERATION], nexus=B)
    before = replace(before, confirmed={**before.confirmed, Fact.RESERVATION: over_b})
    state = fold(before, told).state
    assert state is not None
    # The other unit may have confirmed what was asked over B.
    assert set(state.confirmed) == {Fact.REGISTRATIONS, Fact.GENERATION}
    assert doubted(state) == DOUBT
    assert B not in state.expected
    assert any(each.reason.startswith(f"{B} leads to naa.b") for each in state.doubts)
    # Nor does a reply teach anything whose record comes after that was told.
    reply = KeysRead(
        lu=LU, nexus=B, generation=3, keys=(9,), truncated=False, start_ns=150, done_ns=180
    )
    status = FullStatusRead(
        lu=LU, nexus=B, generation=3, registrations=(), truncated=False, start_ns=181, done_ns=190
    )
    for seen in (reply, status):
        state = apply(state, seen).state
        assert doubted(state) == DOUBT
