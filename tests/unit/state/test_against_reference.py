"""Random walks: what the state says without doubt equals a target written independently."""

from __future__ import annotations

import json
from random import Random

import pytest
from reference_target import LU, TARGET, ReferenceTarget, port_of

from prtrace.model import (
    Action,
    AttentionSeen,
    FullStatusRead,
    KeysRead,
    LegacyReserve,
    Outcome,
    PrOut,
    ReadFailed,
    RecordsLost,
    ReservationRead,
    ReservationType,
)
from prtrace.state.apply import apply, new_state
from prtrace.state.codec import from_json, to_json
from prtrace.state.unit import Fact

LOCAL = ["2:0:1:0", "3:0:1:0", "4:0:1:0", "5:0:1:0"]
FOREIGN = ["9:0:1:0"]
KEYS = [0xA, 0xB, 0xC, 0xD]
TYPES = list(ReservationType)
ACTIONS = [
    Action.REGISTER,
    Action.REGISTER,
    Action.REGISTER_AND_IGNORE,
    Action.RESERVE,
    Action.RESERVE,
    Action.RELEASE,
    Action.PREEMPT,
    Action.PREEMPT,
    Action.PREEMPT_AND_ABORT,
    Action.CLEAR,
]


class Walk:
    """One target, one state, and a clock."""

    def __init__(self, seed: int, *, target: str = TARGET) -> None:
        self.random = Random(seed)
        self.device = ReferenceTarget(LOCAL)
        self.state = new_state(LU, target, 1)
        self.target = target
        self.now = 1000
        self.history: list[object] = []
        self.surprises = 0

    def span(self) -> dict:
        self.now += 10
        return {
            "lu": LU,
            "target": self.target,
            "start_ns": self.now - 5,
            "done_ns": self.now,
            "time": self.now,
            "seq": self.now,
        }

    def feed(self, seen) -> str:
        self.history.append(seen)
        change = apply(self.state, seen)
        self.history.append(change.effect)
        self.state = change.state
        return change.effect

    def choose(self, nexus: str) -> tuple[Action, int, int, ReservationType]:
        pick = self.random.choice
        action = pick(ACTIONS)
        mine = self.device.key_of(nexus) or 0
        key = mine if self.random.random() < 0.85 else pick([0, *KEYS])
        sa_key = pick([0, *KEYS, *KEYS])
        kind = pick(TYPES)
        if self.device.slot is not None and self.random.random() < 0.5:
            kind = self.device.slot[1]
        return action, key, sa_key, kind

    def command(self, nexus: str, *, outcome: Outcome | None = None) -> Action:
        action, key, sa_key, kind = self.choose(nexus)
        real = self.device.pr_out(nexus, action, key, sa_key, kind)
        self.feed(
            PrOut(
                **self.span(),
                nexus=nexus,
                action=action,
                outcome=outcome or real,
                key=key,
                sa_key=sa_key,
                type=kind,
            )
        )
        return action

    def read_full(self) -> None:
        if self.device.spc2:
            self.feed(
                ReadFailed(
                    **self.span(),
                    nexus=LOCAL[0],
                    action="READ FULL STATUS",
                    outcome=Outcome.CONFLICT,
                )
            )
            return
        self.feed(
            FullStatusRead(
                **self.span(),
                nexus=LOCAL[0],
                truncated=False,
                generation=self.device.generation & 0xFFFFFFFF,
                registrations=self.device.full_status(),
                paths=self.device.paths(),
            )
        )

    def read_keys(self) -> None:
        if not self.device.spc2:
            self.feed(
                KeysRead(
                    **self.span(),
                    nexus=LOCAL[0],
                    truncated=False,
                    generation=self.device.generation,
                    keys=self.device.keys(),
                )
            )

    def read_reservation(self) -> None:
        if not self.device.spc2:
            kind, key, _ = self.device.reservation() or (None, 0, None)
            self.feed(
                ReservationRead(
                    **self.span(),
                    nexus=LOCAL[0],
                    type=kind,
                    key=key,
                    generation=self.device.generation,
                )
            )

    def attention(self, nexus: str) -> None:
        found = self.device.take_attentions(nexus)
        if found is not None:
            effect = self.feed(AttentionSeen(**self.span(), nexus=nexus, attention=found))
            self.surprises += not effect.startswith("expected")

    def check(self) -> None:
        """Everything without doubt is right, and the state survives the store."""
        state = self.state
        try:
            if not state.doubted(Fact.REGISTRATIONS):
                seen = {n: each.key for n, each in state.registrations.items()}
                real = {self.name(n): key for n, key in self.device.listed}
                assert seen == real
                assert state.unattributed == ()
            if not state.doubted(Fact.GENERATION):
                assert state.generation == self.device.generation
            if not state.doubted(Fact.RESERVATION):
                held = state.reservation
                seen = None if held is None else (held.type, held.key, held.holder)
                real = self.device.reservation()
                if real is not None and real[2] is not None:
                    real = (real[0], real[1], self.name(real[2]))
                assert seen == real
                named = None if held is None else held.designated
                if named is not None and not state.doubted(Fact.REGISTRATIONS):
                    assert self.device.slot is not None
                    assert named == self.name(self.device.slot[0])
            assert from_json(json.loads(json.dumps(to_json(state)))) == state
        except AssertionError:
            print(*self.history[-16:], state, vars(self.device), sep="\n")
            raise

    def name(self, nexus: str) -> str:
        return f"{port_of(nexus)},1" if nexus in FOREIGN else nexus


