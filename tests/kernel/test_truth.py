"""Random walks against LIO's own view, and LIO's own departures from the standard."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from .conftest import KERNELS

_STEPS = 600
_SLOW_STEPS = 2500
_SLOW_WALKS = 4
"""Four walks of one kernel make the 10,000 steps of the acceptance."""

_NEXUSES = {"luns": 2, "nexuses": 2, "transport": "loop,iscsi", "multipath": True}
"""Two over tcm_loop and two over iSCSI, which alone takes PREEMPT AND ABORT."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kernel", KERNELS)
def test_walk(inside, kernel) -> None:
    seed = random.randrange(1 << 32)  # printed by the script, so by pytest where it fails
    output = inside(
        *("truth.py", f"--steps={_STEPS}", f"--seed={seed}"),
        kernel=kernel,
        timeout=420,
        **_NEXUSES,
    )
    assert output.rstrip().endswith(", 0 failed")


@pytest.mark.timeout(900)
def test_walk_without_reading(inside) -> None:
    """The agent never asks: then nothing may be wrong either, only in doubt for longer."""
    seed = random.randrange(1 << 32)
    output = inside(
        *("truth.py", f"--steps={_STEPS // 2}", f"--seed={seed}", "--passive"),
        timeout=420,
        **_NEXUSES,
    )
    assert output.rstrip().endswith(", 0 failed")


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kernel", KERNELS)
def test_long_walks(inside, kernel) -> None:
    for _ in range(_SLOW_WALKS):
        seed = random.randrange(1 << 32)
        inside(
            *("truth.py", f"--steps={_SLOW_STEPS}", f"--seed={seed}"),
            kernel=kernel,
            timeout=1700,
            **_NEXUSES,
        )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kernel", KERNELS)
def test_deviations(inside, kernel) -> None:
    output = inside("lio_deviations.py", kernel=kernel, timeout=120, nexuses=2)
    told = (Path(__file__).parent / "DEVIATIONS.md").read_text()
    shown = [line for line in output.splitlines() if line.startswith("|")]
    assert shown == [line for line in told.splitlines() if line.startswith("|")]
