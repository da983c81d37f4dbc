"""kill -9 after every step of load and of rollback."""

import pytest

SPEC = {"nexuses": 5, "multipath": True}


@pytest.mark.timeout(400)
def test_every_position_for_one_type(inside) -> None:
    assert ", 0 failed" in inside("kills.py", "--sample", timeout=300, **SPEC)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_position(inside) -> None:
    assert ", 0 failed" in inside("kills.py", timeout=1300, **SPEC)
