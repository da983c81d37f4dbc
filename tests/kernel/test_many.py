"""A unit with 1,024 registrations: its replies are longer than a record, and are read whole.

Each is made by a session of its own over iSCSI, from user space (tests/lab/stranger.py).
"""

from __future__ import annotations

import struct

import pytest
from lab.agent import Agent
from lab.load import drain, pr_out
from lab.stranger import Stranger
from labkit.lio import IQN
from labkit.oracle import oracle
from labkit.target import Unit

from prtrace.linux.sgio import SgDevice

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.machine(nexuses=1, transport="iscsi"),
]

_PORTAL = "127.0.0.1:3260"
_MANY = 1024
_NAME = "iqn.a:h{:04}"
"""Short: READ FULL STATUS has 60 bytes for each, and no reply that is asked for is above 65,472.

With names of 19 characters they did not fit; the unit then stayed in doubt, as it should."""
_OWN = 0x0A11
_ROOM = 16_384
_READ_KEYS = struct.pack(">BB5xHx", 0x5E, 0, _ROOM)
_REGISTER, _PREEMPT = 0, 4
_WERO = 5


def key_of(number: int) -> int:
    return 0x1024_0000 + number


def keys_told(session: Stranger) -> list[int]:
    """What READ KEYS answers to another host; no decoder of prtrace is in it."""
    answer = session.send(0, _READ_KEYS, room=_ROOM)
    assert answer.status == 0, answer
    _, length = struct.unpack_from(">II", answer.data)
    return list(struct.unpack_from(f">{length // 8}Q", answer.data, 8))


def test_all_of_many_registrations_are_known(unit: Unit) -> None:
    """As they are found, and after a PREEMPT among them; each by its initiator port."""
    for number in range(_MANY):
        session = Stranger(_PORTAL, IQN, _NAME.format(number))
        assert session.pr_out(0, "REGISTER", 0, key_of(number)).status == 0
        session.close()
    witness = Stranger(_PORTAL, IQN, _NAME.format(0))
    there = {_NAME.format(number): key_of(number) for number in range(_MANY)}
    assert sorted(keys_told(witness)) == sorted(there.values())
    with Agent() as agent:
        [shown] = agent.settled(60)
        assert known(shown) == there
        path = unit.paths[0]
        with SgDevice(path.sg) as device:
            drain(device)
            own, victim = (each.to_bytes(8, "big") for each in (_OWN, key_of(7)))
            pr_out(device, _REGISTER, sa_key=own).expect_good("REGISTER")
            pr_out(device, _PREEMPT, own, victim, _WERO).expect_good("PREEMPT")
        [shown] = agent.settled(60)
        del there[_NAME.format(7)]
        there[path.initiator.partition(",")[0]] = _OWN
        assert known(shown) == there
        assert sorted(keys_told(witness)) == sorted(there.values())
        assert shown["generation"] == oracle(unit.directory).generation
        assert "Traceback" not in agent.log
    witness.close()


def known(shown: dict[str, object]) -> dict[str, int]:
    """Key by the initiator port's name, of what is known without doubt."""
    assert not shown["doubt"], shown["doubt"]
    registrations = shown["registrations"]
    assert isinstance(registrations, list)
    found = {
        each["initiator_port"].partition(",")[0]: int(each["key"], 16) for each in registrations
    }
    assert len(found) == len(registrations)
    return found
