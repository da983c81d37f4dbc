"""A thousand registrations: replies that no record holds are the reader's own copies."""

from __future__ import annotations

import time

import pytest
from lab.agent import Agent
from lab.load import drain, fresh
from labkit.lio import ISCSI
from labkit.target import Unit

from prtrace.linux.sgio import SgDevice
from prtrace.model import Action, ReservationType
from prtrace.scsi.cdb import PrOutCdb
from prtrace.scsi.parameter import BasicList
from prtrace.scsi.transportid import IscsiPort

pytestmark = [
    pytest.mark.machine(nexuses=1, transport="iscsi", memory="2G"),
    pytest.mark.timeout(400),
]

_MANY = 1024
_KEY = 0x3A11
_LIMIT = 120


def admit(names: list[str]) -> None:
    """Let LIO know initiators that never log in: SPEC_I_PT registers only those."""
    lun = next((ISCSI / "lun").iterdir())
    for name in names:
        mapped = ISCSI / "acls" / name / lun.name
        mapped.mkdir(parents=True)
        (mapped / "mapped").symlink_to(lun)


def test_a_thousand_registrations(unit: Unit) -> None:
    (path,) = unit.paths
    # LIO takes a TransportID to be as long as the name needs, and not as its length says.
    names = [f"iqn.2026-11.a:{number:04}" for number in range(_MANY - 1)]
    admit(names)
    fresh()
    with Agent() as agent, SgDevice(path.sg) as device:
        agent.settled(60)
        drain(device)
        ports = tuple(IscsiPort(name.encode()) for name in names)
        everybody = BasicList(0, _KEY, spec_i_pt=True, transport_ids=ports).build()
        cdb = PrOutCdb(Action.REGISTER, parameter_length=len(everybody)).build()
        begun = time.monotonic()
        device.send(cdb, everybody).expect_good("REGISTER")
        print(f"{len(everybody)} bytes in {time.monotonic() - begun:.1f} s", flush=True)
        cdb = PrOutCdb(Action.RESERVE, type=ReservationType.WERO, parameter_length=24).build()
        device.send(cdb, BasicList(_KEY, 0).build()).expect_good("RESERVE")
        [shown] = agent.settled(_LIMIT)
        print(f"known after {time.monotonic() - begun:.1f} s", flush=True)
        keys = {each["nexus"]: int(each["key"], 16) for each in shown["registrations"]}
        assert len(keys) == _MANY, len(keys)
        assert set(keys.values()) == {_KEY}
        assert keys.keys() - {path.hctl} == {f"{name},{path.rtpi}" for name in names}
        assert shown["reservation"]["holders"] == [path.hctl]
        assert not shown["unattributed_keys"]
        read = [
            each for each in agent.events() if each["command"] == "PR IN" and each["truncated"]
        ]
        assert read, "no reply was too long for a record"
        cdb = PrOutCdb(Action.CLEAR, parameter_length=24).build()
        device.send(cdb, BasicList(_KEY, 0).build()).expect_good("CLEAR")
        [shown] = agent.settled(_LIMIT)
        assert not shown["registrations"]
        assert "Traceback" not in agent.log
