"""What needs a real target: the scripts beside this file, each in a machine."""

from __future__ import annotations

import pytest
from labkit.kernels import SERIES

KERNELS = (
    "6.1",
    pytest.param("6.12", marks=pytest.mark.slow),
    pytest.param("7", marks=pytest.mark.slow),
)
PASSED = ", 0 failed"


@pytest.mark.timeout(400)
@pytest.mark.parametrize("kernel", KERNELS)
def test_mask_refusals_claims_guard(inside, kernel) -> None:
    assert PASSED in inside("lab_check.py", kernel=kernel)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("kernel", KERNELS)
def test_multipath(inside, kernel) -> None:
    assert PASSED in inside("lab_check.py", kernel=kernel, multipath=True)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("kernel", KERNELS)
def test_paths_that_fail(inside, kernel) -> None:
    assert PASSED in inside("failed_paths.py", kernel=kernel, multipath=True)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_agent_names_the_guest(inside, kernel) -> None:
    assert PASSED in inside("attribution.py", "names", kernel=kernel, luns=2, multipath=True)


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.parametrize("kernel", SERIES)
def test_names_in_trouble(inside, kernel) -> None:
    output = inside(
        "attribution.py", "trouble", kernel=kernel, timeout=600, luns=2, multipath=True
    )
    assert PASSED in output


@pytest.mark.timeout(400)
def test_sandbox(inside) -> None:
    assert PASSED in inside("sandbox.py", nexuses=1)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("options", [(), ("--upstream",)], ids=["direct", "helper behind"])
def test_same_as_the_helper(inside, options) -> None:
    output = inside("differential.py", "--streams 20000", *options, luns=2, timeout=7000)
    assert "20000 streams, 0 differences" in output
