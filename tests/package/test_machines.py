"""Tests in machines (labkit.pytest_machines): each fate of a test is told as what it is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from labkit import pace

TOP = Path(__file__).parents[2]
FATES = "tests/lab/machine_fates.py"


def run(cache: Path, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-o", f"cache_dir={cache}", FATES, *options],
        cwd=TOP,
        capture_output=True,
        text=True,
        timeout=pace.limit(280),
        check=False,
    )
    print(done.stdout, done.stderr)
    return done.stdout


@pytest.mark.timeout(300)
def test_every_fate(tmp_path: Path) -> None:
    told = run(tmp_path)
    fates = dict(re.findall(r"::(\w+)\[6\.1(?:-\d)?\] (\w+)", told))
    assert fates == {
        "test_passes": "PASSED",
        "test_fails": "FAILED",
        "test_is_skipped": "SKIPPED",
        "test_hangs": "FAILED",
        "test_crashes_the_machine": "ERROR",
        "test_passes_in_the_next_machine": "PASSED",
    }
    assert "assert unit.serial ==" in told
    assert "said inside" in told
    assert "from pytest-timeout" in told
    assert "LOST MACHINE: the machine ended" in told
    assert "sysrq_handle_crash" in told  # the console's end, in which the panic's trace is
    assert told.rstrip().splitlines()[-1].startswith("=")


def test_selection_starts_no_machine_for_what_is_not_chosen(tmp_path: Path) -> None:
    told = run(tmp_path, "-k", "passes and next", "--collect-only", "-q")
    assert "2/7 tests collected" in told
