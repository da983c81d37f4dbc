"""One core object on every kernel, bcc on one, and attach points that are missing."""

import pytest

from .conftest import KERNELS

from labkit import kernels  # isort: skip - found by way of conftest


@pytest.mark.timeout(400)
@pytest.mark.parametrize("kernel", KERNELS)
def test_core(loaded, kernel) -> None:
    loaded("attach.py", "scenario", "core", kernel=kernel, timeout=300)


@pytest.mark.timeout(400)
def test_a_missing_optional_attach_point_is_reported(loaded) -> None:
    loaded("attach.py", "missing", kernel="6.1", timeout=300)


@pytest.mark.timeout(1500)
def test_bcc(loaded) -> None:
    if not kernels.find("6.1").headers:
        kernels.fetch(["6.1"], headers=True)
    loaded("attach.py", "scenario", "bcc", kernel="6.1", timeout=1300)


@pytest.mark.timeout(1500)
def test_bcc_on_a_kernel_without_btf(loaded) -> None:
    if not kernels.find("6.1").headers:
        kernels.fetch(["6.1"], headers=True)
    loaded("attach.py", "no-btf", kernel="6.1", timeout=1300)
