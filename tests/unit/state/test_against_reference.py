"""Random walks: what the state says without doubt equals a target written independently."""

from __future__ import annotations

import json
from collections import Counter
from random import Random

import pytest
from examples import share
from reference_target import LU, TARGET, OtherTarget, ReferenceTarget, port_of

from prtrace.model import (
    Action,
    Attention,
    AttentionSeen,
    FullStatusRead,
    KeysRead,
    LegacyReserve,
    LocalNexus,
    Outcome,
    PathsSeen,
    PrOut,
    ReadFailed,
    RecordsLost,
    ReservationRead,
    ReservationType,
    Unsupported,
)
from prtrace.state.apply import apply, new_state
from prtrace.state.codec import from_json, to_json
from prtrace.state.unit import Fact, Source

LOCAL = ["2:0:1:0", "3:0:1:0", "4:0:1:0", "5:0:1:0"]
FOREIGN = ["9:0:1:0", "9:0:2:0"]
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
        # A target that is not known may be LIO under another name.
        lio = target == TARGET or seed % 3 == 0
        self.device = ReferenceTarget(LOCAL) if lio else OtherTarget(LOCAL, Random(seed))
        self.state = new_state(LU, target, 1)
        self.target = target
        self.now = 1000
        self.history: list[object] = []
        self.surprises = 0
        self.answer = Outcome.DONE

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
        self.answer = outcome or real
        self.feed(
            PrOut(
                **self.span(),
                nexus=nexus,
                action=action,
                outcome=self.answer,
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
        if self.target != TARGET:
            self.read_keys()
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
            # Equal ones are merged: a 2A/04 is never taken for the effect of what was seen.
            merged = found is Attention.RESERVATIONS_RELEASED
            self.surprises += not merged and not effect.startswith("expected")

    def stated(self, fact: Fact) -> bool:
        """Whether the state says something about now, and not in doubt."""
        return not self.state.doubted(fact)

    def check(self) -> None:
        """Everything without doubt is right, and the state survives the store."""
        state = self.state
        try:
            if self.stated(Fact.REGISTRATIONS):
                seen = {n: each.key for n, each in state.registrations.items()}
                real = {self.name(n): key for n, key in self.device.listed}
                assert seen == real
                assert state.unattributed == ()
            if self.stated(Fact.GENERATION):
                assert state.generation == self.device.generation
            if self.stated(Fact.RESERVATION):
                held = state.reservation
                seen = None if held is None else (held.type, held.key, held.holder)
                real = self.device.reservation()
                if real is not None and real[2] is not None:
                    real = (real[0], real[1], self.name(real[2]))
                if held is not None and held.key is None and real is not None:
                    # A target may show a former one of the holder's keys.
                    seen = (held.type, real[1], held.holder)
                assert seen == real
                named = None if held is None else held.designated
                if named is not None and self.stated(Fact.REGISTRATIONS):
                    assert self.device.slot is not None
                    assert named == self.name(self.device.slot[0])
            assert from_json(json.loads(json.dumps(to_json(state)))) == state
        except AssertionError:
            print(*self.history[-16:], state, vars(self.device), sep="\n")
            raise

    def name(self, nexus: str) -> str:
        return f"{port_of(nexus)},1" if nexus in FOREIGN else nexus


SEEDS = range(share(40))


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_seen_leaves_little_in_doubt(seed: int) -> None:
    """Doubted are conflicting PREEMPTs, CHECK CONDITIONs, and what hangs on an unknown
    designated holder."""
    walk = Walk(seed)
    walk.read_full()
    doubtful = 0
    for _ in range(250):
        nexus = walk.random.choice(LOCAL)
        walk.attention(nexus)
        if walk.state.doubts:
            walk.read_full()
        action = walk.command(nexus)
        walk.check()
        if walk.state.doubts:
            doubtful += walk.answer is Outcome.DONE and action not in (
                Action.PREEMPT,
                Action.PREEMPT_AND_ABORT,
            )
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


class World(Walk):
    """Other hosts that nobody sees, and paths that come, go, log in anew and change places.

    The device knows ports; the state is told addresses, which the kernel gives to anybody.
    """

    def __init__(self, seed: int, *, target: str = TARGET) -> None:
        super().__init__(seed, target=target)
        self.at: dict[str, tuple[str, int]] = {}  # address: port, life
        self.lives = 100
        self.touched = 0
        self.signs: dict[tuple[str, Attention], int] = {}
        """The unit attentions that a stranger's command has raised, and when it was sent."""
        self.told = False
        self.move()

    def name(self, nexus: str) -> str:
        for address, (port, _) in self.at.items():
            if port == nexus:
                return address
        return f"{port_of(nexus)},1"

    def move(self) -> None:
        """Some sessions end, some begin; an address may be anybody's afterwards."""
        if self.random.random() < 0.3:
            self.at = {}
        staying = {a: p for a, p in self.at.items() if self.random.random() < 0.5}
        free = [a for a in LOCAL if a not in staying]
        absent = [p for p in LOCAL if p not in {port for port, _ in staying.values()}]
        self.random.shuffle(free)
        self.random.shuffle(absent)
        for address, port in zip(free, absent, strict=True):
            if self.random.random() < 0.8 or not staying:
                self.lives += 1
                staying[address] = port, self.lives
        self.at = staying
        self.feed(
            PathsSeen(
                **self.span(),
                nexus="",
                paths=tuple(
                    LocalNexus(
                        address,
                        LU,
                        initiator_port=port_of(port),
                        relative_target_port=1,
                        life=life,
                    )
                    for address, (port, life) in sorted(staying.items())
                ),
            )
        )

    def stranger(self) -> None:
        before = set(self.device.attentions)
        foreign = self.random.choice(FOREIGN)
        self.device.pr_out(foreign, *self.choose(foreign))
        self.now += 1
        self.touched = self.now
        self.signs |= dict.fromkeys(set(self.device.attentions) - before, self.now)

    def local(self, *, outcome: Outcome | None = None) -> None:
        address = self.random.choice(sorted(self.at))
        port, life = self.at[address]
        found = self.device.take_attentions(port)
        if found is not None:
            seen = AttentionSeen(**self.span(), nexus=address, life=life, attention=found)
            self.feed(seen)
            # Of what a stranger did after the cause of this one nothing is told.
            self.told = self.signs.get((port, found)) == self.touched
            self.signs = {each: at for each, at in self.signs.items() if each[0] != port}
            return
        action, key, sa_key, kind = self.choose(port)
        real = self.device.pr_out(port, action, key, sa_key, kind)
        self.feed(
            PrOut(
                **self.span(),
                nexus=address,
                life=life,
                action=action,
                key=key,
                sa_key=sa_key,
                type=kind,
                outcome=outcome or real,
            )
        )

    def read(self) -> None:
        span = {**self.span(), "nexus": self.random.choice(sorted(self.at))}
        span["life"] = self.at[span["nexus"]][1]
        if self.device.spc2 is not None:
            return
        kind, key, _ = self.device.reservation() or (None, 0, None)
        generation = self.device.generation
        if self.target != TARGET and self.random.random() < 0.5:
            keys = self.device.keys()
            self.feed(KeysRead(**span, truncated=False, generation=generation, keys=keys))
            span |= self.span()
        self.feed(
            self.random.choice(
                [
                    KeysRead(
                        **span, truncated=False, generation=generation, keys=self.device.keys()
                    ),
                    ReservationRead(**span, type=kind, key=key, generation=generation),
                    FullStatusRead(
                        **span,
                        truncated=False,
                        generation=generation,
                        registrations=self.device.full_status(),
                    ),
                ]
            )
        )

    def stated(self, fact: Fact) -> bool:
        """A fact is stated as of when it was confirmed; what a stranger did since is not in it.

        Once a sign of the stranger has reached this host, that is no excuse any more.
        """
        confirmed = self.state.confirmed.get(fact)
        if self.told:
            return not self.state.doubted(fact)
        return (
            not self.state.doubted(fact) and confirmed is not None and confirmed.at > self.touched
        )


@pytest.mark.parametrize("target", [TARGET, "ACME/ARRAY/1"])
@pytest.mark.parametrize("seed", SEEDS[: share(12)])
def test_what_is_stated_is_right_as_of_when_it_is_stated(seed: int, target: str) -> None:
    """Strangers act unseen, paths come, go and change places, things time out."""
    world = World(seed, target=target)
    said = 0
    for _ in range(300):
        chance = world.random.random()
        if chance < 0.12:
            world.stranger()
        elif chance < 0.20:
            world.move()
        elif chance < 0.40:
            world.read()
        elif chance < 0.44:
            world.local(outcome=Outcome.UNKNOWN)
        else:
            world.local()
        world.check()
        world.told = False
        said += world.stated(Fact.REGISTRATIONS)
    assert said > 10


class Blind(Walk):
    """A device that does not know READ FULL STATUS, and another host that nobody sees.

    What is stated is stated as of the newest reading of the keys and the reservation.
    """

    def __init__(self, seed: int, *, target: str = TARGET) -> None:
        super().__init__(seed, target=target)
        self.touched = 0
        self.said = 0
        self.feed(PathsSeen(**self.span(), nexus="", paths=self.device.paths()))
        self.read()
        self.feed(Unsupported(**self.span(), nexus=LOCAL[0], full_status=True))

    def read(self) -> None:
        first, second = self.read_keys, self.read_reservation
        if self.random.random() < 0.3:
            first, second = second, first
        first()
        self.check()
        if self.random.random() < 0.8:
            second()

    def stranger(self) -> None:
        """Half the time it takes a registration away and registers the same key itself."""
        foreign = FOREIGN[0]
        mine = self.device.key_of(foreign) or 0
        theirs = self.random.choice(self.device.listed or [[foreign, self.random.choice(KEYS)]])[1]
        kind = self.random.choice(TYPES) if self.device.slot is None else self.device.slot[1]
        if self.random.random() < 0.5:
            self.device.pr_out(foreign, *self.choose(foreign))
        else:
            self.device.pr_out(foreign, Action.REGISTER_AND_IGNORE, mine, 0xE, kind)
            self.device.pr_out(foreign, Action.PREEMPT, 0xE, theirs, kind)
            self.device.pr_out(foreign, Action.REGISTER, 0xE, theirs, kind)
        self.now += 1
        self.touched = self.now

    def stated(self, fact: Fact) -> bool:
        confirmed = self.state.confirmed.get(fact)
        now = confirmed is not None and confirmed.at > self.touched
        return now and not self.state.doubted(fact)

    def check(self) -> None:
        state = self.state
        try:
            if self.stated(Fact.REGISTRATIONS):
                real = {self.name(nexus): key for nexus, key in self.device.listed}
                own = {nexus: each.key for nexus, each in state.registrations.items()}
                assert own.items() <= real.items()
                keys = Counter(own.values()) + Counter(state.unattributed)
                assert keys == Counter(self.device.keys())
                self.said += bool(own)
            if self.stated(Fact.GENERATION):
                assert state.generation == self.device.generation
            if self.stated(Fact.RESERVATION):
                held, real = state.reservation, self.device.reservation()
                assert (held is None) == (real is None)
                if held is not None and real is not None:
                    assert held.type == real[0]
                    # After a RESERVE by who may have held it already, an unknown target's
                    # may be the key of before.
                    unsure = self.target != TARGET and held.source is Source.OBSERVED
                    assert held.key == real[1] or (unsure and held.key is None)
                    assert held.holder in (None, real[2] and self.name(real[2]))
            assert from_json(json.loads(json.dumps(to_json(state)))) == state
        except AssertionError:
            print(*self.history[-16:], state, vars(self.device), sep="\n")
            raise


@pytest.mark.parametrize("target", [TARGET, "ACME/ARRAY/1"])
@pytest.mark.parametrize("seed", SEEDS[: share(20)])
def test_a_device_that_names_nobody_is_not_guessed_at(seed: int, target: str) -> None:
    """Another host preempts, and registers the key that it took away."""
    walk = Blind(seed, target=target)
    for _ in range(300):
        chance = walk.random.random()
        if chance < 0.10:
            walk.stranger()
        elif chance < 0.40:
            walk.read()
        elif chance < 0.44:
            walk.command(walk.random.choice(LOCAL), outcome=Outcome.UNKNOWN)
        else:
            nexus = walk.random.choice(LOCAL)
            walk.attention(nexus)
            walk.command(nexus)
        walk.check()
    assert walk.said > 10
