"""Two guests on one nexus, and when there is only one again."""

from __future__ import annotations

import pytest

from prtrace.prhelper.guard import SameHostGuard, User, guard_refusal
from prtrace.prhelper.wire import CLEANUP, Request

ONE, TWO = User("uuid-1", "one", 10, 1), User("uuid-2", "two", 20, 2)
MIGRATED = User("uuid-1", "one again", 30, 3)
NEXUS = ("0:0:1:0",)


def pr_out(action: int, sa_key: int = 5) -> Request:
    body = bytes(8) + sa_key.to_bytes(8, "big") + bytes(8)
    return Request(bytes((0x5F, action, 0, 0, 0, 0, 0, 0, 24)) + bytes(7), body)


def guard(*dead: User) -> SameHostGuard:
    return SameHostGuard(lambda user: user not in dead)


def test_both_are_seen() -> None:
    watch = guard()
    watch.note(NEXUS, ONE, pr_out(0), 0)
    assert watch.others(NEXUS, TWO) == (ONE,)
    assert watch.others(("0:0:1:1", *NEXUS), TWO) == (ONE,)
    assert watch.others(("0:0:1:1",), TWO) == ()
    assert watch.others(NEXUS, ONE) == ()
    assert watch.others(NEXUS, MIGRATED) == ()


@pytest.mark.parametrize(
    "request_", [pr_out(0, 0), pr_out(6, 0), pr_out(3), Request(bytes((CLEANUP,)) + bytes(15))]
)
def test_what_ends_a_use(request_: Request) -> None:
    watch = guard()
    watch.note(NEXUS, ONE, pr_out(0), 0)
    watch.note(NEXUS, ONE, request_, 0x18)
    assert watch.others(NEXUS, TWO) == (ONE,)
    watch.note(NEXUS, ONE, request_, 0)
    assert watch.others(NEXUS, TWO) == ()


def test_what_begins_none() -> None:
    watch = guard()
    watch.note(NEXUS, ONE, pr_out(0), 0x18)
    watch.note(NEXUS, ONE, Request(b"\x5e" + bytes(15)), 0)
    assert watch.others(NEXUS, TWO) == ()


def test_a_process_that_ended_uses_nothing() -> None:
    watch = guard(ONE)
    watch.note(NEXUS, ONE, pr_out(0), 0)
    assert watch.others(NEXUS, TWO) == ()


def test_a_clear_ends_it_for_all() -> None:
    watch = guard()
    watch.note(NEXUS, ONE, pr_out(0), 0)
    watch.note(NEXUS, TWO, pr_out(3), 0)
    assert watch.others(NEXUS, TWO) == ()


def test_what_a_refused_guest_is_told() -> None:
    assert guard_refusal(pr_out(0)).sense[12:14] == b"\x55\x04"
    assert guard_refusal(pr_out(6)).sense[12:14] == b"\x55\x04"
    assert guard_refusal(pr_out(1)).status == 0x18
