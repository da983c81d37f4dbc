"""A PR OUT that the midlayer sends again: each attempt has its record."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lab.agent import Agent
from lab.load import check_oracle, fresh
from labkit import pace
from labkit.kernels import SERIES
from labkit.target import Unit

pytestmark = [
    pytest.mark.machine(kernels=SERIES, nexuses=1, transport="iscsi"),
    pytest.mark.timeout(300),
    pytest.mark.slow,
]

_IOC_PR_REGISTER = 0x401870C8  # include/uapi/linux/pr.h
_IGNORE_KEY = 1
_KEY = 0x5E77
_SESSIONS = Path("/sys/class/iscsi_session")


def register(node: str) -> None:
    """By IOC_PR: sd lets the midlayer try five times, SG_IO only once."""
    fd = os.open(node, os.O_RDWR)
    try:
        fcntl.ioctl(fd, _IOC_PR_REGISTER, struct.pack("=QQI4x", 0, _KEY, _IGNORE_KEY))
    finally:
        os.close(fd)


def network(state: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", state], check=True, timeout=60)


def await_session(state: str) -> None:
    end = time.monotonic() + pace.limit(60)
    while [(each / "state").read_text().strip() for each in _SESSIONS.iterdir()] != [state]:
        assert time.monotonic() < end, f"the session is not {state}"
        time.sleep(0.2)


def test_the_attempt_that_a_lost_session_ended_is_told(unit: Unit) -> None:
    """The network is away when the command is sent; the midlayer keeps it for the next login."""
    (path,) = unit.paths
    fresh()
    with Agent() as agent, ThreadPoolExecutor(1) as pool:
        agent.settled(60)
        network("down")
        try:
            sent = pool.submit(register, path.block)
            await_session("FAILED")
        finally:
            network("up")
        sent.result(timeout=pace.limit(120))
        await_session("LOGGED_IN")
        told = [each for each in agent.events() if each["command"] == "PR OUT"]
        print([(each["attempts"], each["status"], each["host_byte"]) for each in told])
        assert [each["attempts"] for each in told] == [1, 2]
        first, second = told
        assert first["host_byte"], first
        assert second["status"] == "GOOD", second
        # One program run takes the next attempt's start, and then the time of this one's end.
        assert first["start_ns"] < second["start_ns"] < second["done_ns"], told
        assert {int(each["sa_key"], 16) for each in told} == {_KEY}
        [shown] = agent.settled(60)
        check_oracle(shown, unit)
        assert "Traceback" not in agent.log
