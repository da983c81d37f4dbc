"""Programs that nobody here wrote, over every service action: seen, decoded, accounted for."""

from __future__ import annotations

import shlex

import pytest
from labkit.foreign import blkpr, fence_scsi

_KERNELS = ("6.1", *(pytest.param(each, marks=pytest.mark.slow) for each in ("6.12", "7")))
pytestmark = pytest.mark.parametrize("kernel", _KERNELS)


@pytest.mark.timeout(420)
def test_sg_persist(inside, kernel) -> None:
    output = inside("foreign.py", "sg_persist", kernel=kernel, nexuses=2, transport="loop,iscsi")
    assert ", 0 failed" in output


@pytest.mark.timeout(1200)
def test_libiscsi(inside, kernel) -> None:
    output = inside(
        "foreign.py", "libiscsi", timeout=1100, kernel=kernel, nexuses=2, transport="loop,iscsi"
    )
    assert ", 0 failed" in output


@pytest.mark.timeout(420)
def test_fence_scsi(inside, kernel) -> None:
    command = shlex.quote(fence_scsi().command)
    output = inside(
        "foreign.py", "fence", command, kernel=kernel, nexuses=2, transport="loop,iscsi"
    )
    assert ", 0 failed" in output


@pytest.mark.timeout(420)
def test_mpathpersist(inside, kernel) -> None:
    output = inside("foreign.py", "multipath", kernel=kernel, nexuses=2, udev=True)
    assert ", 0 failed" in output


@pytest.mark.timeout(420)
def test_blkpr(inside, kernel) -> None:
    root = shlex.quote(str(blkpr()))
    output = inside("foreign.py", "blkpr", root, kernel=kernel, nexuses=2, transport="loop,iscsi")
    assert ", 0 failed" in output
