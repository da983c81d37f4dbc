"""A kernel that preempts BPF programs: who asked is known all the same.  preempted.py COMMANDS

Processes on one processor submit without a pause.  Now and then one is preempted within the
program that remembers its request; the kernel then skips that program for the others, and its
twin has to do the work.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from agent import Agent
from load import counters, fresh, run, target

from prtrace.api.client import Client

_READ_KEYS = 0
_PROCESSES = 6
_ROUNDS = 20
_SUBMIT = ("pr_submit", "pr_submit_again")


def skipped() -> int:
    """How often the kernel skipped one of the two programs at blk_execute_rq()."""
    told = subprocess.run(
        ["bpftool", "prog", "show", "--json"], capture_output=True, check=True, timeout=60
    )
    programs = [each for each in json.loads(told.stdout) if each.get("name") in _SUBMIT]
    assert len(programs) == len(_SUBMIT), programs
    return sum(program.get("recursion_misses", 0) for program in programs)


def main(commands: int) -> None:
    """Until the kernel has skipped a program; whoever sees none of it has tested nothing."""
    paths = target().units[0].paths
    fresh()
    with Agent("--read-in-doubt", "no") as agent, ThreadPoolExecutor(_PROCESSES) as pool:
        for _ in range(_ROUNDS):
            runs = [
                pool.submit(run, "in", paths[number % len(paths)].block, commands, _READ_KEYS)
                for number in range(_PROCESSES)
            ]
            assert sum(each.result()["good"] for each in runs) == _PROCESSES * commands
            if skipped():
                break
        Client(str(agent.socket), timeout=300).call("Show", devices=[])
        figures = counters(agent)
        print(f"{skipped()} skipped, {figures}")
        assert skipped()
        assert figures["not_submitted"] == 0
        assert figures["missed"] == 0
        nobody = [event for event in agent.events() if event["pid"] is None]
        assert not nobody, nobody[0]
        assert "Traceback" not in agent.log
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main(int(sys.argv[1]))
