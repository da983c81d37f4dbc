"""Messages of anybody's: see tests/hostile/fuzz_calls.py, which is run for longer by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[2] / "hostile/fuzz_calls.py"


def run(executions: int, seconds: int) -> str:
    done = subprocess.run(
        [sys.executable, FUZZ, "--executions", str(executions)],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return done.stdout


@pytest.mark.timeout(120)
def test_whatever_is_sent_is_a_call_or_refused() -> None:
    assert "30000 executions" in run(30_000, 100)


@pytest.mark.slow
@pytest.mark.timeout(3700)
def test_a_million_messages() -> None:
    assert "1000000 executions" in run(1_000_000, 3600)
