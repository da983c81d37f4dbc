"""Every type over every kind of device, there and back, with an agent that is told nothing."""

import pytest
from labkit.kernels import SERIES

SPEC = {"nexuses": 5, "multipath": True}


@pytest.mark.timeout(400)
def test_some_of_it(inside) -> None:
    assert ", 0 failed" in inside("matrix.py", "--sample", timeout=300, **SPEC)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kernel", SERIES)
def test_all_of_it(inside, kernel) -> None:
    assert ", 0 failed" in inside("matrix.py", kernel=kernel, timeout=1300, **SPEC)
