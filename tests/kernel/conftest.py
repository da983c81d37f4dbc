"""What the kernel tests have beside tests/conftest.py."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """What a test sets for the agents that it starts is gone after it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
