"""Random walks over registrations for all target ports, of which this host sees some.

The device is written apart from prtrace.state: a dictionary by initiator port and target port.
Another host, and target ports without a path here, change it unseen; what is stated without doubt
after the next READ FULL STATUS has to be so, and a path that may write has to be one that may.
"""

from __future__ import annotations

from random import Random

import pytest
from examples import share
from reference_target import LU

from prtrace.model import (
    Access,
    Action,
    FullStatus,
    FullStatusRead,
    KeysRead,
    LocalNexus,
    Outcome,
    PathsSeen,
    PrOut,
    ReservationType,
)
from prtrace.state.access import may
from prtrace.state.apply import apply, new_state
from prtrace.state.binding import WILD
from prtrace.state.unit import Fact

LIO, OTHER = "LIO-ORG/disk/4.0", "ACME/ARRAY/1"
_PORTS, _TARGET_PORTS = ("naa.1", "naa.2"), (1, 2)
_STEPS = 30
_WRITERS = {ReservationType.WERO: False, ReservationType.WEAR: True}
"""Types, and whether all registrants hold."""

Key = tuple[str, int]


class Device:
    """one: READ FULL STATUS has one descriptor for all target ports."""

    def __init__(self, chance: Random, *, one: bool) -> None:
        self.one = one
        self.unregister_adds = chance.choice((0, 1)) if one else 0
        self.removed_count = one and chance.random() < 0.3
        self.keys: dict[Key, int] = {}
        self.made_for_all: set[Key] = set()
        self.type: ReservationType | None = None
        self.holder: Key | None = None
        self.generation = 0

    def shared(self) -> bool:
        return self.type is not None and _WRITERS[self.type]

    def may_write(self, nexus: Key) -> bool:
        return self.type is None or nexus in self.keys

    def register(self, nexus: Key, key: int, sa_key: int, *, ignore: bool, every: bool) -> Outcome:
        mine = self.keys.get(nexus, 0)
        if not ignore and key != mine:
            return Outcome.CONFLICT
        if nexus in self.made_for_all and not every and not self.one:
            return Outcome.NOT_EXECUTED  # LIO's INVALID FIELD IN CDB
        if not sa_key:
            siblings = [each for each in self.made_for_all if each[0] == nexus[0]]
            gone = [each for each in siblings if self.keys[each] == mine] if every else []
            for each in {nexus, *gone} & self.keys.keys():
                self._remove(each)
                self.generation += self.unregister_adds
            return Outcome.DONE
        if every and not mine:
            for target_port in _TARGET_PORTS:
                self.keys[nexus[0], target_port] = sa_key
                self.made_for_all.add((nexus[0], target_port))
        elif self.one:
            self.made_for_all.discard(nexus)
        self.keys[nexus] = sa_key
        self.generation += 1
        return Outcome.DONE

    def reserve(self, nexus: Key, key: int, kind: ReservationType) -> Outcome:
        if self.keys.get(nexus, 0) != key or not key:
            return Outcome.CONFLICT
        if self.type is not None and (self.type, self.holder) != (kind, nexus):
            return Outcome.DONE if self.shared() and self.type is kind else Outcome.CONFLICT
        self.type, self.holder = kind, None if _WRITERS[kind] else nexus
        return Outcome.DONE

    def clear(self, nexus: Key, key: int) -> Outcome:
        if self.keys.get(nexus, 0) != key or not key:
            return Outcome.CONFLICT
        self.generation += len(self.keys) if self.removed_count else 1
        self.keys, self.made_for_all, self.type, self.holder = {}, set(), None, None
        return Outcome.DONE

    def _remove(self, nexus: Key) -> None:
        del self.keys[nexus]
        self.made_for_all.discard(nexus)
        if self.holder == nexus or (self.shared() and not self.keys):
            self.type = self.holder = None

    def listed(self) -> tuple[FullStatus, ...]:
        found = []
        for nexus, key in self.keys.items():
            port, target_port = nexus
            group = [each for each in self.made_for_all if each[0] == port]
            every = nexus in group and (not self.one or len(group) == len(_TARGET_PORTS))
            every = every and len({self.keys[each] for each in group}) == 1
            if self.one and every and target_port != _TARGET_PORTS[0]:
                continue
            holds = self.shared() or self.holder in ([*group] if self.one and every else [nexus])
            holder = self.type is not None and holds
            found.append(
                FullStatus(
                    initiator_port=port,
                    relative_target_port=0 if every else target_port,
                    key=key,
                    holder=holder,
                    all_target_ports=every,
                    type=self.type if holder else None,
                )
            )
        return tuple(found)


