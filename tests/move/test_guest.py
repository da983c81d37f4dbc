"""A running guest, and the reservation that it made, on another nexus."""

import pytest
from labkit.kernels import SERIES

from move.image import snapshot

SPEC = {"nexuses": 5, "memory": "3G"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kernel", SERIES)
def test_a_guest_migrates_with_its_reservation(inside, kernel) -> None:
    inside("guest.py", str(snapshot()), "plain", kernel=kernel, timeout=800, **SPEC)


@pytest.mark.slow
@pytest.mark.timeout(2700)
def test_a_guest_outlives_every_accident_of_the_destination(inside) -> None:
    inside("guest.py", str(snapshot()), "accidents", timeout=2400, **SPEC)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_guest_migrates_behind_proxies(inside) -> None:
    inside("guest.py", str(snapshot()), "proxies", timeout=900, **SPEC)
