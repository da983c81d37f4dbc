"""What needs no SCSI: the scripts beside this file, in sizes for every day."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from labkit import pace

HERE = Path(__file__).parent


def run(script: str, *options: str, seconds: float = 100) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("LAB_TARGET", None)
    done = subprocess.run(
        [sys.executable, HERE / script, *options],
        env=environment, capture_output=True, text=True, timeout=pace.limit(seconds),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return done.stdout


@pytest.mark.timeout(120)
@pytest.mark.parametrize("options", [(), ("--upstream",)], ids=["direct", "helper behind"])
def test_same_as_the_helper(options: tuple[str, ...]) -> None:
    out = run("differential.py", "--streams", "20000", *options)
    assert "20000 streams, 0 differences" in out


@pytest.mark.timeout(120)
def test_fuzz() -> None:
    assert "200000 executions" in run("fuzz.py", "--executions", "200000")


@pytest.mark.slow
@pytest.mark.timeout(3700)
def test_fuzz_for_long() -> None:
    assert "10000000 executions" in run("fuzz.py", seconds=3650)
