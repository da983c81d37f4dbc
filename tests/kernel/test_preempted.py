"""A kernel that preempts BPF programs: who asked is known all the same.

Processes on one processor submit without a pause.  Now and then one is preempted while its
request is remembered, and stays so for some hundred commands of the others.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from lab.agent import Agent
from lab.load import counters, fresh, run
from labkit.target import Unit

pytestmark = [pytest.mark.machine(nexuses=2, needs=("load",)), pytest.mark.timeout(780)]

_READ_KEYS = 0
_PROCESSES = 6
_COMMANDS = 500


@pytest.mark.machine(kernels=("7",))
def test_who_asked_is_known_where_programs_are_preempted(unit: Unit) -> None:
    commands, paths = _COMMANDS, unit.paths
    fresh()
    with Agent("--read-in-doubt", "no") as agent, ThreadPoolExecutor(_PROCESSES) as pool:
        runs = [
            pool.submit(run, "in", paths[number % len(paths)].block, commands, _READ_KEYS)
            for number in range(_PROCESSES)
        ]
        assert sum(each.result()["good"] for each in runs) == _PROCESSES * commands
        agent.caught_up(300)
        figures = counters(agent)
        told = Counter(event["pid"] for event in agent.events() if event["comm"] == "load")
        print(figures, told)
        # An end may be missed, because LIO ends commands in a thread: then it is counted.
        assert figures["not_submitted"] == 0
        assert len(told) == _PROCESSES
        assert max(told.values()) <= commands
        assert sum(told.values()) + figures["skipped"] >= _PROCESSES * commands
        assert "Traceback" not in agent.log
