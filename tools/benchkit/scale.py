"""Many nexuses: 1,024 logical units over 16 paths each, all registered; against one such unit.

Memory is what a process gains in resident memory by what the agent keeps of them: the
inventory and the states.  Natively, each in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from benchkit.figure import Figure, Ratio, Series

_UNITS, _PATHS = 1024, 16
_REPEATS = 3


def run() -> Iterator[Figure]:
    many = [_child(_UNITS) for _ in range(_REPEATS)]
    one = [_child(1) for _ in range(_REPEATS)]
    nexuses = _UNITS * _PATHS
    gained = Series.of([each["gained"] / nexuses for each in many], "bytes")
    yield Figure(
        f"memory, {nexuses:,} nexuses",
        (Ratio(gained.median, "", 2000, unit="bytes a nexus"),),
        {"a nexus": gained},
    )
    at_many = Series.of([t for each in many for t in each["show"]], "µs")
    at_one = Series.of([t for each in one for t in each["show"]], "µs")
    yield Figure(
        f"show of one unit among {_UNITS:,}",
        (Ratio(at_many.median / at_one.median, "the same unit alone", 1.1),),
        {f"among {_UNITS:,}": at_many, "alone": at_one},
    )


def _child(units: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchkit.in_scale", str(units), str(_PATHS)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=200,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found
