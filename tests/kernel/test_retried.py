"""A session that is away while a PR OUT is under way: each attempt has its record, and an end."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lab.agent import Agent
from lab.load import check_oracle, fresh
from labkit import needs, pace
from labkit.kernels import SERIES
from labkit.target import Unit
from labkit.waiting import await_that

from prtrace.errors import PrtraceError
from prtrace.linux.sgio import SgDevice
from prtrace.model import Action
from prtrace.scsi.cdb import PrOutCdb
from prtrace.scsi.parameter import BasicList
from prtrace.state.decode import END_LOST

pytestmark = [
    pytest.mark.machine(kernels=SERIES, nexuses=1, transport="iscsi"),
    pytest.mark.timeout(300),
    pytest.mark.slow,
]

_IOC_PR_REGISTER = 0x401870C8  # include/uapi/linux/pr.h
_IGNORE_KEY = 1
_KEY = 0x5E77
_REGISTER = PrOutCdb(Action.REGISTER_AND_IGNORE, parameter_length=24).build()
_LIST = BasicList(0, _KEY).build()
_SESSIONS = Path("/sys/class/iscsi_session")


def register(node: str) -> None:
    """By IOC_PR: sd lets the midlayer try five times, SG_IO only once."""
    fd = os.open(node, os.O_RDWR)
    try:
        fcntl.ioctl(fd, _IOC_PR_REGISTER, struct.pack("=QQI4x", 0, _KEY, _IGNORE_KEY))
    finally:
        os.close(fd)


def timing_out(node: str) -> str:
    with SgDevice(node) as device:
        try:
            return device.send(_REGISTER, _LIST, timeout_ms=2000).text
        except PrtraceError as error:
            return error.message


def network(state: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", state], check=True, timeout=60)


def await_session(state: str) -> None:
    await_that(
        f"the session is {state}",
        lambda: [(each / "state").read_text().strip() for each in _SESSIONS.iterdir()] == [state],
    )


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


@pytest.mark.machine(kernels=("6.1",), nexuses=1, transport="loop,iscsi", needs=("load",))
def test_an_end_that_found_no_room(unit: Unit, seed: int) -> None:
    """The record of a timed-out command's end is lost; that it is over is found out anyway."""
    (loop,) = (path for path in unit.paths if path.transport == "loop")
    (iscsi,) = (path for path in unit.paths if path.transport == "iscsi")
    fresh()
    with Agent("--ring-size", "65536") as agent, ThreadPoolExecutor(1) as pool:
        agent.settled(60)
        network("down")
        try:
            sent = pool.submit(timing_out, iscsi.block)
            await_that("a timeout", lambda: any(e["status"] == "TIMEOUT" for e in agent.events()))
            agent.send(signal.SIGSTOP)
            load = subprocess.run(
                [needs.load(), "out", loop.block, "1", str(seed % (1 << 30))],
                input="300\n",
                capture_output=True,
                text=True,
                timeout=200,
                check=True,
            )
        finally:
            network("up")
        print(load.stdout, sent.result(timeout=pace.limit(120)))
        await_session("LOGGED_IN")
        agent.send(signal.SIGCONT)
        await_that("the lost end", lambda: any(e["problem"] == END_LOST for e in agent.events()))
        ends = [e for e in agent.events() if e["nexus"] == iscsi.hctl and e["command"] == "PR OUT"]
        assert {each["status"] for each in ends} == {"TIMEOUT"}, ends
        [shown] = agent.settled(60)
        check_oracle(shown, unit)
        assert "Traceback" not in agent.log
