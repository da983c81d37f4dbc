"""From a command's completion to its event on the socket, in round trips of a PR OUT.

Two processors, no clock by instructions: both figures come from the same run and the same
commands, one at a time, so that the slowness of the machine cancels out.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator

from labkit.machine import Machine
from labkit.qemu import Shape
from labkit.target import TargetSpec

from benchkit.figure import Figure, Ratio, Series

_REPEATS = 3


def run() -> Iterator[Figure]:
    trips, visible, late, used = [], [], [], []
    with Machine("6.1", TargetSpec(luns=1, nexuses=2), shape=Shape(cpus=2)) as machine:
        for _ in range(_REPEATS):
            done = machine.run("python3 -m benchkit.in_latency", timeout=200)
            if done.status:
                raise SystemExit(done.output)
            found = json.loads(done.stdout.splitlines()[-1])
            trips.append(statistics.median(found["trips"]) / 1000)
            visible.append(statistics.median(found["visible"]) / 1000)
            used.append(found["agent"] / 1000)
            late.append(statistics.quantiles(found["visible"], n=100)[98] / 1000)
    trip, seen, latest = (Series.of(values, "µs") for values in (trips, visible, late))
    ratios = statistics.median(s / t for s, t in zip(visible, trips, strict=True))
    yield Figure(
        "completion to visible on the socket",
        (
            Ratio(ratios, "a PR OUT's round trip, median", 1),
            Ratio(latest.median / trip.median, "that, 99th percentile"),
        ),
        {
            "to visible": seen,
            "round trip": trip,
            "to visible, 99th percentile": latest,
            "the agent's CPU for it": Series.of(used, "µs"),
        },
    )
