"""An agent's socket with two units behind it, and the commands run as programs."""

import os
from types import MappingProxyType

import pytest
from api.conftest import Served, StoreSource
from lab.forking import Forking
from labkit import pace

from prtrace.api.room import ConnectionLimits
from prtrace.model import IssuePath, Issuer, LocalNexus, LogicalUnit, ReservationType
from prtrace.state.apply import in_doubt, new_state
from prtrace.state.event import Command, Event
from prtrace.state.unit import LuState, Registration, Reservation, Source
from prtrace.state.view import show_view, unit_view

NOW = 1_700_000_000_000_000_000
REMOTE = "iqn.2003-01.org.example:a-host-with-a-long-name,i,0x00023d000001,1"
ISSUER = Issuer(4711, "qemu\x1b[31m-kvm", 1, 2, IssuePath.BLOCK_SG_IO, "", "web1")

KNOWN = LuState(
    "naa.1",
    "LIO-ORG/disk1/4.0",
    7,
    MappingProxyType(
        {
            "2:0:0:1": Registration("2:0:0:1", 0x123ABC, True, Source.OBSERVED, NOW, ISSUER),
            REMOTE: Registration(REMOTE, 1, False, Source.READ, NOW),
        }
    ),
    Reservation(ReservationType.WERO, 0, "2:0:0:1", 0x123ABC, Source.OBSERVED, NOW, ISSUER),
)
UNIT = LogicalUnit(
    "naa.1",
    "LIO-ORG",
    "disk1",
    "4.0",
    (LocalNexus("2:0:0:1", "naa.1", "/dev/sda", "/dev/sg0"),),
    ("/dev/sda", "/dev/sg0"),
)
UNKNOWN = in_doubt(new_state("naa.2", "", NOW), "host error DID_TIME_OUT", NOW)

STATUS = {
    "schema": "prtrace.status/1",
    "version": "0.1.0",
    "pid": 4711,
    "since": "2026-11-23T12:00:00.000000000Z",
    "engine": "core",
    "digest": "0123456789ab",
    "abi": 1,
    "generation": 1,
    "attach": [
        {"program": "pr_done", "section": "raw_tp/x", "attached": True, "lost": "", "why": ""},
        {
            "program": "pr_timeout",
            "section": "raw_tp/y",
            "attached": False,
            "lost": "timeouts",
            "why": "this kernel has no such tracepoint",
        },
    ],
    "counters": {"seen": 12, "submitted": 12},
    "loss": [],
    "ring": {"size": 16 << 20, "unread": 0},
    "self_test": {"result": "passed", "at": None, "detail": "1 command"},
    "store": {"path": "/var/lib/prtrace/prtrace.db", "events": 5, "bytes": 8192, "problem": ""},
    "units": 2,
    "nexuses": 1,
    "in_doubt": 0,
}


class UnitSource(StoreSource):
    """A source of answers with states, as the agent has them."""

    def __init__(self, path):
        super().__init__(path)
        self.states = {"naa.1": (KNOWN, UNIT), "naa.2": (UNKNOWN, None)}
        self.report = dict(STATUS)

    def show(self, names, *, behind):
        chosen = [self.resolve(name).lu for name in names] or list(self.states)
        return show_view([unit_view(*self.states[lu], NOW) for lu in chosen], "here")

    def unconfirmed(self, lus):
        return []

    def status(self):
        return self.report


@pytest.fixture
def served(tmp_path):
    agent = Served(tmp_path, ConnectionLimits())
    agent.source = UnitSource(tmp_path / "prtrace.db")
    with agent.running() as running:
        yield running


def pr_out(record, lu="naa.1", action=0, key=0, sa_key=0, kind=0, **changes):
    """A PR OUT as it is on the wire."""
    cdb = bytes([0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0])
    parameter_list = key.to_bytes(8, "big") + sa_key.to_bytes(8, "big") + bytes(8)
    fields = {
        "record": record,
        "time": NOW + record * 1_000_000_000,
        "start_ns": record * 1000,
        "done_ns": record * 1000 + 10,
        "lu": lu,
        "nexus": "2:0:0:1",
        "device": "/dev/sda",
        "target": "LIO-ORG/disk1/4.0",
        "command": Command.PR_OUT,
        "status": "GOOD",
        "issuer": ISSUER,
        "cdb": cdb,
        "data": parameter_list,
        "head": parameter_list,
    }
    return Event(**(fields | changes))


@pytest.fixture(scope="session")
def forking():
    with Forking() as started:
        yield started


@pytest.fixture
def prtrace(forking):
    """Run the program; gives the finished process with text."""

    def run(*arguments, stdin=None, **environment):
        changed = {name: str(value) for name, value in environment.items()}
        return forking.run(
            [str(each) for each in arguments], stdin, os.environ | changed, pace.limit(50)
        )

    return run


def lines(done):
    """The lines that were printed; each has to fit a terminal of 80 columns."""
    found = done.stdout.splitlines()
    assert all(len(line) <= 80 for line in found)
    assert "\x1b" not in done.stdout
    return found
