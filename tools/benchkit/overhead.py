"""What watching costs a SCSI command that is none of ours, in instructions.

Floor: the same command with nothing attached; and a pair of raw tracepoint programs that
do nothing, which is what any program at these points costs at least.
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
_AIM = {"scsi_debug": 1.035, "LIO": 1.01}
_AIM_EMPTY = 1.5


def run() -> Iterator[Figure]:
    for kernel in KERNELS:
        yield from on_kernel(kernel)


def on_kernel(kernel: str) -> Iterator[Figure]:
    command = f"python3 -m benchkit.in_overhead {build.reads()} {build.empty_object()}"
    spec = TargetSpec(luns=1, nexuses=1)
    with Machine(kernel, spec, shape=Shape(icount=True, cpus=1)) as machine:
        done = machine.run(command, timeout=240)
    if done.status:
        raise SystemExit(done.output)
    for device, arms in json.loads(done.stdout.splitlines()[-1]).items():
        series = {arm: Series.of(values, "instr") for arm, values in arms.items()}
        off = Series.of(arms["no program"] + arms["no program again"]).median
        on, empty = series["prtrace"].median, series["empty pair"].median
        ratios = [Ratio(on / off, "no program", _AIM[device])]
        if device == "scsi_debug":
            ratios.append(Ratio((on - off) / (empty - off), "the empty pair", _AIM_EMPTY))
        yield Figure(f"non-PR command, {kernel}, {device} 4 KiB read", tuple(ratios), series)
