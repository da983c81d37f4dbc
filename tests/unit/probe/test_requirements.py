"""What is missing is named: by doctor, and where an engine could not start, by the same code."""

from __future__ import annotations

import errno

import pytest

from prtrace.probe import requirements
from prtrace.probe.requirements import Check, CheckResult, Part, can_run, missing

_CHECKS = [
    Check("fine", CheckResult.OK, ""),
    Check("less", CheckResult.WARN, ""),
    Check("BTF", CheckResult.MISSING, "none", "boot another", Part.CORE),
]


def test_an_engine_needs_what_is_its_own_and_what_both_need() -> None:
    assert [check.name for check in missing(_CHECKS, Part.CORE)] == ["BTF"]
    assert not can_run(_CHECKS, Part.CORE)
    assert can_run(_CHECKS, Part.BCC)
    assert not can_run([Check("bpffs", CheckResult.MISSING, "")], Part.BCC)


def test_the_first_that_is_missing_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "of_both", list)
    monkeypatch.setattr(requirements, "of_core", lambda: _CHECKS)
    told = requirements.refusal("refused", OSError(errno.EINVAL, ""), Part.CORE)
    assert told is not None
    assert (told.message, told.hint) == ("refused: BTF: none", "boot another")


def test_no_memory_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "of_both", list)
    monkeypatch.setattr(requirements, "of_core", list)
    told = requirements.refusal("refused", OSError(errno.ENOMEM, ""), Part.CORE)
    assert told is not None
    assert "no memory for the maps" in told.message
    assert "MemoryMax=" in told.hint
    assert requirements.refusal("refused", OSError(errno.EINVAL, ""), Part.CORE) is None
