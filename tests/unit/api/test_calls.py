"""Messages of anybody's: see tests/hostile/fuzz_calls.py, which is run for longer by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from examples import share

FUZZ = Path(__file__).parents[2] / "hostile/fuzz_calls.py"


def run(executions: int, seconds: int) -> None:
    done = subprocess.run(
        [sys.executable, FUZZ, "--executions", str(executions)],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert f"{executions} executions" in done.stdout


@pytest.mark.timeout(120)
def test_whatever_is_sent_is_a_call_or_refused() -> None:
    run(share(50_000), 100)


@pytest.mark.slow
@pytest.mark.timeout(3700)
def test_a_million_messages() -> None:
    run(1_000_000, 3600)
