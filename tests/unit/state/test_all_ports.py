"""Random walks over registrations for all target ports, of which this host sees some.

The devices are written apart from prtrace.state, each in its own way.
Another host, and target ports without a path here, change it unseen; what is stated without doubt
after the next READ FULL STATUS has to be so, and a path that may write has to be one that may.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    ReservationRead,
    ReservationType,
)
from prtrace.state.access import may
from prtrace.state.apply import apply, new_state
from prtrace.state.binding import WILD
from prtrace.state.unit import Fact

LIO, SCST, OTHER = "LIO-ORG/disk/4.0", "SCST_FIO/disk/370", "ACME/ARRAY/1"
_PORTS, _TARGET_PORTS = ("naa.1", "naa.2"), (1, 2, 3)
_EVERY = tuple((port, target_port) for port in _PORTS for target_port in _TARGET_PORTS)
_STEPS = 30
_WRITERS = {ReservationType.WERO: False, ReservationType.WEAR: True}
"""Types, and whether all registrants hold."""

_ACTIONS = (
    Action.REGISTER,
    Action.REGISTER_AND_IGNORE,
    Action.RESERVE,
    Action.PREEMPT,
    Action.CLEAR,
)
_WEIGHTS = (5, 3, 3, 3, 1)

Key = tuple[str, int]


class Device:
    """As the standard has it: READ FULL STATUS has one descriptor for all target ports."""

    def __init__(self, chance: Random) -> None:
        self.unregister_adds = chance.choice((0, 1))
        self.removed_count = chance.random() < 0.3
        self.own_key_goes = chance.random() < 0.5
        self.registered: dict[Key, int] = {}
        self.made_for_all: set[Key] = set()
        self.type: ReservationType | None = None
        self.holder: Key | None = None
        self.generation = 0

    def keys(self) -> dict[Key, int]:
        return self.registered

    def listed_keys(self) -> tuple[int, ...]:
        return tuple(self.registered.values())

    def holder_key(self) -> int:
        return 0 if self.holder is None else self.registered[self.holder]

    def shared(self) -> bool:
        return self.type is not None and _WRITERS[self.type]

    def may_write(self, nexus: Key) -> bool:
        return self.type is None or nexus in self.keys()

    def register(self, nexus: Key, key: int, sa_key: int, *, ignore: bool, every: bool) -> Outcome:
        mine = self.registered.get(nexus, 0)
        if not ignore and key != mine:
            return Outcome.CONFLICT
        if not sa_key:
            siblings = [each for each in self.made_for_all if each[0] == nexus[0]]
            gone = [each for each in siblings if self.registered[each] == mine] if every else []
            for each in {nexus, *gone} & self.registered.keys():
                self._remove(each)
                self.generation += self.unregister_adds
            return Outcome.DONE
        if every and not mine:
            for target_port in _TARGET_PORTS:
                self.registered[nexus[0], target_port] = sa_key
                self.made_for_all.add((nexus[0], target_port))
        else:
            self.made_for_all.discard(nexus)
        self.registered[nexus] = sa_key
        self.generation += 1
        return Outcome.DONE

    def reserve(self, nexus: Key, key: int, kind: ReservationType) -> Outcome:
        if self.registered.get(nexus, 0) != key or not key:
            return Outcome.CONFLICT
        if self.type is not None and (self.type, self.holder) != (kind, nexus):
            return Outcome.DONE if self.shared() and self.type is kind else Outcome.CONFLICT
        self.type, self.holder = kind, None if _WRITERS[kind] else nexus
        return Outcome.DONE

    def preempt(self, nexus: Key, key: int, sa_key: int, kind: ReservationType) -> Outcome:
        if self.registered.get(nexus, 0) != key or not key:
            return Outcome.CONFLICT
        holding = self.holder is not None and self.registered[self.holder] == sa_key
        everybody = self.shared() and not sa_key
        hit = [each for each, its in self.registered.items() if everybody or its == sa_key]
        if not hit:
            return Outcome.CONFLICT if sa_key else Outcome.NOT_EXECUTED
        takes_over = holding or everybody
        stays = takes_over or self.shared() or not self._own_goes()
        gone = [each for each in hit if each != nexus or not stays]
        for each in gone:
            self._remove(each)
        if takes_over:
            self.type, self.holder = kind, None if _WRITERS[kind] else nexus
        self.generation += len(gone) if self.removed_count else 1
        return Outcome.DONE

    def clear(self, nexus: Key, key: int) -> Outcome:
        if self.registered.get(nexus, 0) != key or not key:
            return Outcome.CONFLICT
        self.generation += len(self.registered) if self.removed_count else 1
        self.registered, self.made_for_all, self.type, self.holder = {}, set(), None, None
        return Outcome.DONE

    def _own_goes(self) -> bool:
        return self.own_key_goes

    def _remove(self, nexus: Key) -> None:
        del self.registered[nexus]
        self.made_for_all.discard(nexus)
        if self.holder == nexus or (self.shared() and not self.registered):
            self.type = self.holder = None

    def listed(self) -> tuple[FullStatus, ...]:
        found = []
        for nexus, key in self.registered.items():
            port, target_port = nexus
            group = [each for each in self.made_for_all if each[0] == port]
            every = len(group) == len(_TARGET_PORTS)
            every = every and len({self.registered[each] for each in group}) == 1
            if every and target_port != _TARGET_PORTS[0]:
                continue
            holds = self.shared() or self.holder in (group if every else [nexus])
            found.append(self._descriptor(nexus, key, every=every, holds=holds))
        return tuple(found)

    def _descriptor(self, nexus: Key, key: int, *, every: bool, holds: bool) -> FullStatus:
        holder = self.type is not None and holds
        return FullStatus(
            initiator_port=nexus[0],
            relative_target_port=0 if every else nexus[1],
            key=key,
            holder=holder,
            all_target_ports=every,
            type=self.type if holder else None,
        )


class Scst(Device):
    """One registration for each target port, listed under its target port; all are counted once
    (scst/src/scst_pres.c)."""

    def __init__(self, chance: Random) -> None:
        super().__init__(chance)
        self.removed_count = False

    def register(self, nexus: Key, key: int, sa_key: int, *, ignore: bool, every: bool) -> Outcome:
        mine = self.registered.get(nexus, 0)
        if not ignore and key != mine:
            return Outcome.CONFLICT
        ports = [(nexus[0], each) for each in _TARGET_PORTS] if every else [nexus]
        if not sa_key:
            for each in ports if mine else []:
                if each in self.registered:
                    self._remove(each)
        elif mine:
            self.registered[nexus] = sa_key
        else:
            for each in ports:
                self.registered.setdefault(each, sa_key)
        self.generation += 1
        return Outcome.DONE

    def _own_goes(self) -> bool:
        return self.type is not None


@dataclass(slots=True, eq=False)
class Entry:
    """A registration of LIO.  every: ALL_TG_PT made it."""

    nexus: Key
    key: int
    every: bool


class Lio(Device):
    """A list of registrations, one for each target port, in which a nexus may stand twice: who
    registers with ALL_TG_PT is asked whether it is registered, and its siblings are not
    (drivers/target/target_core_pr.c, __core_scsi3_alloc_registration).

    mapped: the target ports at which each initiator port is known.
    """

    def __init__(self, chance: Random) -> None:
        super().__init__(chance)
        self.entries: list[Entry] = []
        self.slot: Entry | None = None
        self.mapped = {
            port: tuple(each for each in _TARGET_PORTS if chance.random() < 0.8) for port in _PORTS
        }

    def keys(self) -> dict[Key, int]:
        return {each.nexus: each.key for each in reversed(self.entries)}

    def listed_keys(self) -> tuple[int, ...]:
        return tuple(each.key for each in self.entries)

    def holder_key(self) -> int:
        return 0 if self.slot is None or self.shared() else self.slot.key

    def _find(self, nexus: Key, key: int) -> Entry | None:
        own = next((each for each in self.entries if each.nexus == nexus), None)
        return own if own is not None and own.key == key else None

    def register(self, nexus: Key, key: int, sa_key: int, *, ignore: bool, every: bool) -> Outcome:
        own = self._find(nexus, self.keys().get(nexus, 0))
        if not ignore and key != (own.key if own else 0):
            return Outcome.CONFLICT
        if own is None:
            more = [(nexus[0], each) for each in self.mapped[nexus[0]]] if every else []
            for each in dict.fromkeys([nexus, *more]) if sa_key else []:
                self.entries.append(Entry(each, sa_key, every))
                self.generation += 1
            return Outcome.DONE
        if own.every and not every:
            return Outcome.NOT_EXECUTED  # INVALID FIELD IN CDB
        if sa_key:
            own.key = sa_key
            self.generation += 1
            return Outcome.DONE
        # REGISTER AND IGNORE EXISTING KEY looks for siblings with key 0, which none has.
        siblings = [
            each
            for each in self.entries
            if own.every
            and each.every
            and each is not own
            and each.nexus[0] == nexus[0]
            and each.key == own.key
            and not ignore
        ]
        slot = self.slot
        if own.every and slot is not None and slot is not own:
            alike = slot.nexus[0] == nexus[0] and slot.key == own.key
            if alike:
                return Outcome.CONFLICT
        if slot is own and self.shared() and siblings:
            # It would make one of those the holder that it removes next, and use freed memory.
            return Outcome.NOT_EXECUTED
        for each in (own, *siblings):
            self._drop(each)
        return Outcome.DONE

    def reserve(self, nexus: Key, key: int, kind: ReservationType) -> Outcome:
        own = self._find(nexus, key)
        if own is None:
            return Outcome.CONFLICT
        if self.slot is None:
            self.slot, self.type = own, kind
            return Outcome.DONE
        fits = (self.slot is own or self.shared()) and self.type is kind
        return Outcome.DONE if fits else Outcome.CONFLICT

    def preempt(self, nexus: Key, key: int, sa_key: int, kind: ReservationType) -> Outcome:
        own, slot = self._find(nexus, key), self.slot
        if own is None:
            return Outcome.CONFLICT
        if not sa_key and not self.shared():
            return Outcome.NOT_EXECUTED
        takes_over = slot is not None and slot.key == sa_key
        hit = [each for each in self.entries if each.key == sa_key or not sa_key]
        if not hit:
            return Outcome.CONFLICT
        stays = takes_over or self.shared()
        for each in hit:
            if each is not own or not stays:
                self._drop(each)
        if takes_over or not sa_key:
            self.slot, self.type = own, kind
        self.generation += 1
        return Outcome.DONE

    def clear(self, nexus: Key, key: int) -> Outcome:
        if self._find(nexus, key) is None:
            return Outcome.CONFLICT
        self.entries, self.slot, self.type = [], None, None
        self.generation += 1
        return Outcome.DONE

    def _drop(self, entry: Entry) -> None:
        self.entries.remove(entry)
        if self.slot is not entry:
            return
        if self.shared() and self.entries:
            self.slot = self.entries[0]
        else:
            self.slot = self.type = None

    def listed(self) -> tuple[FullStatus, ...]:
        return tuple(
            self._descriptor(
                each.nexus,
                each.key,
                every=each.every,
                holds=self.shared() or each is self.slot,
            )
            for each in self.entries
        )


_KINDS = ((Device, OTHER), (Lio, LIO), (Lio, OTHER), (Scst, SCST), (Scst, OTHER))


class World:
    """What this host saw of it, folded.  stale: somebody acted unseen since the last reply."""

    def __init__(self, seed: int) -> None:
        self.chance = chance = Random(seed)
        kind, self.target = chance.choice(_KINDS)
        self.device = kind(chance)
        seen = chance.sample(_EVERY, chance.randint(1, 3))
        self.here = {f"{number}:0:0:0": nexus for number, nexus in enumerate(seen, 1)}
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
        unseen = chance.random() < 0.25
        name = chance.choice(list(self.here))
        nexus = self.here[name]
        if unseen:
            # Most often over a target port that is not here, and registered.
            away = [each for each in _EVERY if each not in self.here.values()]
            registered = device.keys()
            known = [each for each in away if each in registered]
            nexus = chance.choice(known if known and chance.random() < 0.8 else away)
        elif chance.random() < 0.4:
            self._read(name)
            return
        key = device.keys().get(nexus, 0) if chance.random() < 0.9 else chance.randint(0, 2)
        sa_key, kind = chance.choice((0, 1, 1, 2)), chance.choice(list(_WRITERS))
        every = chance.random() < 0.6
        action = chance.choices(_ACTIONS, _WEIGHTS)[0]
        if action is Action.RESERVE:
            outcome = device.reserve(nexus, key, kind)
        elif action is Action.PREEMPT:
            outcome = device.preempt(nexus, key, sa_key, kind)
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
            type=kind if action in (Action.RESERVE, Action.PREEMPT) else None,
            all_tg_pt=every and action in (Action.REGISTER, Action.REGISTER_AND_IGNORE),
        )

    def _read(self, name: str) -> None:
        device, chance = self.device, self.chance
        told = chance.random()
        if told < 0.6:
            keys, truncated = device.listed_keys(), chance.random() < 0.1
            self._see(KeysRead, name, generation=device.generation, keys=keys, truncated=truncated)
        if chance.random() < 0.2:
            self._see(
                ReservationRead,
                name,
                generation=device.generation,
                key=device.holder_key(),
                type=device.type,
                scope=0,
            )
        if told < 0.3:
            return
        self._see(
            FullStatusRead,
            name,
            generation=device.generation,
            registrations=device.listed(),
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
            real = device.keys()
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
