"""Discovery against a real kernel, over both transports at once."""

import pytest

from .conftest import KERNELS


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kernel", KERNELS)
def test_discovery(inside, kernel) -> None:
    output = inside("host_check.py", kernel=kernel, luns=2, transport="loop,iscsi", multipath=True)
    assert ", 0 failed" in output
