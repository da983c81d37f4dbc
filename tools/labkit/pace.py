"""How much slower this machine is now than the one that the tests' limits were written on.

A limit on waiting is there to end a hang.  It is a number of seconds on a machine that has
nothing else to do; beside other work, or on an older processor, the same wait takes longer, and
the limit has to be longer too.

The measured factor is that of the moment at which a run begins.  What else will run while a test
waits is not known then: another test with a machine of its own, a type checker.  So a limit gets
room for that, too: it costs nothing where nothing hangs.
"""

from __future__ import annotations

import functools
import os
import time

VARIABLE = "PRTRACE_PACE"
"""The environment variable that passes the factor on: to test workers, to lab machines."""

_ROOM = 3
"""How much slower than at the start of a run it may become later."""

_ADDITIONS = 300_000
_REFERENCE_SECONDS = 0.0165
_SAMPLES = 8
_PAUSE_SECONDS = 0.05


@functools.cache
def factor() -> float:
    """How much slower this machine is: 1 for the reference machine when idle, never less.

    Measured once (half a second), from the environment after that.
    """
    passed_on = os.environ.get(VARIABLE)
    measured = float(passed_on) if passed_on else _measured()
    os.environ[VARIABLE] = f"{measured:.2f}"
    return measured


def limit(seconds: float) -> float:
    """A limit of so many seconds, as long as this machine needs it to be."""
    return seconds * factor() * _ROOM


def _measured() -> float:
    """Wall-clock time of a fixed piece of work: what else runs here is part of the figure."""
    total = 0.0
    for _ in range(_SAMPLES):
        begun = time.perf_counter()
        sum(number * number for number in range(_ADDITIONS))
        total += time.perf_counter() - begun
        time.sleep(_PAUSE_SECONDS)
    return max(1.0, total / _SAMPLES / _REFERENCE_SECONDS)
