"""A kernel that preempts BPF programs: who asked is known all the same.  preempted.py COMMANDS

Processes on one processor submit without a pause.  Now and then one is preempted while its
request is remembered, and stays so for some hundred commands of the others.
"""

from __future__ import annotations

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from agent import Agent
from load import counters, fresh, run, target

from prtrace.api.client import Client

_READ_KEYS = 0
_PROCESSES = 6


def main(commands: int) -> None:
    """So many commands of each process."""
    paths = target().units[0].paths
    fresh()
    with Agent("--read-in-doubt", "no") as agent, ThreadPoolExecutor(_PROCESSES) as pool:
        runs = [
            pool.submit(run, "in", paths[number % len(paths)].block, commands, _READ_KEYS)
            for number in range(_PROCESSES)
        ]
        assert sum(each.result()["good"] for each in runs) == _PROCESSES * commands
        Client(str(agent.socket), timeout=300).call("Show", devices=[])
        figures = counters(agent)
        told = Counter(event["pid"] for event in agent.events() if event["comm"] == "load")
        print(figures, told)
        # An end may be missed, because LIO ends commands in a thread: then it is counted.
        assert figures["not_submitted"] == 0
        assert len(told) == _PROCESSES
        assert max(told.values()) <= commands
        assert sum(told.values()) + figures["skipped"] >= _PROCESSES * commands
        assert "Traceback" not in agent.log
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main(int(sys.argv[1]))
