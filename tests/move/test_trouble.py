"""Unit attentions, peers that fence, shared keys, wrong files, and a source that is gone."""

import pytest
from labkit.kernels import SERIES

SPEC = {"luns": 2, "nexuses": 5, "multipath": True}


@pytest.mark.timeout(300)
def test_trouble(inside) -> None:
    assert ", 0 failed" in inside("peers.py", timeout=200, **SPEC)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kernel", [series for series in SERIES if series != "6.1"])
def test_trouble_elsewhere(inside, kernel) -> None:
    assert ", 0 failed" in inside("peers.py", kernel=kernel, timeout=500, **SPEC)
