"""Debian's other builds of its kernels: for real time, and without drivers, for clouds."""

from __future__ import annotations

import pytest
from lab.agent import Agent
from lab.load import check_oracle, drain, fresh, send_once
from labkit.kernels import FLAVOURS
from labkit.target import Unit

from prtrace.linux.sgio import SgDevice

pytestmark = [
    pytest.mark.machine(kernels=FLAVOURS, nexuses=2),
    pytest.mark.timeout(300),
    pytest.mark.slow,
]

_KEY = (0xF1A).to_bytes(8, "big")


def test_attached_self_tested_and_a_register_recorded(unit: Unit) -> None:
    path = unit.paths[0]
    fresh()
    with Agent() as agent, SgDevice(path.block) as device:
        agent.settled(60)
        status = agent.status()["status"]
        assert status["engine"] == "core", status
        assert not status["fallback"], status["fallback"]
        assert all(each["attached"] for each in status["attach"]), status["attach"]
        assert status["self_test"]["result"] == "passed", status["self_test"]
        drain(device)
        send_once(device, 6, sa_key=_KEY).expect_good("REGISTER")
        [shown] = agent.show(unit.lu)
        check_oracle(shown, unit)
        (event,) = (each for each in agent.events() if each["command"] == "PR OUT")
        assert event["nexus"] == path.hctl
        assert event["path"] == "SG_IO block"
        assert int(event["sa_key"], 16) == int.from_bytes(_KEY, "big")
        assert "Traceback" not in agent.log
