"""Commands that end while a program is at work.

scsi_debug completes commands in a timer's hard interrupt, on top of whatever runs: now and then
on top of the program that handles the end of another command.  The kernel then skips the
program for the second one, and another sees the end when the request is over.
"""

from __future__ import annotations

import itertools
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lab.agent import Agent
from lab.load import counters, fresh, run
from lab.objects import without
from labkit import pace
from labkit.target import Unit
from labkit.waiting import await_that

pytestmark = [
    pytest.mark.machine(luns=2, nexuses=4, needs=("load",), alone=True),
    pytest.mark.timeout(480),
]

_FULL_STATUS = 3
_ROUNDS = 10
_COMMANDS = 3000
_MANY = 15_000
_PROCESSES = 6


def debug_device() -> str:
    """The node of scsi_debug's disk, made to answer after 20 microseconds."""
    subprocess.run(["modprobe", "scsi_debug", "ndelay=20000"], check=True, timeout=60)

    def disks() -> list[str]:
        return [
            f"/dev/{disk.name}"
            for disk in Path("/sys/block").glob("sd*")
            if (disk / "device" / "model").read_text().strip() == "scsi_debug"
        ]

    await_that("scsi_debug's disk", disks)
    (node,) = disks()
    return node


def test_an_end_that_a_busy_program_missed_is_seen_when_the_request_is_over(unit: Unit) -> None:
    """PR INs with their long programs below, RESERVEs that end in interrupts on top."""
    commands = _COMMANDS
    node = debug_device()
    path = unit.paths[0]
    fresh()
    with Agent("--read-in-doubt", "no") as agent, ThreadPoolExecutor(1) as pool:
        before = after = counters(agent)
        sent = 0
        while after["skipped"] == before["skipped"]:
            # It happens once in some hundred commands: whoever sees none is blind.
            assert sent < _ROUNDS * 2 * commands, after
            below = pool.submit(run, "in", path.block, commands, _FULL_STATUS)
            assert run("legacy", node, commands)["good"] == commands
            assert below.result(timeout=pace.limit(600))["good"] == commands
            sent += 2 * commands
            agent.caught_up(300)
            after = counters(agent)
        events = list(agent.events())
        reserves = sum(event["command"] == "RESERVE" for event in events)
        reads = sum(event["command"] == "PR IN" for event in events)
        lost = [event for event in events if event["command"] == "LOST" and event["count"]]
        skipped = after["skipped"] - before["skipped"]
        print(f"{sent} sent, {reserves} + {reads} records, {skipped} skipped, {len(lost)} lost")
        assert reserves + reads == sent
        assert after["ring_full"] == after["missed"] == after["not_submitted"] == 0
        # While a command is under way nobody can say whether it was the one.
        shown = {unit["lu"] for unit in agent.show() if unit["doubt"]}
        assert {event["lu"] for event in lost} <= shown
        assert "Traceback" not in agent.log


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.machine(kernels=("6.12", "7"))
@pytest.mark.parametrize("fallback", [False, True], ids=["doors", "fallback"])
def test_no_end_of_15000_is_missed(
    unit: Unit, fallback: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of them end in hard interrupts, on top of the others, whose tasks are preempted."""
    if fallback:
        monkeypatch.setenv("PRTRACE_BPF_OBJECT", str(without("fentry/sg_rq_end_io")))
    node = debug_device()
    fresh()
    options = ("--read-in-doubt", "no", "--ring-size", "64M")
    with Agent(*options) as agent, ThreadPoolExecutor(_PROCESSES) as pool:
        assert bool(agent.status()["status"]["fallback"]) is fallback
        before = after = counters(agent)
        sent = 0
        while sent < _MANY or after["skipped"] == before["skipped"]:
            assert sent < 4 * _MANY, "no program was skipped: the test is blind"
            below = [
                pool.submit(run, "in", path.block, _COMMANDS // _PROCESSES, _FULL_STATUS)
                for path, _ in zip(itertools.cycle(unit.paths), range(_PROCESSES), strict=False)
            ]
            assert run("legacy", node, _COMMANDS)["good"] == _COMMANDS
            assert sum(each.result(timeout=1200)["good"] for each in below) == _COMMANDS
            sent += 2 * _COMMANDS
            agent.caught_up(600)
            after = counters(agent)
        told = Counter(event["command"] for event in agent.events())
        print(sent, told, after)
        assert told["RESERVE"] == told["PR IN"] == sent // 2
        assert after["ring_full"] == after["missed"] == after["not_submitted"] == 0
        assert "Traceback" not in agent.log
