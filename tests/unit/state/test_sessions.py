"""Sessions of one initiator on LIO: who is let in is known, or it is said that it is not."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from itertools import product

import pytest
from examples import share

from prtrace.model import (
    Access,
    Action,
    ConflictSeen,
    FullStatus,
    FullStatusRead,
    KeysRead,
    LocalNexus,
    NotWatched,
    Outcome,
    PathsSeen,
    PrOut,
    RecordsLost,
    ReservationType,
)
from prtrace.state.access import may
from prtrace.state.apply import apply, new_state
from prtrace.state.codec import from_json, to_json

LU = "naa.1"
TARGET = "LIO-ORG/disk/4.0"
RENAMED = "SYNOLOGY/iSCSI Storage/4.0"
PORTS = {"1:0:0:0": "iqn.x:me,i,0x00023d000001", "2:0:0:0": "iqn.x:me,i,0x00023d010002"}
KEYS = {"1:0:0:0": 1, "2:0:0:0": 2}
HOLDER = "iqn.y:other,i,0x00023d000001"
ONE, TWO = PORTS


@dataclass
class Lio:
    """A unit of which HOLDER holds WERO.  bit: DEF_PR_REG_ACTIVE of the other initiator."""

    registered: frozenset[str]
    bit: bool
    generation: int = 5


class World:
    """The unit and what is known of it.  current: nothing happened unseen since it was read."""

    def __init__(self, lio: Lio, target: str = TARGET) -> None:
        self.lio = lio
        self.target = target
        self.state = new_state(LU, target, 1)
        self.now = 1000
        self.current = False
        self.see(PathsSeen, paths=tuple(map(path, PORTS)))

    def see(self, kind, nexus: str = "", **fields) -> None:
        self.now += 10
        span = {"start_ns": self.now - 5, "done_ns": self.now, "time": self.now}
        seen = kind(lu=LU, nexus=nexus, target=self.target, **span, **fields)
        self.state = apply(self.state, seen).state
        assert from_json(to_json(self.state)) == self.state

    def act(self, what: str, nexus: str) -> None:
        lio = self.lio
        there = nexus in lio.registered
        match what:
            case "register":
                lio.bit |= not there
                lio.registered |= {nexus}
                lio.generation += 1
                self.out(nexus, KEYS[nexus])
            case "unregister":
                lio.bit &= not there
                lio.registered -= {nexus}
                self.out(nexus, 0)
            case "preempted unseen":
                lio.bit &= not there
                lio.registered -= {nexus}
                lio.generation += 1
                self.current = False
            case "lost":
                lio.bit &= not there
                lio.registered -= {nexus}
                self.see(RecordsLost, nexus, cause="the ring was full", count=1)
                self.current = False
            case "nobody watched":
                lio.bit = False
                self.see(NotWatched)
                self.see(PathsSeen, paths=tuple(map(path, PORTS)))
                self.current = False
            case "read":
                self.read()

    def out(self, nexus: str, key: int) -> None:
        fields = {"action": Action.REGISTER_AND_IGNORE, "key": 0, "sa_key": key, "type": None}
        self.see(PrOut, nexus, outcome=Outcome.DONE, **fields)

    def read(self) -> None:
        listed = [status(HOLDER, 9, holder=True)]
        listed += [status(PORTS[nexus], KEYS[nexus]) for nexus in sorted(self.lio.registered)]
        told = {"generation": self.lio.generation, "truncated": False}
        self.see(KeysRead, TWO, keys=tuple(each.key for each in listed), **told)
        self.see(FullStatusRead, TWO, registrations=tuple(listed), **told)
        self.current = not self.state.doubts

    def judge(self, what: object) -> int:
        """How many statements are certain; each is as LIO does it."""
        certain = 0
        for nexus in PORTS:
            allowed = may(self.state, nexus, Access.WRITE).allowed
            if self.current and allowed is not None:
                certain += 1
                assert allowed is self.lio.bit, (what, nexus, self.lio, self.state)
        return certain


def path(nexus: str) -> LocalNexus:
    return LocalNexus(
        nexus, LU, f"/dev/sd{nexus[0]}", initiator_port=PORTS[nexus], relative_target_port=1,
        life=int(nexus[0]),
    )  # fmt: skip


def status(port: str, key: int, *, holder: bool = False) -> FullStatus:
    kind = ReservationType.WERO if holder else None
    return FullStatus(
        initiator_port=port, relative_target_port=1, key=key, holder=holder, type=kind
    )


STEPS = [
    *product(("register", "unregister", "preempted unseen", "lost"), PORTS),
    ("nobody watched", ""),
    ("read", ""),
]


@pytest.mark.parametrize(
    "registered", [frozenset(), frozenset({ONE}), frozenset(PORTS)], ids=["none", "one", "both"]
)
@pytest.mark.parametrize("target", [TARGET, RENAMED])
def test_whoever_is_said_to_be_let_in_is_let_in(registered: frozenset[str], target: str) -> None:
    """Every sequence of three steps, from every state of LIO that a first reading may find.

    Of two in `tools/test fast`.
    """
    steps = min(3, share(10))
    certain = 0
    for bit in {bool(registered), False}:
        world = World(Lio(registered, bit), target)
        world.read()
        certain += certain_after(world, steps)
    assert certain > 10**steps // 3


def certain_after(world: World, steps: int, *before: tuple[str, str]) -> int:
    """How many statements are certain after each of the sequences of so many steps from there."""
    certain = 0
    for step in STEPS:
        then = copy(world)
        then.lio = copy(world.lio)
        then.act(*step)
        if step[0] in ("preempted unseen", "lost", "nobody watched"):
            then.read()
        so_far = (*before, step)
        certain += then.judge(so_far)
        if steps > 1:
            certain += certain_after(then, steps - 1, *so_far)
    return certain


def test_a_registration_that_was_seen_is_known_to_let_in() -> None:
    world = World(Lio(frozenset(), bit=False))
    world.read()
    world.act("register", ONE)
    assert may(world.state, ONE, Access.WRITE).allowed
    world.act("register", TWO)
    world.act("unregister", TWO)
    assert may(world.state, ONE, Access.WRITE).allowed is None
    # The session goes, and nothing is better by it.
    world.see(PathsSeen, paths=(path(ONE),))
    world.see(PathsSeen, paths=tuple(map(path, PORTS)))
    world.read()
    assert may(world.state, ONE, Access.WRITE).allowed is None
    # A conflict may all the same be the only sign that the registration is gone.
    world.see(ConflictSeen, ONE, access=Access.WRITE)
    assert world.state.doubts
    world.read()
    world.act("register", ONE)
    assert may(world.state, ONE, Access.WRITE).allowed is None, "it was there: the bit stays"
    world.act("register", TWO)
    assert may(world.state, ONE, Access.WRITE).allowed


def test_other_targets_forget_nobody() -> None:
    world = World(Lio(frozenset(PORTS), bit=True))
    world.state = replace(world.state, target="SCST_FIO/disk/320")
    told = (status(HOLDER, 9, holder=True), *(status(PORTS[each], KEYS[each]) for each in PORTS))
    seen = FullStatusRead(
        lu=LU, nexus=ONE, generation=5, registrations=told, truncated=False, start_ns=2000,
        done_ns=2010,
    )  # fmt: skip
    state = apply(world.state, seen).state
    assert may(state, ONE, Access.WRITE).allowed
    assert not any(each.overlooked for each in state.registrations.values())
