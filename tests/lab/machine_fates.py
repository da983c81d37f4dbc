"""Tests with every fate that a test in a machine can have.

tests/package/test_machines.py runs them.

Not collected by itself: its name is not that of a test module.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.machine(luns=1, nexuses=1), pytest.mark.timeout(60)]


def test_passes(unit, lio) -> None:
    assert len(unit.paths) == 1
    assert lio().generation == 0


def test_fails(unit) -> None:
    print("said inside")
    assert unit.serial == "another"


@pytest.mark.skip(reason="asked to")
def test_is_skipped() -> None:
    raise AssertionError


@pytest.mark.timeout(3)
def test_hangs() -> None:
    time.sleep(600)


def test_crashes_the_machine() -> None:
    Path("/proc/sysrq-trigger").write_text("c")
    time.sleep(600)


@pytest.mark.parametrize("number", [1, 2])
def test_passes_in_the_next_machine(number) -> None:
    assert os.uname().nodename == "lab"
