"""Each obstacle, with the fact behind it."""

from dataclasses import replace

import pytest
from shipped import valid

from prtrace.errors import MalformedError
from prtrace.model import KeysRead, LocalNexus, ReservationRead, ReservationType, Unsupported
from prtrace.move.facts import Facts, Registered, Sender
from prtrace.move.side import LocalPath, Side
from prtrace.move.verdict import Obstacle, Verdict, check_view, judge, overall
from prtrace.state.apply import apply, new_state
from prtrace.state.view import unit_view

QEMU = Sender(100, "qemu", "db1")


def path(nexus, port):
    return LocalPath(
        LocalNexus(nexus, "naa.6", initiator_port=port, relative_target_port=1), "/dev/x"
    )


SIDE = Side("/dev/mapper/a", "naa.6", "", (path("1:0:0:0", "naa.a"), path("2:0:0:0", "naa.b")))


def registered(nexus, key=0x4B, port=None, by=QEMU, **more):
    return Registered(nexus, key, port, 1, "observed", "2026-01-01T00:00:00Z", by, **more)


OURS = (registered("1:0:0:0"), registered("2:0:0:0"))
HELD = Facts("naa.6", registrations=OURS, type=ReservationType.WERO, holders=("1:0:0:0",))


def with_more(*more, **changes):
    return Facts(
        "naa.6",
        registrations=(*OURS, *more),
        type=HELD.type,
        holders=HELD.holders,
        **changes,
    )


def test_nothing_to_move_is_clear_and_a_key_of_one_guest_is_movable():
    assert judge(SIDE, Facts("naa.6")).verdict is Verdict.CLEAR
    verdict = judge(SIDE, HELD, asked=QEMU)
    assert (verdict.verdict, verdict.key, verdict.held) == (Verdict.MOVABLE, 0x4B, True)
    assert len(verdict.would) == 3
    assert verdict.notes == ()
    assert len(judge(SIDE, HELD, hands_over=False).would) == 4


@pytest.mark.parametrize(
    ("facts", "obstacle"),
    [
        (with_more(doubts=(("registrations", "lost"),)), Obstacle.IN_DOUBT),
        (Facts("naa.6", doubts=(("registrations", "never read"),)), Obstacle.IN_DOUBT),
        (with_more(registered("naa.c,1", port="naa.c")), Obstacle.SHARED_KEY),
        (with_more(unplaced=(0x4B,)), Obstacle.SHARED_KEY),
        (with_more(registered("naa.a,2", port="naa.a")), Obstacle.BEYOND_PATHS),
        (with_more(registered("naa.c,1", maybe_local=True)), Obstacle.IN_DOUBT),
        (
            Facts("naa.6", registrations=(registered("naa.c,1", maybe_local=True),)),
            Obstacle.IN_DOUBT,
        ),
        (Facts("naa.6", unplaced=(5,)), Obstacle.IN_DOUBT),
        (with_more(unplaced=(5,)), Obstacle.IN_DOUBT),
        (with_more(unknowable=(("registrations", "whose the keys are"),)), Obstacle.IN_DOUBT),
        (Facts("naa.6", unknowable=(("reservation", "who holds it"),)), Obstacle.IN_DOUBT),
        (with_more(legacy_holder="3:0:0:0"), Obstacle.LEGACY_RESERVE),
        (with_more(scope="ELEMENT"), Obstacle.FOREIGN_SCOPE),
        (
            Facts("naa.6", registrations=(OURS[0], registered("2:0:0:0", 0x4C))),
            Obstacle.DIFFERENT_KEYS,
        ),
    ],
)
def test_each_obstacle_has_its_fact_and_its_verdict(facts, obstacle):
    verdict = judge(SIDE, facts)
    assert [reason.obstacle for reason in verdict.reasons] == [obstacle]
    doubtful = obstacle is Obstacle.IN_DOUBT
    assert verdict.verdict is (Verdict.IN_DOUBT if doubtful else Verdict.BLOCKED)


def test_another_guest_on_the_nexus_is_in_the_way():
    other = Sender(200, "qemu", "db2")
    verdict = judge(SIDE, HELD, asked=QEMU, users=(QEMU, other))
    assert [reason.obstacle for reason in verdict.reasons] == [Obstacle.OTHER_USER]
    assert "db2" in verdict.reasons[0].fact
    # The programs of one administrator are not different guests.
    script = (Sender(1, "sg_persist"), Sender(2, "sg_persist"))
    mine = Facts("naa.6", registrations=(registered("1:0:0:0", by=script[0]),))
    one = Side("/dev/x", "naa.6", "", SIDE.paths[:1])
    assert judge(one, mine, users=script).verdict is Verdict.MOVABLE
    assert judge(one, mine, asked=QEMU).verdict is Verdict.BLOCKED


VM = "qemu-system-x86"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Sender(100, VM, start_ns=10**9), Sender(200, VM, start_ns=10**10), False),
        (Sender(100, VM, start_ns=10**9), Sender(100, VM, start_ns=10**9), True),
        (Sender(100, VM, start_ns=10**9), Sender(100, VM, start_ns=10**10), False),
        (Sender(100, "kvm"), Sender(200, "kvm"), False),
        (Sender(100, VM, "vm1", uuid="a"), Sender(200, VM, "vm1", uuid="b"), False),
        (Sender(100, VM, "vm1", uuid="a"), Sender(200, VM, "vm1", uuid="a"), True),
        (Sender(100, VM, "vm1", uuid="a"), Sender(200, VM, "vm1"), True),
    ],
    ids=["nameless", "itself", "number given again", "kvm", "clone", "restarted", "no UUID known"],
)
@pytest.mark.parametrize("asks", [False, True], ids=["", "asked"])
def test_a_guest_is_told_from_another_by_what_is_known_of_both(one, other, same, asks):
    facts = Facts("naa.6", registrations=(registered("1:0:0:0", by=one),))
    side = Side("/dev/x", "naa.6", "", SIDE.paths[:1])
    verdict = judge(side, facts, asked=one if asks else None, users=(other,))
    assert (verdict.verdict is Verdict.MOVABLE) is same


