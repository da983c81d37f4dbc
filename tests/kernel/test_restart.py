"""The agent is killed over and over, and nothing is lost."""

import pytest

from .conftest import KERNELS

SPEC = {"luns": 2, "nexuses": 4}


@pytest.mark.timeout(900)
def test_killed_under_load(loaded) -> None:
    loaded("restart.py", "8", "100000", timeout=780, **SPEC)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kernel", KERNELS)
def test_killed_a_hundred_times(loaded, kernel) -> None:
    loaded("restart.py", "100", "500000", kernel=kernel, timeout=7000, **SPEC)
