"""What load adds to a guest's pause, next to the two commands that QEMU sends.

QEMU's migrate-pr sends REGISTER and PREEMPT on the destination; here sg_persist does, a process
for each command, and SG_IO from within one process.  One processor and a clock by instructions:
figures repeat, and threads gain nothing by running at once.  The journal's disk is memory.  Of
programs it is their processor time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from labkit.machine import Machine
from labkit.qemu import Shape
from labkit.target import TargetSpec

from benchkit.figure import Figure, Ratio, Series

_UNITS = (1, 64)
_ROUNDS = {1: 5, 64: 1}
_DEADLINE = 1500


def run() -> Iterator[Figure]:
    for count in _UNITS:
        shape = Shape(cpus=1, icount=True)
        with Machine("6.1", TargetSpec(luns=count, nexuses=2), shape=shape) as machine:
            done = machine.run(f"python3 -m benchkit.in_pause {_ROUNDS[count]}", timeout=_DEADLINE)
            if done.status:
                raise SystemExit(done.output)
            yield _figure(count, json.loads(done.stdout.splitlines()[-1]))


def _figure(count: int, found: dict[str, Any]) -> Figure:
    def series(*names: str) -> Series:
        rounds = zip(*(found[name] for name in names), strict=True)
        return Series.of([sum(times) / count / 1e6 for times in rounds], "ms")

    ours = series("load")
    programs, plain = series("sg_persist"), series("sg_io")
    return Figure(
        f"load, after prepare, of {count} logical unit{'s' * (count > 1)}, each",
        (
            Ratio(ours.median / programs.median, "QEMU's two commands by sg_persist"),
            Ratio(ours.median / plain.median, "the same two within a process"),
            Ratio(
                series("load of the agent").median / programs.median,
                "QEMU's two commands by sg_persist: the agent's Load",
            ),
            Ratio(found["writes"], "PR OUT", 1, unit=""),
            Ratio(found["reads"], "PR IN", 4, unit=""),
        ),
        {
            "save": series("save"),
            "prepare": series("prepare"),
            "load": series("load"),
            "sg_persist": programs,
            "within a process": plain,
            "Save and Prepare of the agent": series("before the pause of the agent"),
            "Load of the agent": series("load of the agent"),
            "prtrace save, prepare and load": series("commands"),
        },
    )
