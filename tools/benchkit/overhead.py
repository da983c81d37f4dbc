"""What watching costs whoever sends no PR command, in instructions.

Floor: the same request with nothing attached, measured before and after.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from labkit.machine import Machine
from labkit.qemu import Shape
from labkit.target import TargetSpec

from benchkit import build
from benchkit.figure import Figure, Ratio, Series

KERNELS = ("6.1", "6.12", "7")
_FLOORS = ("no program", "no program again")
_AIMS = {"scsi_debug read": 1.0, "LIO read": 1.0, "SG_IO READ(10)": 1.15}
"""An ordinary command: within the spread of nothing against nothing."""


def run() -> Iterator[Figure]:
    for kernel in KERNELS:
        yield from on_kernel(kernel)


def on_kernel(kernel: str) -> Iterator[Figure]:
    command = f"python3 -m benchkit.in_overhead {build.requests()}"
    spec = TargetSpec(luns=1, nexuses=1)
    with Machine(kernel, spec, shape=Shape(icount=True, cpus=1)) as machine:
        done = machine.run(command, timeout=500)
    if done.status:
        raise SystemExit(done.output)
    for way, arms in json.loads(done.stdout.splitlines()[-1]).items():
        series = {arm: Series.of(values, "instr") for arm, values in arms.items()}
        values = [value for floor in _FLOORS for value in arms[floor]]
        floor = Series.of(values)
        aim = _AIMS.get(way)
        if aim is not None:
            aim = max(aim, 1 + floor.spread)
        yield Figure(
            f"{way}, {kernel}",
            (
                Ratio(series["prtrace"].median / floor.median, "no program", aim),
                Ratio(series["fallback"].median / floor.median, "no program, with the fallback"),
            ),
            series,
        )
