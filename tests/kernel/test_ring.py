"""Rings that overflow, a reader that stands still, a program that is skipped."""

import pytest

SPEC = {"luns": 2, "nexuses": 4}


@pytest.mark.timeout(600)
def test_what_a_full_ring_drops_is_in_doubt_by_name(loaded) -> None:
    loaded("ring.py", "overflow", timeout=480, **SPEC)


@pytest.mark.timeout(600)
def test_a_stopped_reader_loses_nothing(loaded) -> None:
    loaded("ring.py", "stopped", "1600", timeout=480, **SPEC)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_stopped_reader_loses_nothing_of_16384(loaded) -> None:
    loaded("ring.py", "stopped", "16384", timeout=2800, **SPEC)
