"""Two hosts for each test, from those of its module (both), and nothing left for the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from libvirt.hosts import Hosts


@pytest.fixture
def hosts(both: Hosts) -> Iterator[Hosts]:
    yield both
    both.clean()
