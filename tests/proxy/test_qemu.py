"""An unmodified QEMU guest behind the proxy, in a machine."""

from __future__ import annotations

import pytest
from move.image import snapshot


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_a_guest_sees_no_difference_and_is_named(inside) -> None:
    snapshot_file = str(snapshot())
    inside("guest.py", snapshot_file, luns=2, memory="3G", timeout=1800)
