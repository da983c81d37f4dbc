"""Events, states and stores for the tests of the store."""

import pytest

from prtrace.model import IssuePath, Issuer, ReservationType
from prtrace.state.event import Command, Event
from prtrace.store.database import FILE, Store


def make_event(record, lu="naa.1", **changes):
    fields = {
        "record": record,
        "time": 1_700_000_000_000_000_000 + record * 1_000_000,
        "start_ns": record * 1000,
        "done_ns": record * 1000 + 500,
        "lu": lu,
        "nexus": "2:0:0:1",
        "device": "/dev/sda",
        "target": "LIO-ORG/disk/4.0",
        "command": Command.PR_OUT,
        "action": "RESERVE",
        "status": "GOOD",
        "key": 0xFFFF_FFFF_0000_0000 | record,
        "sa_key": 0,
        "type": ReservationType.WERO,
        "scope": 0,
        "issuer": Issuer(4711, "sg_persist", 12, 1 << 63, IssuePath.SG_NODE, "253:0", "web1"),
        "exe": "/usr/bin/sg_persist",
        "cdb": bytes.fromhex("5f000500000000001800"),
        "data": bytes(24),
    }
    return Event(**(fields | changes))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / FILE


@pytest.fixture
def store(path):
    with Store.open(path) as opened:
        yield opened
