"""prtrace read against LIO, without an agent."""

import pytest


@pytest.mark.timeout(300)
def test_read(inside) -> None:
    inside("read.py", nexuses=2, multipath=True)  # its exit status decides
