"""What the kernel tests have beside tests/conftest.py: their scripts, and the load program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from labkit import needs
from labkit.kernels import SERIES
from labkit.machine import Machine

KERNELS = SERIES


@pytest.fixture
def scripts() -> Path:
    """The folder that `inside` takes scripts from."""
    return Path(__file__).with_name("inside")


@pytest.fixture
def loaded(boot: Callable[..., Machine], inside: Callable[..., str]) -> Callable[..., str]:
    """As inside, with the load program (tests/lab/load.c) compiled."""

    def run(*arguments: str, kernel: str = "6.1", timeout: float = 300, **spec: object) -> str:
        needs.load()
        return inside(*arguments, kernel=kernel, timeout=timeout, **spec)

    return run


@pytest.fixture
def machine_without_target() -> Iterator[Machine]:
    """A machine in which nothing of SCSI is loaded."""
    with Machine("6.1", None) as machine:
        yield machine
