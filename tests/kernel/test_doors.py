"""Every way by which a PR command enters the kernel is seen, and told as what it is."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from lab.agent import Agent
from lab.load import check_certain, check_oracle, counters, drain, fresh, pr_out
from lab.objects import without
from labkit import needs, pace
from labkit.target import Unit
from labkit.waiting import await_that

from prtrace.linux.sgio import SgDevice
from prtrace.probe.programs import FALLBACK

pytestmark = [
    pytest.mark.machine(kernels=("6.1", "7"), nexuses=2, needs=("doors",)),
    pytest.mark.timeout(200),
]

_NO_SUCH_WAY = 2
_RACES = 60


def send(way: str, node: str, key: int, *more: object) -> bool:
    """One REGISTER by a way of doors.c; False where this kernel does not have it."""
    done = subprocess.run(
        [needs.doors(), way, node, f"{key:x}", *map(str, more)],
        timeout=pace.limit(60),
        check=False,
    )
    assert done.returncode in (0, _NO_SUCH_WAY), (way, done.returncode)
    return not done.returncode


def programs() -> str:
    """The programs that the kernel has."""
    done = subprocess.run(
        ["bpftool", "prog", "show"],
        capture_output=True,
        text=True,
        timeout=pace.limit(60),
        check=True,
    )
    return done.stdout


def told(agent: Agent, key: int) -> dict[str, Any]:
    """The only event of a REGISTER with this key."""
    (event,) = (
        each
        for each in agent.events()
        if each["command"] == "PR OUT" and each["sa_key"] and int(each["sa_key"], 16) == key
    )
    return event


def test_each_way_is_told(unit: Unit) -> None:
    path = unit.paths[0]
    ways = [
        ("straddling", path.block, "SG_IO block"),
        ("pieces", path.block, "SG_IO block"),
        ("short", path.block, "SG_IO block"),
        ("straddling", path.sg, "sg node"),
        ("compat", path.block, "SG_IO block"),
        ("compat_pr", path.block, "IOC_PR"),
        ("send", path.block, "SCSI_IOCTL_SEND_COMMAND"),
        ("packet", path.block, "CDROM_SEND_PACKET"),
        ("uring", path.bsg, "bsg"),
        ("fixed", path.bsg, "bsg"),
        ("fixed_over", path.bsg, "bsg"),
    ]
    fresh()
    with Agent() as agent:
        agent.settled(60)
        with SgDevice(path.block) as device:
            drain(device)
        for key, (way, node, name) in enumerate(ways, 0xD001):
            if not send(way, node, key):
                print("this kernel does not know", way)
                continue
            event = told(agent, key)
            assert (event["path"], event["comm"]) == (name, "doors"), (way, event)
            assert event["exe"] == os.fspath(needs.doors()), (way, event)
            assert event["head"] == event["data"], (way, event)
            assert not event["problem"], (way, event)
            [shown] = agent.show(unit.lu)
            check_oracle(shown, unit)
        figures = counters(agent)
        assert figures["missed"] == figures["not_submitted"] == figures["unreadable"] == 0, figures
        assert "Traceback" not in agent.log


@pytest.mark.machine(kernels=("7",))
def test_a_list_that_changes_under_way_is_never_taken_at_its_word(unit: Unit) -> None:
    """Its list crosses the end of a page, and a second thread of its sender overwrites it."""
    fresh()
    with Agent("--read-in-doubt", "no") as agent, SgDevice(unit.paths[0].block) as device:
        pr_out(device, 6, sa_key=(1).to_bytes(8, "big")).expect_good("REGISTER")
        changed = 0
        for turn in range(_RACES // 10):
            assert send("race", unit.paths[0].block, (turn + 1) << 32, 10)
            [shown] = agent.show(unit.lu)
            check_certain(shown, unit)
        events = [each for each in agent.events() if each["comm"] == "doors"]
        assert len(events) == _RACES
        assert all(each["head"] for each in events)
        for each in events:
            differ = each["head"] != each["data"]
            changed += differ
            assert bool(each["problem"]) is differ, each
        print(f"{changed} of {_RACES} lists changed between submission and end")


@pytest.mark.machine(kernels=("7",))
def test_the_fallback_sees_the_same(unit: Unit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The object has no program for sg_rq_end_io(), so that the fallback is on."""
    monkeypatch.setenv("PRTRACE_BPF_OBJECT", os.fspath(without("fentry/sg_rq_end_io")))
    path = unit.paths[0]
    fresh()
    with Agent() as agent:
        agent.settled(60)
        status = agent.status()["status"]
        assert "sg_rq_end_io" in status["fallback"], status
        assert FALLBACK.program in {each["program"] for each in status["attach"]}
        assert status["self_test"]["result"] == "passed", status["self_test"]
        with SgDevice(path.block) as device:
            drain(device)
        for key, (way, node) in enumerate(
            (("straddling", path.block), ("pieces", path.sg), ("compat_pr", path.block)), 0xF001
        ):
            assert send(way, node, key)
            event = told(agent, key)
            assert event["head"] == event["data"], (way, event)
            [shown] = agent.show(unit.lu)
            check_oracle(shown, unit)
        assert counters(agent)["missed"] == 0


@pytest.mark.machine(kernels=("7",))
def test_detach_leaves_nothing(unit: Unit) -> None:
    """prtrace detach takes every program out of the kernel, and is refused beside an agent."""
    command = [sys.executable, "-m", "prtrace", "detach", "--yes"]
    fresh()
    with Agent() as agent:
        agent.settled(60)
        refused = subprocess.run(
            command, capture_output=True, text=True, timeout=pace.limit(60), check=False
        )
        assert refused.returncode == 1, refused
        assert "another agent" in refused.stderr, refused
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=pace.limit(60), check=False
    )
    assert done.returncode == 0, done
    # The kernel frees a program some time after it is detached.
    await_that("no program is left", lambda: " pr_" not in programs(), told=programs)
