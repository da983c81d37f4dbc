"""A command that no driver ever gets, because the device is offline: it is seen all the same."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

import pytest
from lab.agent import Agent
from lab.kernels import ENDS
from lab.load import check_oracle, counters, drain, fresh, send_once
from labkit.target import Unit

from prtrace.linux.sgio import SgDevice

pytestmark = [pytest.mark.machine(nexuses=2), pytest.mark.timeout(300)]

_IOC_PR_REGISTER = 0x401870C8  # include/uapi/linux/pr.h
_REGISTRATION = struct.Struct("=QQII")
_FLAG_IGNORE_KEY = 1
_KEY = 0xA11


def register(node: int) -> int:
    """A registration by ioctl: 0 where it was done, else an errno or the midlayer's result."""
    registration = bytearray(_REGISTRATION.pack(0, _KEY, _FLAG_IGNORE_KEY, 0))
    try:
        return fcntl.ioctl(node, _IOC_PR_REGISTER, registration)
    except OSError as error:
        return error.errno or -1


@pytest.mark.machine(kernels=ENDS)
def test_an_offline_device(unit: Unit) -> None:
    """IOC_PR_REGISTER does not look whether the device is online: twice offline, then online."""
    path = unit.paths[0]
    state = Path(f"/sys/class/scsi_device/{path.hctl}/device/state")
    fresh()
    with Agent() as agent, SgDevice(path.block) as device:
        agent.settled(30)
        drain(device)
        state.write_text("offline\n")
        said = [register(device.fileno()), register(device.fileno())]
        state.write_text("running\n")
        assert all(said), said
        agent.settled(30)
        seen = [each for each in agent.events() if each["command"] == "PR OUT"]
        print(said, [(each["action"], each["host_byte"], each["effect"]) for each in seen])
        assert [each["host_byte"] for each in seen] == ["DID_NO_CONNECT"] * 2
        assert {int(each["sa_key"], 16) for each in seen} == {_KEY}
        assert {each["pid"] for each in seen} == {os.getpid()}
        assert {each["path"] for each in seen} == {"IOC_PR"}
        figures = counters(agent)
        assert figures["missed"] == figures["not_submitted"] == 0, figures
        assert not register(device.fileno())
        [shown] = agent.show(unit.lu)
        check_oracle(shown, unit)
        send_once(device, 3, _KEY.to_bytes(8, "big"), bytes(8)).expect_good("CLEAR")
        assert "Traceback" not in agent.log
