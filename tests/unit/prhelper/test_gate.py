"""Holding a guest's commands, and seeing them before it does."""

from __future__ import annotations

import threading
import time

import pytest
from labkit import pace

from prtrace.prhelper.answer import INVALID_CDB, check
from prtrace.prhelper.client import HelperClient
from prtrace.prhelper.gate import Gate, Named
from prtrace.prhelper.identity import Vouched
from prtrace.prhelper.protocol import CLEANUP, Request, Response

from .test_guard import pr_out

VM1 = HelperClient(11, 0, 1, "a.scope", Vouched("machine:a", "machine", ("vm1",)))
VM2 = HelperClient(12, 0, 2, "b.scope", Vouched("machine:b", "machine", ("vm2",)))
NAMELESS = HelperClient(13, 0, 3, "", Vouched("process:13@3", "process"))


def passes(gate: Gate, client: HelperClient, seconds: float) -> bool | None:
    """Whether the client had to wait; None where it is held for longer than seconds."""
    found: list[bool] = []

    def go() -> None:
        with gate.passing(client) as waited:
            found.append(waited)

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else None


def test_a_guest_is_meant_by_its_name_or_its_process() -> None:
    assert Named("vm1").means(VM1)
    assert not Named("vm1").means(VM2)
    assert Named(pid=13).means(NAMELESS)
    assert not Named(pid=13).means(VM1)
    assert not Named("").means(NAMELESS)


def test_a_held_guest_waits_and_others_do_not() -> None:
    gate = Gate()
    hold, held = gate.hold(Named("vm1"), 30)
    assert held
    assert passes(gate, VM2, pace.limit(10)) is False
    assert passes(gate, VM1, 0.1) is None
    assert gate.release(hold)
    assert passes(gate, VM1, pace.limit(10)) is False


def test_a_hold_ends_by_itself() -> None:
    gate = Gate()
    # On a busy machine a short hold may be over before the guest comes.
    for seconds in (0.2, 2, 20):
        hold, _ = gate.hold(Named("vm1"), seconds)
        waited = passes(gate, VM1, pace.limit(60))
        assert not gate.release(hold), "commands may have been sent"
        if waited:
            break
    assert waited is True


def test_a_hold_waits_for_what_is_under_way() -> None:
    gate = Gate()
    results = []
    with gate.passing(VM1):
        thread = threading.Thread(target=lambda: results.append(gate.hold(Named("vm1"), 30)))
        thread.start()
        thread.join(0.1)
        assert not results
        assert passes(gate, VM1, 0.1) is None, "no further command begins meanwhile"
    thread.join(pace.limit(30))
    ((hold, held),) = results
    assert held
    gate.release(hold)


def test_a_hold_gives_up_where_a_command_does_not_end() -> None:
    gate = Gate()
    with gate.passing(VM1):
        _, held = gate.hold(Named("vm1"), 0.1)
        assert not held
    assert passes(gate, VM1, pace.limit(10)) is False


def test_a_guest_waits_while_one_of_two_holds_lasts() -> None:
    gate = Gate()
    first, _ = gate.hold(Named("vm1"), 30)
    second, _ = gate.hold(Named(pid=11), 30)
    gate.release(first)
    assert passes(gate, VM1, 0.1) is None
    gate.release(second)
    assert passes(gate, VM1, pace.limit(10)) is False


@pytest.mark.parametrize(
    ("request_", "response", "told"),
    [
        (pr_out(0), Response(0), True),
        (pr_out(6), Response(0), True),
        (pr_out(3), Response(0), True),
        (pr_out(4), Response(0), True),
        (pr_out(0), check((2, 4, 0)), True),  # nobody knows
        (pr_out(1), Response(0), False),
        (pr_out(2), Response(0), False),
        (pr_out(0), Response(0x18), False),
        (pr_out(0), check(INVALID_CDB), False),
        (Request(bytes((CLEANUP,)) + bytes(15)), Response(0), True),
    ],
)
def test_a_watch_sees_what_may_have_changed_a_registration_of_its_guest(
    request_: Request, response: Response, told: bool
) -> None:
    gate, seen = Gate(), []
    end = gate.watch(Named("vm1"), lambda *what: seen.append(what))
    gate.tell(VM2, request_, response)
    assert not seen
    gate.tell(VM1, request_, response)
    assert seen == ([(VM1, request_, response)] if told else [])
    end()
    gate.tell(VM1, request_, response)
    assert len(seen) <= 1


def test_the_guest_is_told_when_the_watch_returns() -> None:
    gate, order = Gate(), []

    def watcher(*_: object) -> None:
        time.sleep(0.05)
        order.append("watch")

    gate.watch(Named("vm1"), watcher)
    gate.tell(VM1, pr_out(0), Response(0))
    order.append("guest")
    assert order == ["watch", "guest"]


def test_a_hold_that_a_waiting_command_finds_over_is_over() -> None:
    """The command that it held back looks first, and forgets it."""
    gate = Gate()
    results: list[bool] = []
    with gate.passing(VM1):
        seconds = 0.05
        thread = threading.Thread(
            target=lambda: results.append(gate.hold(Named("vm1"), seconds)[1])
        )
        thread.start()
        end = time.monotonic() + pace.limit(30)
        while not gate._holds and not results:
            assert time.monotonic() < end
        with gate._changed:
            # The holding thread waits for this lock; by then its time is over.
            time.sleep(2 * seconds)
            assert gate._left(VM1) == 0
        thread.join(pace.limit(30))
    assert results == [False]


def test_a_command_that_nobody_waits_for_any_more_may_be_under_way() -> None:
    gate = Gate()
    gate.lose(VM1)
    assert gate.hold(Named("vm1"), 0.05)[1] is False
    assert gate.hold(Named("vm2"), 30)[1] is True
    for _ in range(1000):
        gate.lose(VM1)
    assert len(gate._late) == 1
    gate._late = {client: time.monotonic() - 1 for client in gate._late}
    assert gate.hold(Named("vm1"), 30)[1] is True


def test_a_watch_hears_of_a_command_without_an_answer() -> None:
    gate = Gate()
    told: list[Response | None] = []
    gate.watch(Named("vm1"), lambda _, __, response: told.append(response))
    gate.tell(VM1, pr_out(0), None)
    gate.tell(VM1, pr_out(0), Response(8, unsure=True))
    gate.tell(VM1, pr_out(0), Response(8))
    assert told == [None, Response(8, unsure=True)]