def test_what_is_good_to_know_stands_in_nobodys_way():
    lacking = judge(SIDE, Facts("naa.6", registrations=OURS[:1]))
    assert lacking.verdict is Verdict.MOVABLE
    assert lacking.notes == ("2:0:0:0 (/dev/x) is not registered",)
    deaf = judge(SIDE, HELD, hands_over=False)
    assert deaf.verdict is Verdict.MOVABLE
    assert "prtrace release" in deaf.notes[0]
    single = Facts("naa.6", registrations=OURS, type=ReservationType.WE, holders=("1:0:0:0",))
    assert "only the path that holds" in judge(SIDE, single).notes[0]


def test_two_sessions_of_one_initiator_are_named_where_the_target_mixes_them():
    paths = path("1:0:0:0", "iqn.a,i,0x1"), path("2:0:0:0", "iqn.a,i,0x2")
    side = Side("/dev/mapper/a", "naa.6", "", paths)
    (note,) = judge(side, replace(HELD, target="LIO-ORG/x/4.0")).notes
    assert "1:0:0:0 and 2:0:0:0 are sessions of one initiator" in note
    assert judge(side, HELD).notes == (note,), "it may be LIO under another name"
    assert judge(side, replace(HELD, target="SCST_BIO/x/370")).notes == ()
    assert judge(side, Facts("naa.6", registrations=OURS, target="LIO-ORG/x/4.0")).notes == ()
    assert judge(SIDE, replace(HELD, target="LIO-ORG/x/4.0")).notes == ()


def test_a_session_of_our_initiator_that_somebody_else_uses_is_in_the_way():
    side = Side("/dev/x", "naa.6", "", (path("1:0:0:0", "iqn.a,i,0x1"),))
    other = registered("iqn.a,i,0x2,1", key=7, port="iqn.a,i,0x2", by=None)
    facts = Facts("naa.6", "LIO-ORG/x/4.0", registrations=(OURS[0], other), type=HELD.type)
    verdict = judge(side, facts)
    assert [each.obstacle for each in verdict.reasons] == [Obstacle.OTHER_SESSION]
    assert judge(side, replace(facts, target="DELL/X/1")).reasons == verdict.reasons
    assert judge(side, replace(facts, target="SCST_BIO/x/370")).verdict is Verdict.MOVABLE
    stranger = replace(other, initiator_port="iqn.b,i,0x2")
    assert judge(side, replace(facts, registrations=(OURS[0], stranger))).reasons == ()


@pytest.mark.parametrize(
    ("capable", "aptpl", "noted"),
    [(True, None, False), (False, True, False), (False, False, False), (False, None, True)],
)
def test_what_prepare_will_ask_for_is_said_on_the_source(capable, aptpl, noted):
    verdict = judge(SIDE, replace(HELD, capable=capable, aptpl=aptpl))
    assert verdict.verdict is Verdict.MOVABLE
    assert any("--aptpl" in note for note in verdict.notes) is noted


def test_what_qemu_moves_itself_is_blocked():
    verdict = judge(SIDE, HELD, moves_itself="migrate-pr=on")
    assert [reason.obstacle for reason in verdict.reasons] == [Obstacle.QEMU_MOVES_IT]


def test_the_gravest_verdict_of_several_units_counts():
    clear, movable = judge(SIDE, Facts("naa.6")), judge(SIDE, HELD)
    doubtful = judge(SIDE, Facts("naa.6", unplaced=(5,)))
    blocked = judge(SIDE, HELD, moves_itself="on")
    assert overall([clear]).exit_code == 0
    assert overall([clear, movable]).exit_code == 0
    assert overall([clear, doubtful, movable]).exit_code == 12
    assert overall([blocked, doubtful]).exit_code == 11
    valid(check_view([clear, movable, doubtful, blocked], "here"), "check.2")


def test_what_nobody_can_know_is_taken_from_what_is_shown():
    """A device that does not know READ FULL STATUS, and a key that may be another host's."""
    state = new_state("naa.6", "ACME/x/1")
    for seen in (
        Unsupported(lu="naa.6", nexus="1:0:0:0", full_status=True),
        KeysRead(lu="naa.6", nexus="1:0:0:0", generation=4, keys=(0x4B,), truncated=False),
        ReservationRead(
            lu="naa.6", nexus="1:0:0:0", generation=4, key=0x4B, type=ReservationType.WE
        ),
    ):
        state = apply(state, seen).state
    facts = Facts.from_show(unit_view(state, None, 0))
    assert (facts.doubts, facts.unplaced) == ((), (0x4B,))
    assert [what for what, _ in facts.unknowable] == ["registrations", "reservation"]
    assert judge(SIDE, facts).verdict is Verdict.IN_DOUBT


def test_what_is_no_unit_has_no_facts():
    for wrong in ({}, {"lu": 1}, {"lu": "naa.6", "generation": "x"}):
        with pytest.raises(MalformedError):
            Facts.from_show(wrong)
