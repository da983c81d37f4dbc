"""Programs that nobody here wrote, over every service action: seen, decoded, accounted for."""

from __future__ import annotations

import shlex

import pytest
from labkit.foreign import fence_scsi


@pytest.mark.timeout(420)
def test_sg_persist(inside) -> None:
    output = inside("foreign.py", "sg_persist", nexuses=2, transport="loop,iscsi")
    assert ", 0 failed" in output


@pytest.mark.timeout(1200)
def test_libiscsi(inside) -> None:
    output = inside("foreign.py", "libiscsi", timeout=1100, nexuses=2, transport="loop,iscsi")
    assert ", 0 failed" in output


@pytest.mark.timeout(420)
def test_fence_scsi(inside) -> None:
    command = shlex.quote(fence_scsi().command)
    output = inside("foreign.py", "fence", command, nexuses=2, transport="loop,iscsi")
    assert ", 0 failed" in output


@pytest.mark.timeout(420)
def test_mpathpersist(inside) -> None:
    output = inside("foreign.py", "multipath", nexuses=2, udev=True)
    assert ", 0 failed" in output
