"""An idle agent: instructions and wake-ups a second, over a minute of the machine's clock."""

from __future__ import annotations

import json
from collections.abc import Iterator

from labkit.machine import Machine
from labkit.qemu import Shape
from labkit.target import TargetSpec

from benchkit.figure import Figure, Ratio


def run() -> Iterator[Figure]:
    shape = Shape(icount=True, cpus=1)
    with Machine("6.1", TargetSpec(luns=1, nexuses=2), shape=shape) as machine:
        done = machine.run("python3 -m benchkit.in_idle", timeout=300)
    if done.status:
        raise SystemExit(done.output)
    found = json.loads(done.stdout.splitlines()[-1])
    yield Figure(
        "idle agent",
        (
            Ratio(found["cpu"] / 1e6, "", 5, unit="M instr/s"),
            Ratio(found["woken"], "", 2, unit="wake-ups/s"),
        ),
    )