class World:
    """What this host saw of it, folded.  stale: somebody acted unseen since the last reply."""

    def __init__(self, seed: int) -> None:
        self.chance = chance = Random(seed)
        one = chance.random() < 0.5
        self.device = Device(chance, one=one)
        every = [(port, target_port) for port in _PORTS for target_port in _TARGET_PORTS]
        seen = chance.sample(every, chance.randint(1, 3))
        self.here = {f"{number}:0:0:0": nexus for number, nexus in enumerate(seen, 1)}
        self.target = OTHER if one or chance.random() < 0.5 else LIO
        self.state = new_state(LU, self.target)
        self.stale = True
        self.now = 1000
        self.steps: list[str] = []
        paths = tuple(
            LocalNexus(name, LU, initiator_port=port, relative_target_port=target_port)
            if chance.random() < 0.8
            else LocalNexus(name, LU)
            for name, (port, target_port) in self.here.items()
        )
        self._see(PathsSeen, "", paths=paths)

    def _see(self, kind: type, nexus: str, **fields: object) -> None:
        self.now += 10
        common = {"lu": LU, "nexus": nexus, "target": self.target, "time": self.now}
        change = apply(
            self.state, kind(**common, start_ns=self.now - 5, done_ns=self.now, **fields)
        )
        self.state = change.state
        self.steps.append(f"{kind.__name__} {nexus} {fields}: {change.effect}")

    def step(self) -> None:
        device, chance = self.device, self.chance
        unseen = chance.random() < 0.2
        name = chance.choice(list(self.here))
        nexus = self.here[name]
        if unseen:
            nexus = (chance.choice(_PORTS), chance.choice(_TARGET_PORTS))
            if nexus in self.here.values():
                return
        elif chance.random() < 0.4:
            self._read(name)
            return
        key = device.keys.get(nexus, 0) if chance.random() < 0.9 else chance.randint(0, 2)
        sa_key, kind = chance.choice((0, 1, 1, 2)), chance.choice(list(_WRITERS))
        every = chance.random() < 0.6
        action = chance.choice(
            (
                Action.REGISTER,
                Action.REGISTER,
                Action.REGISTER_AND_IGNORE,
                Action.RESERVE,
                Action.CLEAR,
            )
        )
        if action is Action.RESERVE:
            outcome = device.reserve(nexus, key, kind)
        elif action is Action.CLEAR:
            outcome = device.clear(nexus, key)
        else:
            ignore = action is Action.REGISTER_AND_IGNORE
            outcome = device.register(nexus, key, sa_key, ignore=ignore, every=every)
        if unseen:
            self.stale = True
            self.steps.append(f"unseen {nexus} {action.value} {key} {sa_key} {every}: {outcome}")
            return
        self._see(
            PrOut,
            name,
            action=action,
            outcome=outcome,
            key=key,
            sa_key=sa_key,
            type=kind if action is Action.RESERVE else None,
            all_tg_pt=every and action is not Action.RESERVE and action is not Action.CLEAR,
        )

    def _read(self, name: str) -> None:
        told = self.chance.random()
        if told < 0.8:
            keys = tuple(self.device.keys.values())
            self._see(
                KeysRead, name, generation=self.device.generation, keys=keys, truncated=False
            )
        if told < 0.4:
            return
        self._see(
            FullStatusRead,
            name,
            generation=self.device.generation,
            registrations=self.device.listed(),
            truncated=False,
        )
        self.stale = self.stale and "not learned" in self.steps[-1]

    def wrong(self) -> list[str]:
        if self.stale:
            return []
        state, device, found = self.state, self.device, []
        doubted = {each.what for each in state.doubts}
        if Fact.GENERATION not in doubted and state.generation != device.generation:
            found.append(f"generation {state.generation}, {device.generation}")
        if Fact.REGISTRATIONS not in doubted:
            anywhere = {
                (name.removesuffix(WILD), each.key)
                for name, each in state.registrations.items()
                if name.endswith(WILD)
            }
            stated = {
                self.here.get(name) or self._ports(name): each.key
                for name, each in state.registrations.items()
                if not name.endswith(WILD)
            }
            real = device.keys
            found += [
                f"{n} is not registered with {k}" for n, k in stated.items() if real.get(n) != k
            ]
            found += [
                f"{nexus} is registered with {key}"
                for nexus, key in real.items()
                if nexus not in stated and (nexus[0], key) not in anywhere
            ]
        if Fact.RESERVATION not in doubted:
            held = None if state.reservation is None else state.reservation.type
            if held is not device.type:
                found.append(f"reserved {held}, {device.type}")
        for name, nexus in self.here.items():
            told = may(state, name, Access.WRITE)
            if told.allowed not in (None, device.may_write(nexus)):
                found.append(f"{name} may write: {told}")
        return found

    @staticmethod
    def _ports(name: str) -> Key:
        port, _, target_port = name.rpartition(",")
        return port, int(target_port)


@pytest.mark.parametrize("first", range(0, share(2000), 100))
def test_what_is_stated_without_doubt_is_so_on_random_walks(first: int) -> None:
    for seed in range(first, first + 100):
        world = World(seed)
        for _ in range(_STEPS):
            world.step()
            wrong = world.wrong()
            assert not wrong, "\n".join(
                [f"seed {seed}", *world.steps[-12:], *wrong, str(world.state)]
            )
