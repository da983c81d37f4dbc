"""LIO under another vendor name, as makers of storage ship it: nothing tells that it is LIO.

What is stated of it is as true, and its doubts end.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.agent import Agent
from lab.load import check_oracle, drain, fresh, pr_out
from labkit import sysfs
from labkit.target import Unit
from labkit.waiting import await_that

from prtrace.linux.sgio import SgDevice

pytestmark = [pytest.mark.machine(nexuses=2), pytest.mark.timeout(300)]

_MINE, _OTHER = (0xA1).to_bytes(8, "big"), (0xB2).to_bytes(8, "big")
_ALIKE = (0x11 * 0x0101010101010101).to_bytes(8, "big")
"""A key that reads the same in both byte orders."""
_WERO = 5


@pytest.fixture
def renamed(unit: Unit) -> Iterator[Unit]:
    vendor = Path(unit.directory) / "wwn/vendor_id"
    rename(unit, vendor, "SYNOLOGY")
    yield unit
    rename(unit, vendor, "LIO-ORG")


def rename(unit: Unit, vendor: Path, name: str) -> None:
    """LIO lets that be written while nobody uses the unit."""
    ports = {
        path.hctl: Path(path.tpg) / "lun" / f"lun_{path.hctl.rpartition(':')[2]}" / "port"
        for path in unit.paths
    }
    for hctl, port in ports.items():
        port.unlink()
        await_that(f"{hctl} is gone", lambda hctl=hctl: hctl not in sysfs.addresses())
    vendor.write_text(name)
    for hctl, port in ports.items():
        port.symlink_to(unit.directory)
        sysfs.await_disk(hctl)


def shown(agent: Agent) -> dict[str, Any]:
    (unit,) = agent.settled(60)
    assert unit["target"].startswith("SYNOLOGY/"), unit["target"]
    return unit


def test_a_target_that_is_not_known_is_not_in_doubt_for_ever(renamed: Unit) -> None:
    one, two = renamed.paths
    fresh()
    with Agent() as agent, SgDevice(one.sg) as mine, SgDevice(two.sg) as other:
        for device in (mine, other):
            drain(device)
        check_oracle(shown(agent), renamed)
        pr_out(mine, 6, sa_key=_MINE).expect_good("REGISTER")
        pr_out(other, 6, sa_key=_OTHER).expect_good("REGISTER")
        pr_out(mine, 1, _MINE, type_=_WERO).expect_good("RESERVE")
        check_oracle(shown(agent), renamed)
        pr_out(mine, 4, _MINE, _OTHER, type_=_WERO).expect_good("PREEMPT")
        drain(other)
        check_oracle(shown(agent), renamed)
        agent.kill()
        agent.start()
        check_oracle(shown(agent), renamed)
        pr_out(mine, 0, _MINE).expect_good("unregister")
        check_oracle(shown(agent), renamed)
        agent.kill()
        fresh()
        # Who reads this one first does not know where it is, and does not ask for ever.
        pr_out(other, 6, sa_key=_ALIKE).expect_good("REGISTER")
        agent.start()
        registrations = shown(agent)["registrations"]
        assert [int(each["key"], 16).to_bytes(8, "big") for each in registrations] == [_ALIKE]
        pr_out(other, 3, _ALIKE).expect_good("CLEAR")
        check_oracle(shown(agent), renamed)
        assert "Traceback" not in agent.log
