"""The same operations over the agent's socket, and beside a live multipathd."""

import pytest

SPEC = {"nexuses": 5, "multipath": True}


@pytest.mark.timeout(400)
def test_the_agents_calls(inside) -> None:
    assert ", 0 failed" in inside("calls.py", timeout=300, **SPEC)


@pytest.mark.timeout(300)
def test_multipathd_forgets(inside) -> None:
    # Last on this machine: it has a map of its own over the paths.
    assert ", 0 failed" in inside("mpathd.py", timeout=200, nexuses=3, udev=True)
