"""What the agent's answers mean for the machine."""

from __future__ import annotations

from typing import Any

import pytest

from prtrace.errors import AgentUnreachableError, PrtraceError, UsageError
from prtrace.libvirt.agent import failed, judged
from prtrace.libvirt.machine import Answer, MoveCall
from prtrace.move.word import Word


def report(word: Word, may_run: bool | None = None) -> dict[str, Any]:
    unit = {"device": "/dev/lun", "result": word.value, "why": None}
    return {
        "report": {
            "exit_status": word.exit_code,
            "may_run": word.may_run if may_run is None else may_run,
            "units": [unit],
        }
    }


@pytest.mark.parametrize("call", [MoveCall.COMMIT, MoveCall.RECLAIM])
@pytest.mark.parametrize("word", list(Word))
def test_only_a_word_that_lets_the_guest_run_is_good(call: MoveCall, word: Word) -> None:
    told = judged(call, report(word))
    assert (told.answer is Answer.GOOD) == (word.exit_code == 0 and word.may_run)


@pytest.mark.parametrize(
    ("call", "word", "answer"),
    [
        (MoveCall.PREPARE, Word.PREPARED, Answer.GOOD),
        (MoveCall.PREPARE, Word.THIRD, Answer.REFUSED),
        (MoveCall.PREPARE, Word.IN_DOUBT, Answer.DOUBT),
        (MoveCall.COMMIT, Word.GONE, Answer.SPENT),
        (MoveCall.COMMIT, Word.FENCED, Answer.SPENT),
        (MoveCall.LATE_COMMIT, Word.DONE, Answer.GOOD),
        (MoveCall.LATE_COMMIT, Word.ALARM, Answer.DOUBT),
        (MoveCall.WITHDRAW, Word.WITHDRAWN, Answer.GOOD),
        (MoveCall.WITHDRAW, Word.NOTHING, Answer.GOOD),
        (MoveCall.WITHDRAW, Word.SOURCE_FIRST, Answer.LATER),
        (MoveCall.FINISH, Word.DONE, Answer.GOOD),
        (MoveCall.FINISH, Word.NO_KEY, Answer.GOOD),
        (MoveCall.FINISH, Word.WAIT, Answer.LATER),
        (MoveCall.FINISH, Word.SUPERSEDED, Answer.SPENT),
    ],
)
def test_what_a_word_means(call: MoveCall, word: Word, answer: Answer) -> None:
    assert judged(call, report(word)).answer is answer


def test_one_doubt_among_units_that_wait_is_doubt() -> None:
    mixed = report(Word.WAIT)
    mixed["report"]["units"] += report(Word.IN_DOUBT)["report"]["units"]
    assert judged(MoveCall.FINISH, mixed).answer is Answer.DOUBT


@pytest.mark.parametrize("reply", [{}, {"report": None}])
def test_no_report_is_no_answer(reply: dict[str, Any]) -> None:
    assert judged(MoveCall.COMMIT, reply).answer is Answer.SILENT


@pytest.mark.parametrize(
    ("verdict", "good"),
    [("movable", True), ("clear", True), ("blocked", False), ("in doubt", False)],
)
def test_a_look_says_why_not(verdict: str, good: bool) -> None:
    unit = {"reasons": [{"obstacle": "x", "fact": "the key is here already"}]}
    told = judged(MoveCall.LOOK, {"verdict": verdict, "units": [unit]})
    assert (told.answer is Answer.GOOD) is good
    assert told.why == "the key is here already"


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (UsageError("no such"), Answer.REFUSED),
        (AgentUnreachableError("nobody", hint="start it"), Answer.SILENT),
        (PrtraceError("broken"), Answer.SILENT),
    ],
)
def test_an_error_is_no_good_answer(error: PrtraceError, answer: Answer) -> None:
    assert failed(MoveCall.COMMIT, error).answer is answer
