"""The guard at work: what is refused, what is told, and that a restart forgets nothing."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from prtrace.prhelper.guard import Effect, User
from prtrace.prhelper.guard_book import GuardBook
from prtrace.prhelper.policy import Guard
from prtrace.prhelper.sparing_log import SparingLog
from prtrace.prhelper.watch import NexusWatch

from .test_guard import NEXUS, ONE, TWIN, TWO, pr_out

PLACE = ("0:0:1:0",)
dead: set[User] = set()


@pytest.fixture(autouse=True)
def nobody_is_dead() -> None:
    dead.clear()


def watch(folder: Path | None = None) -> NexusWatch:
    book = None if folder is None else GuardBook(folder)
    return NexusWatch(lambda user: user not in dead, book, SparingLog(logging.getLogger("test")))


def sent(guard: NexusWatch, user: User, how: Guard, outcome: Effect, action: int = 0) -> str:
    """ "" where the command was let through, else the sense code of the refusal."""
    request = pr_out(action)
    admission = guard.admit(NEXUS, PLACE, user, request, how)
    if admission.refusal is not None:
        return admission.refusal.sense[12:14].hex() or "conflict"
    guard.settle(NEXUS, user, request, outcome, new=admission.new)
    return ""


def test_the_second_guest_is_refused_while_the_firsts_command_is_under_way() -> None:
    guard = watch()
    first = guard.admit(NEXUS, PLACE, ONE, pr_out(0), Guard.REFUSE)
    assert sent(guard, TWO, Guard.REFUSE, Effect.DONE) == "5504"
    assert sent(guard, TWO, Guard.REFUSE, Effect.DONE, 1) == "conflict"
    guard.settle(NEXUS, ONE, pr_out(0), Effect.NOTHING, new=first.new)
    assert sent(guard, TWO, Guard.REFUSE, Effect.DONE) == ""
    assert sent(guard, ONE, Guard.REFUSE, Effect.DONE) == "5504"


def test_warnings_are_given_once(caplog: pytest.LogCaptureFixture) -> None:
    guard = watch()
    sent(guard, ONE, Guard.WARN, Effect.DONE)
    for _ in range(3):
        assert sent(guard, TWO, Guard.WARN, Effect.DONE) == ""
    assert caplog.messages == ["two and one use one nexus (0:0:1:0)"]


def test_two_processes_of_one_guest_are_told(caplog: pytest.LogCaptureFixture) -> None:
    guard = watch()
    sent(guard, ONE, Guard.REFUSE, Effect.DONE)
    assert sent(guard, TWIN, Guard.REFUSE, Effect.DONE) == ""
    assert caplog.messages == ["one again and one are one guest, and both run"]


def test_a_guest_that_nobody_can_tell_is_refused() -> None:
    unknown = User("process:0@0", "a process elsewhere", 0, 0)
    assert sent(watch(), unknown, Guard.REFUSE, Effect.DONE) == "5504"
    assert sent(watch(), unknown, Guard.WARN, Effect.DONE) == ""


def test_the_guard_remembers_while_it_is_off() -> None:
    guard = watch()
    assert sent(guard, ONE, Guard.OFF, Effect.DONE) == ""
    assert sent(guard, TWO, Guard.REFUSE, Effect.DONE) == "5504"


@pytest.mark.parametrize("outcome", [Effect.DONE, Effect.UNKNOWN, None])
def test_a_restart_forgets_nothing(tmp_path: Path, outcome: Effect | None) -> None:
    """None: the proxy was killed while the command was under way."""
    guard = watch(tmp_path)
    admission = guard.admit(NEXUS, PLACE, ONE, pr_out(0), Guard.REFUSE)
    if outcome is not None:
        guard.settle(NEXUS, ONE, pr_out(0), outcome, new=admission.new)
    assert sent(watch(tmp_path), TWO, Guard.REFUSE, Effect.DONE) == "5504"
    dead.add(ONE)
    assert sent(watch(tmp_path), TWO, Guard.REFUSE, Effect.DONE) == ""


def test_a_restart_knows_what_has_ended(tmp_path: Path) -> None:
    guard = watch(tmp_path)
    sent(guard, ONE, Guard.REFUSE, Effect.DONE)
    sent(guard, ONE, Guard.REFUSE, Effect.DONE, 3)
    assert sent(watch(tmp_path), TWO, Guard.REFUSE, Effect.DONE) == ""


def test_what_cannot_be_remembered_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guard = watch(tmp_path)
    assert guard._book is not None
    guard._book.close()
    guard._book._fd = 1 << 20
    assert sent(guard, ONE, Guard.REFUSE, Effect.DONE) == "5503"
    assert sent(guard, ONE, Guard.WARN, Effect.DONE) == ""
    assert "the guard's book cannot be written" in caplog.text
    guard._book._fd = -1
