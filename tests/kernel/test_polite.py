"""The agent's readings leave unit attentions to those that they are for, and find paths again."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from lab.agent import Agent
from lab.load import TEST_UNIT_READY, check_oracle, drain, fresh, send_once
from labkit.target import Unit

from prtrace.linux.sgio import SgDevice

pytestmark = [pytest.mark.machine(nexuses=2), pytest.mark.timeout(400)]

_CLEAR, _PREEMPT, _IGNORE = 3, 4, 6
_MINE, _THEIRS = (0xA1).to_bytes(8, "big"), (0xB1).to_bytes(8, "big")
_NOTHING = bytes(8)


def test_a_guest_is_told_of_its_fencing_although_the_agent_reads(unit: Unit) -> None:
    """A guest is told of its fencing although the agent, started afterwards, reads the unit."""
    built = unit
    guest, other = built.paths[:2]
    fresh()
    with SgDevice(guest.block) as one, SgDevice(other.block) as two:
        drain(one)
        drain(two)
        send_once(one, _IGNORE, _NOTHING, _MINE).expect_good("REGISTER")
        send_once(two, _IGNORE, _NOTHING, _THEIRS).expect_good("REGISTER")
        send_once(two, _PREEMPT, _THEIRS, _MINE, 5).expect_good("PREEMPT")
    with (
        open(guest.block, "rb") as node,
        subprocess.Popen(["sleep", "600"], stdin=node) as process,
    ):
        try:
            with Agent() as agent:
                agent.settled(60)
                check_oracle(agent.show(built.lu)[0], built)
                with SgDevice(guest.block) as one:
                    told = one.send(TEST_UNIT_READY)
                assert told.attention, told.text
                assert told.sense[12:14] == b"\x2a\x05", told.text
                check_nobody_read_before(agent, guest.hctl, other.hctl)
        finally:
            process.kill()
    with SgDevice(other.block) as two:
        send_once(two, _CLEAR, _THEIRS, _NOTHING).expect_good("CLEAR")


def check_nobody_read_before(agent: Agent, told: str, read: str) -> None:
    """Before nexus told was told of its fencing, the unit was read over nexus read alone.

    Afterwards the agent may read over the other, too: a command was just answered there.
    """
    events = list(agent.events())
    rows = [
        f"{each['time']} {each['nexus']} {each['command']} {each['action']} {each['sense']}"
        for each in events
    ]
    (fenced,) = (
        number
        for number, each in enumerate(events)
        if each["command"] == "UNIT ATTENTION" and each["nexus"] == told and each["sense"]
    )
    readings = {each["nexus"] for each in events[:fenced] if each["command"] == "PR IN"}
    assert readings == {read}, "\n".join([*rows, agent.log])


def test_paths_come_back(unit: Unit) -> None:
    """No uevent says that an offline device runs again; the unit is read all the same."""
    built = unit
    states = [Path(f"/sys/class/scsi_device/{path.hctl}/device/state") for path in built.paths]
    fresh()
    for state in states:
        state.write_text("offline\n")
    with Agent() as agent:
        time.sleep(5)
        assert agent.show(built.lu)[0]["doubt"]
        for state in states:
            state.write_text("running\n")
        agent.settled(60)
        check_oracle(agent.show(built.lu)[0], built)
