"""The same streams to qemu-pr-helper and to the proxy, with disks among the descriptors."""

from __future__ import annotations

import pytest


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("options", [(), ("--upstream",)], ids=["direct", "helper behind"])
def test_same_as_the_helper(inside, options) -> None:
    output = inside("differential.py", "--streams 20000", *options, luns=2, timeout=7000)
    assert "20000 streams, 0 differences" in output
