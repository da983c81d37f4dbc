"""Between ring and store, every failure there can be: tests/unit/agent tries some of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[1] / "unit"
SHIM = UNIT / "agent/failing.c"


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", ["calls", "allocations", "memory"])
def test_every_failure_between_ring_and_store(tmp_path: Path, kind: str) -> None:
    shim = tmp_path / "failing.so"
    subprocess.run(["clang", "-shared", "-fPIC", "-O1", "-o", shim, SHIM, "-ldl"], check=True)
    path = ":".join([str(UNIT), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", "agent.failing", kind, str(tmp_path), "0"],
        env=os.environ | {"LD_PRELOAD": str(shim), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
