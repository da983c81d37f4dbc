"""In a process of its own: the agent's memory of a host with many nexuses.

python3 -m benchkit.in_scale UNITS PATHS: every path of every unit is registered, through
raw records and the tracker.  Prints a JSON object: bytes gained, and microseconds of
processor time for showing one unit.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from itertools import islice
from pathlib import Path

from benchkit import workload
from benchkit.agent import memory
from prtrace.agent.surroundings import Surroundings
from prtrace.agent.tracker import Tracker
from prtrace.api.calls import reply
from prtrace.linux.directory import Directory
from prtrace.linux.process import start_of
from prtrace.linux.units import Inventory
from prtrace.model import LocalNexus, LogicalUnit
from prtrace.state.view import show_view, unit_view

_BATCH = 256
_SHOWS = 200
_REPEATS = 5


def _inventory(units: int, paths: int) -> Inventory:
    """What a scan of such a host finds; a node, a port name and a state for each path."""
    found = {}
    for unit in range(units):
        name = workload.lu(unit)
        nexuses = tuple(
            LocalNexus(
                nexus=f"{path}:0:0:{unit}",
                lu=name,
                device=f"/dev/sd{unit}-{path}",
                sg=f"/dev/sg{unit * paths + path}",
                bsg=f"/dev/bsg/{path}:0:0:{unit}",
                initiator_port=f"naa.2100000e1e{path:06x}",
                target_port=f"naa.5006016{path % 8:09x}",
                relative_target_port=path % 8 + 1,
                transport="fc",
                state="running",
            )
            for path in range(paths)
        )
        nodes = tuple(node for nexus in nexuses for node in (nexus.device, nexus.sg))
        found[name] = LogicalUnit(name, "LIO-ORG", "lun", "4.0", nexuses, nodes)
    by_name = {nexus.nexus: nexus for unit in found.values() for nexus in unit.nexuses}
    numbers = {f"8:{number}": name for number, name in enumerate(by_name)}
    directory = Directory(Path("/sys"), Path("/dev"), found, by_name, numbers, dict(numbers), {})
    return Inventory(found, (), directory, {})


def main() -> None:
    units, paths = int(sys.argv[1]), int(sys.argv[2])
    pid = os.getpid()
    started = start_of(pid) or 0
    # Modules that are imported at first use are not to be counted as memory of the nexuses.
    surroundings = Surroundings()
    _tell(Tracker("", {}, surroundings), 1, 1, started)
    gc.collect()
    before = memory(pid)["VmRSS"]
    surroundings.inventory = _inventory(units, paths)
    tracker = Tracker("", {}, surroundings)
    _tell(tracker, units, paths, started)
    gc.collect()
    gained = memory(pid)["VmRSS"] - before
    if sum(len(state.registrations) for state in tracker.states.values()) != units * paths:
        raise SystemExit("not every nexus is registered")
    json.dump({"gained": gained, "show": [_show(tracker) for _ in range(_REPEATS)]}, sys.stdout)


def _tell(tracker: Tracker, units: int, paths: int, started: int) -> None:
    raws = workload.Workload(units, os.getpid(), started, nexuses=paths).joined()
    while batch := list(islice(raws, _BATCH)):
        proposal = tracker.propose(batch, frozenset())
        tracker.accept(proposal)


def _show(tracker: Tracker) -> float:
    begun = time.process_time()
    for _ in range(_SHOWS):
        now = time.time_ns()
        unit = tracker.surroundings.inventory.resolve("0:0:0:0").lu
        view = unit_view(tracker.state(unit.lu, "", now), unit, now)
        reply(show_view([view], "host"))
    return (time.process_time() - begun) / _SHOWS * 1e6


main()
