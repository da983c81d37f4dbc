"""From exec to attached and self-tested: instructions and memory, core against bcc.

The floor for memory is an interpreter that has loaded ctypes and nothing else.  bcc needs the
kernel's headers (tools/lab kernels fetch --headers); where they are missing core stands alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from labkit import kernels
from labkit.machine import Machine
from labkit.qemu import Shape
from labkit.target import TargetSpec

from benchkit.figure import Figure, Ratio, Series

_KERNEL = "6.1"
_MIB = 1 << 20
_FLOOR = "bare Python with ctypes"


def run() -> Iterator[Figure]:
    engines = ["core", *(["bcc"] if kernels.find(_KERNEL).headers else [])]
    command = f"python3 -m benchkit.in_start {' '.join(engines)}"
    shape = Shape(icount=True, cpus=1)
    with Machine(_KERNEL, TargetSpec(luns=1, nexuses=2), shape=shape) as machine:
        done = machine.run(command, timeout=900)
    if done.status:
        raise SystemExit(done.output)
    found = json.loads(done.stdout.splitlines()[-1])

    def series(name: str, what: str) -> Series:
        scale, unit = (_MIB, "MiB") if what.startswith("Vm") else (1e6, "M instr")
        return Series.of([each[what] / scale for each in found[name]], unit)

    core, floor = series("core", "tested"), series(_FLOOR, "tested")
    ratios = [Ratio(core.median / floor.median, _FLOOR)]
    if "bcc" in found:
        ratios.insert(0, Ratio(core.median / series("bcc", "tested").median, "bcc", 1 / 20))
    yield Figure(
        "start to attached and self-tested, core",
        tuple(ratios),
        {
            "core": core,
            "core, attached": series("core", "attached"),
            **({"bcc": series("bcc", "tested")} if "bcc" in found else {}),
            "the agent's imports": series("the agent's imports", "tested"),
            _FLOOR: floor,
        },
    )
    for what, name in (("VmRSS", "resident memory"), ("VmHWM", "peak memory")):
        core, floor = series("core", what), series(_FLOOR, what)
        ratios = [Ratio(core.median / floor.median, _FLOOR, 3 if what == "VmRSS" else None)]
        measured = {"core": core, _FLOOR: floor}
        if "bcc" in found:
            measured["bcc"] = series("bcc", what)
            ratios.append(Ratio(core.median / measured["bcc"].median, "bcc", 1 / 8))
        yield Figure(f"{name} after the start, core", tuple(ratios), measured)
