"""RESERVATION CONFLICTs at the rate of the I/O itself."""

import pytest

SPEC = {"luns": 2, "nexuses": 4}


@pytest.mark.timeout(600)
def test_conflicts_are_counted_and_push_nothing_out(loaded) -> None:
    loaded("storm.py", "20000", timeout=480, **SPEC)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_conflicts(loaded) -> None:
    loaded("storm.py", "100000", timeout=1500, **SPEC)
