"""Bounded waits for what another process, or the kernel, does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable

from labkit import pace
from labkit.failure import LabError

_POLL_SECONDS = 0.05


def await_that(
    what: str,
    holds: Callable[[], object],
    seconds: float = 60,
    *,
    told: Callable[[], object] = lambda: "",
) -> None:
    """Wait until holds() is true; LabError naming what when it is not in time.

    seconds: of an idle machine, see labkit.pace.  told: what to add to the error, asked for then.
    """
    begun = time.monotonic()
    while not holds():
        passed = time.monotonic() - begun
        # The pace is measured, where nobody passed it on, only for a wait that is a long one.
        if passed > seconds and passed > pace.limit(seconds):
            raise LabError(f"{what}: not within {passed:.0f} s\n{told()}".rstrip())
        time.sleep(_POLL_SECONDS)
