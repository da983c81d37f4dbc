"""Two guests on one nexus, and when there is only one again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.linux.sgio import Reply
from prtrace.model import Outcome
from prtrace.prhelper.answer import (
    COMMUNICATION_FAILURE,
    INVALID_CDB,
    check,
    of_reply,
)
from prtrace.prhelper.guard import (
    Company,
    Effect,
    SameHostGuard,
    User,
    guard_refusal,
    outcome_of,
)
from prtrace.prhelper.protocol import CLEANUP, Request, Response
from prtrace.prhelper.upstream import told_by_helper
from prtrace.scsi.sense import FIXED, Sense

ONE, TWO = User("machine:1", "one", 10, 1), User("machine:2", "two", 20, 2)
TWIN = User("machine:1", "one again", 30, 3)
LIAR = User("machine:4", "four", 40, 4, "waldi")
WALDI = User("machine:5", "five", 50, 5, "waldi")
NEXUS = ("0:0:1:0#77", "naa.5 iqn.a naa.b")


def pr_out(action: int, sa_key: int = 5) -> Request:
    body = bytes(8) + sa_key.to_bytes(8, "big") + bytes(8)
    return Request(bytes((0x5F, action, 0, 0, 0, 0, 0, 0, 24)) + bytes(7), body)


def guard(*dead: User) -> SameHostGuard:
    return SameHostGuard(lambda user: user not in dead)


def used(watch: SameHostGuard, user: User, keys: tuple[str, ...] = NEXUS) -> None:
    watch.settle(keys, user, pr_out(0), Effect.DONE, new=watch.add(keys, user))


def test_another_guest_is_seen_by_any_key() -> None:
    watch = guard()
    used(watch, ONE)
    for keys in (NEXUS, NEXUS[:1], NEXUS[1:], ("other", NEXUS[1])):
        assert watch.company(keys, TWO) == Company((ONE,))
    assert watch.company(("0:0:1:1#78",), TWO) == Company()
    assert watch.company(NEXUS, ONE) == Company()


def test_a_use_begins_before_the_command_is_sent() -> None:
    watch = guard()
    assert watch.add(NEXUS, ONE)
    assert watch.company(NEXUS, TWO).others == (ONE,)
    assert not watch.add(NEXUS, ONE)


@pytest.mark.parametrize(
    ("outcome", "uses"),
    [(Effect.DONE, True), (Effect.UNKNOWN, True), (Effect.NOTHING, False)],
)
def test_the_first_command_leaves_a_use_unless_it_did_nothing(outcome: Effect, uses: bool) -> None:
    watch = guard()
    watch.settle(NEXUS, ONE, pr_out(0), outcome, new=watch.add(NEXUS, ONE))
    assert bool(watch.company(NEXUS, TWO).others) is uses


@pytest.mark.parametrize(
    "request_", [pr_out(0, 0), pr_out(6, 0), pr_out(3), Request(bytes((CLEANUP,)) + bytes(15))]
)
def test_only_a_command_that_was_done_ends_a_use(request_: Request) -> None:
    watch = guard()
    used(watch, ONE)
    for outcome in (Effect.NOTHING, Effect.UNKNOWN):
        watch.settle(NEXUS, ONE, request_, outcome, new=watch.add(NEXUS, ONE))
        assert watch.company(NEXUS, TWO).others == (ONE,)
    assert watch.settle(NEXUS, ONE, request_, Effect.DONE, new=False) == (ONE,)
    assert watch.company(NEXUS, TWO) == Company()
    assert list(watch.users) == []


def test_unregistering_ends_it_for_every_process_of_the_guest() -> None:
    watch = guard()
    used(watch, ONE)
    used(watch, TWIN)
    watch.settle(NEXUS, TWIN, pr_out(0, 0), Effect.DONE, new=False)
    assert watch.company(NEXUS, TWO) == Company()


def test_a_clear_ends_it_for_all() -> None:
    watch = guard()
    used(watch, ONE)
    used(watch, TWO)
    assert set(watch.settle(NEXUS, TWO, pr_out(3), Effect.DONE, new=False)) == {ONE, TWO}


def test_a_process_that_ended_uses_nothing() -> None:
    watch = guard(ONE)
    used(watch, ONE)
    assert watch.company(NEXUS, TWO) == Company()
    assert list(watch.users) == []


def test_two_processes_of_one_guest_are_told_and_let_through() -> None:
    watch = guard()
    used(watch, ONE)
    assert watch.company(NEXUS, TWIN) == Company((), (ONE,))


def test_two_guests_of_one_claimed_name_are_told_wherever_they_are() -> None:
    watch = guard()
    used(watch, LIAR)
    assert watch.company(("elsewhere",), WALDI) == Company((), (LIAR,))
    assert watch.company(NEXUS, WALDI) == Company((LIAR,), (LIAR,))


@pytest.mark.parametrize(
    ("response", "outcome"),
    [
        (Response(0), Effect.DONE),
        (Response(0x18), Effect.NOTHING),
        (Response(0x08), Effect.NOTHING),
        (Response(0x28), Effect.NOTHING),
        (check(INVALID_CDB), Effect.NOTHING),
        (check((6, 0x2A, 5)), Effect.NOTHING),
        (check((2, 4, 0)), Effect.UNKNOWN),
        (check(COMMUNICATION_FAILURE), Effect.UNKNOWN),
        (Response(8, unsure=True), Effect.UNKNOWN),
        (Response(0x18)._replace(unsure=True), Effect.UNKNOWN),
        (Response(0, unsure=True), Effect.DONE),
        (Response(2), Effect.UNKNOWN),
        (Response(0x40), Effect.UNKNOWN),
    ],
)
def test_what_an_answer_says_of_the_effect(response: Response, outcome: Effect) -> None:
    assert outcome_of(response) is outcome


def test_what_a_refused_guest_is_told() -> None:
    assert guard_refusal(pr_out(0)).sense[12:14] == b"\x55\x04"
    assert guard_refusal(pr_out(6)).sense[12:14] == b"\x55\x04"
    assert guard_refusal(pr_out(1)).status == 0x18
    assert guard_refusal(Request(bytes((CLEANUP,)) + bytes(15))).status == 0x18


@given(
    status=st.sampled_from([0, 2, 8, 0x18, 0x28, 0x40]),
    host=st.integers(0, 0x1F),
    driver=st.sampled_from([0, 6, 8]),
    key=st.integers(0, 0xF),
    asc=st.sampled_from([0x00, 0x04, 0x24, 0x29, 0x2A, 0x55]),
)
def test_nothing_is_certain_where_the_transport_decided(
    status: int, host: int, driver: int, key: int, asc: int
) -> None:
    """Whatever the guest is told of it."""
    sense = Sense(FIXED, key, asc, 0).build() if status == 2 else b""
    reply = Reply(status, host, driver, sense, b"", 0)
    if reply.transport_fault:
        assert outcome_of(of_reply(reply)) is Effect.UNKNOWN
    elif reply.outcome in (Outcome.CONFLICT, Outcome.NOT_EXECUTED):
        assert outcome_of(of_reply(reply)) is Effect.NOTHING


@pytest.mark.parametrize(
    ("response", "outcome"),
    [
        (Response(8), Effect.UNKNOWN),
        (Response(0x28), Effect.UNKNOWN),
        (check((6, 0x29, 0)), Effect.UNKNOWN),
        (check((6, 0x2A, 5)), Effect.NOTHING),
        (check(INVALID_CDB), Effect.NOTHING),
        (Response(0x18), Effect.NOTHING),
        (Response(2, b"?"), Effect.UNKNOWN),
    ],
)
def test_what_a_helper_makes_of_a_fault_is_not_certain(
    response: Response, outcome: Effect
) -> None:
    assert outcome_of(told_by_helper(response)) is outcome