SEEDS = range(40)


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_seen_leaves_little_in_doubt(seed: int) -> None:
    """Doubted are conflicting PREEMPTs, and what hangs on an unknown designated holder."""
    walk = Walk(seed)
    walk.read_full()
    doubtful = 0
    for _ in range(250):
        nexus = walk.random.choice(LOCAL)
        walk.attention(nexus)
        action = walk.command(nexus)
        walk.check()
        if walk.state.doubts:
            doubtful += action not in (Action.PREEMPT, Action.PREEMPT_AND_ABORT)
            walk.read_full()
            assert walk.state.doubts == ()
            walk.check()
    assert doubtful < 10
    assert walk.surprises < 10


@pytest.mark.parametrize("seed", SEEDS)
def test_lost_and_uncertain_commands(seed: int) -> None:
    """Commands go unseen (and are reported as lost), time out, meet partial readings."""
    walk = Walk(seed)
    for _ in range(400):
        nexus = walk.random.choice(LOCAL)
        chance = walk.random.random()
        if chance < 0.05:
            walk.device.pr_out(nexus, *walk.choose(nexus))
            walk.feed(RecordsLost(**walk.span(), nexus=nexus, cause="ring full"))
        elif chance < 0.15:
            walk.command(nexus, outcome=Outcome.UNKNOWN)
        elif chance < 0.20:
            walk.read_full()
        elif chance < 0.30:
            walk.read_keys()
        elif chance < 0.40:
            walk.read_reservation()
        elif chance < 0.45:
            release = walk.random.random() < 0.7
            outcome = walk.device.legacy(nexus, release=release)
            walk.feed(LegacyReserve(**walk.span(), nexus=nexus, release=release, outcome=outcome))
        elif chance < 0.46:
            walk.device.power_loss()
            for each in LOCAL:
                walk.attention(each)
        else:
            walk.command(nexus)
        walk.check()


@pytest.mark.parametrize("seed", SEEDS)
def test_another_host_is_found_out_by_readings(seed: int) -> None:
    """Another host's commands are never seen; a reading of everything puts that right."""
    walk = Walk(seed)
    for _ in range(150):
        for _ in range(walk.random.randrange(3)):
            walk.command(walk.random.choice(LOCAL))
        foreign = walk.random.choice(FOREIGN)
        walk.device.pr_out(foreign, *walk.choose(foreign))
        if walk.random.random() < 0.5:
            walk.read_keys()
            walk.read_reservation()
        walk.read_full()
        if walk.device.spc2 is None:
            assert walk.state.doubts == ()
        walk.check()


@pytest.mark.parametrize("seed", SEEDS)
def test_an_unknown_target_is_never_described_wrongly(seed: int) -> None:
    """The profile of unknown targets doubts more, and is right where it does not."""
    walk = Walk(seed, target="ACME/ARRAY/1")
    walk.read_full()
    for _ in range(250):
        walk.command(walk.random.choice(LOCAL))
        walk.check()
        if walk.state.doubts and walk.random.random() < 0.5:
            walk.random.choice([walk.read_full, walk.read_keys, walk.read_reservation])()
            walk.check()
