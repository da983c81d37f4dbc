"""From a command's completion to its event on the socket, in round trips of a PR OUT.

The machine has two processors and an ordinary clock.  Both figures come from the same run and
the same commands, one at a time, so that most of the machine's slowness cancels out.  A part of it
stays: a round trip mostly waits for wake-ups, which emulation hardly slows down, and an event
mostly is the agent's Python.  A clock driven by instructions says how large that part is.  The
follower is Python, too: what it takes to read its event is in the first figure, and is named.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from typing import Any

from labkit.machine import Machine
from labkit.qemu import Shape
from labkit.target import TargetSpec

from benchkit.figure import Figure, Ratio, Series

_REPEATS = 3


def _measured(machine: Machine) -> dict[str, Any]:
    done = machine.run("python3 -m benchkit.in_latency", timeout=200)
    if done.status:
        raise SystemExit(done.output)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run() -> Iterator[Figure]:
    trips, visible, late, used, read = [], [], [], [], []
    target = TargetSpec(luns=1, nexuses=2)
    with Machine("6.1", target, shape=Shape(cpus=2)) as machine:
        for _ in range(_REPEATS):
            found = _measured(machine)
            trips.append(statistics.median(found["trips"]) / 1000)
            visible.append(statistics.median(found["visible"]) / 1000)
            used.append(found["agent"] / 1000)
            read.append(found["follower"] / 1000)
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
            "the follower's": Series.of(read, "µs"),
        },
    )
    with Machine("6.1", target, shape=Shape(icount=True, cpus=1)) as machine:
        counted = _measured(machine)
    yield Figure(
        "work for one event, by instructions",
        (Ratio(counted["agent"] / statistics.median(counted["trips"]), "a PR OUT's round trip"),),
        {
            "the agent": Series.of([counted["agent"] / 1e6], "M instr"),
            "the follower": Series.of([counted["follower"] / 1e6], "M instr"),
            "round trip": Series.of([statistics.median(counted["trips"]) / 1e6], "M instr"),
        },
    )
