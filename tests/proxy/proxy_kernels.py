"""On which kernels the proxy's tests run."""

from __future__ import annotations

import pytest
from labkit.kernels import SERIES

FIRST, *OTHERS = SERIES
PROXY_KERNELS = (FIRST, *(pytest.param(series, marks=pytest.mark.slow) for series in OTHERS))
"""The first one every day, all of them in the slow run."""
