"""On which kernels what differs little between them is tested."""

from __future__ import annotations

import pytest
from labkit.kernels import SERIES

_OLDEST, *_BETWEEN, _NEWEST = SERIES

FIRST = (_OLDEST, *(pytest.param(each, marks=pytest.mark.slow) for each in SERIES[1:]))
"""The oldest every day, all others in the slow run: for what other tests show of them as well."""
ENDS = (_OLDEST, *(pytest.param(each, marks=pytest.mark.slow) for each in _BETWEEN), _NEWEST)
"""The oldest and the newest every day, those between in the slow run: what one of them has
otherwise has changed from the oldest by then, and the newest has it, too.  Whether the probe
attaches is a matter of each kernel, and tested on all of them every day (test_attach.py)."""
