"""So many lines of a kind, then a count."""

from __future__ import annotations

import logging

import pytest

from prtrace.prhelper import sparing_log
from prtrace.prhelper.sparing_log import BURST, BURST_OF_ALL, PERIOD_SECONDS, SparingLog


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock) -> SparingLog:
    return SparingLog(logging.getLogger("test"), clock)


def test_a_kind_is_said_some_times_and_then_counted(
    log: SparingLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(BURST + 7):
        log.say(logging.WARNING, "guest 1", f"refused {number}")
    log.say(logging.WARNING, "guest 2", "another")
    assert len(caplog.messages) == BURST + 1
    clock.now = PERIOD_SECONDS
    log.say(logging.WARNING, "guest 1", "again")
    assert caplog.messages[-1] == "again (7 like it were not logged)"
    log.say(logging.WARNING, "guest 1", "and again")
    assert caplog.messages[-1] == "and again"


def test_many_kinds_are_limited_together(
    log: SparingLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(10 * sparing_log._MOST_KINDS):
        log.say(logging.WARNING, f"guest {number}", "refused")
    assert len(caplog.messages) == BURST_OF_ALL
    assert len(log._kinds) <= sparing_log._MOST_KINDS
    clock.now = 2 * PERIOD_SECONDS
    log.say(logging.WARNING, "new", "heard again")
    assert caplog.messages[-1].startswith("heard again")
