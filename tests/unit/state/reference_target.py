"""A LIO target in miniature, written apart from prtrace.state and in another way.

A list of [nexus, key] in the order of registration, one holder slot as in LIO's
dev_pr_res_holder, and a list of unit attentions.  Commands are answered with the model's
Outcome: DONE, CONFLICT, or UNKNOWN for CHECK CONDITION.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from prtrace.model import Action, Attention, FullStatus, LocalNexus, Outcome, ReservationType

LU = "naa.6001405"
TARGET = "LIO-ORG/disk/4.0"


def port_of(nexus: str) -> str:
    return f"naa.{nexus.replace(':', '')}"


class ReferenceTarget:
    def __init__(self, nexuses: list[str]) -> None:
        self.nexuses = nexuses
        self.generation = 0
        self.listed: list[list] = []
        self.slot: list | None = None  # [nexus, type]: the holder slot
        self.spc2: str | None = None
        self.attentions: list[tuple[str, Attention]] = []

    # what a reader sees

    def keys(self) -> tuple[int, ...]:
        return tuple(key for _, key in self.listed)

    def key_of(self, nexus: str) -> int | None:
        for name, key in self.listed:
            if name == nexus:
                return key
        return None

    def shared(self) -> bool:
        return self.slot is not None and self.slot[1] in (
            ReservationType.WEAR,
            ReservationType.EAAR,
        )

    def reservation(self) -> tuple | None:
        """(type, key, holder): key 0 and no holder where all registrants hold."""
        if self.slot is None:
            return None
        if self.shared():
            return (self.slot[1], 0, None)
        return (self.slot[1], self.key_of(self.slot[0]), self.slot[0])

    def full_status(self) -> tuple[FullStatus, ...]:
        result = []
        for name, key in self.listed:
            holds = self.slot is not None and (self.shared() or self.slot[0] == name)
            result.append(
                FullStatus(
                    initiator_port=port_of(name),
                    relative_target_port=1,
                    key=key,
                    holder=holds,
                    type=self.slot[1] if holds and self.slot else None,
                )
            )
        return tuple(result)

    def paths(self) -> tuple[LocalNexus, ...]:
        return tuple(
            LocalNexus(nexus, LU, initiator_port=port_of(nexus).upper(), relative_target_port=1)
            for nexus in self.nexuses
        )

    # commands

    def pr_out(
        self, nexus: str, action: Action, key: int, sa_key: int, kind: ReservationType | None
    ) -> Outcome:
        if self.spc2 is not None:
            return Outcome.CONFLICT
        name = action.name.lower().replace("_and_abort", "")
        if (
            self.slot is not None
            and self.key_of(nexus) is None
            and name
            in (
                "reserve",
                "release",
                "clear",
                "preempt",
            )
        ):
            return Outcome.CONFLICT
        return getattr(self, name)(nexus, key, sa_key, kind)

    def register(self, nexus, key, sa_key, kind, ignore=False) -> Outcome:
        mine = self.key_of(nexus)
        if mine is None:
            if key and not ignore:
                return Outcome.CONFLICT
            if sa_key:
                self.listed.append([nexus, sa_key])
                self.generation += 1
            return Outcome.DONE
        if not ignore and key != mine:
            return Outcome.CONFLICT
        if sa_key:
            for entry in self.listed:
                if entry[0] == nexus:
                    entry[1] = sa_key
            self.generation += 1
            return Outcome.DONE
        self.drop(nexus)
        if self.slot is not None and self.slot[0] == nexus:
            kind = self.slot[1]
            if self.shared() and self.listed:
                self.slot = [self.listed[0][0], kind]
            else:
                self.slot = None
                if kind in (ReservationType.WERO, ReservationType.EARO):
                    self.attend([n for n, _ in self.listed], Attention.RESERVATIONS_RELEASED)
        return Outcome.DONE

    def register_and_ignore(self, nexus, key, sa_key, kind) -> Outcome:
        return self.register(nexus, 0, sa_key, kind, ignore=True)

    def reserve(self, nexus, key, sa_key, kind) -> Outcome:
        if self.key_of(nexus) is None:
            return Outcome.UNKNOWN
        if key != self.key_of(nexus):
            return Outcome.CONFLICT
        if self.slot is None:
            self.slot = [nexus, kind]
            return Outcome.DONE
        if (self.shared() or self.slot[0] == nexus) and self.slot[1] is kind:
            return Outcome.DONE
        return Outcome.CONFLICT

    def release(self, nexus, key, sa_key, kind) -> Outcome:
        if self.key_of(nexus) is None:
            return Outcome.UNKNOWN
        if self.slot is None or not (self.shared() or self.slot[0] == nexus):
            return Outcome.DONE
        if key != self.key_of(nexus) or kind is not self.slot[1]:
            return Outcome.CONFLICT
        self.slot = None
        if kind not in (ReservationType.WE, ReservationType.EA):
            others = [n for n, _ in self.listed if n != nexus]
            self.attend(others, Attention.RESERVATIONS_RELEASED)
        return Outcome.DONE

    def clear(self, nexus, key, sa_key, kind) -> Outcome:
        if self.key_of(nexus) is None:
            return Outcome.UNKNOWN
        if key != self.key_of(nexus):
            return Outcome.CONFLICT
        self.attend([n for n, _ in self.listed if n != nexus], Attention.RESERVATIONS_PREEMPTED)
        self.listed = []
        self.slot = None
        self.generation += 1
        return Outcome.DONE

    def preempt(self, nexus, key, sa_key, kind) -> Outcome:
        if kind is None:
            return Outcome.UNKNOWN
        if self.key_of(nexus) is None or key != self.key_of(nexus):
            return Outcome.CONFLICT
        if not self.shared() and not sa_key:
            return Outcome.UNKNOWN
        slot_key = self.slot_key()
        if self.slot is None or slot_key != sa_key:
            every = self.shared() and not sa_key
            hit = [n for n, k in self.listed if every or k == sa_key]
            if sa_key and not hit:
                return Outcome.CONFLICT
            if self.shared():
                hit = [n for n in hit if n != nexus]
            for name in hit:
                self.drop(name)
            self.attend([n for n in hit if n != nexus], Attention.REGISTRATIONS_PREEMPTED)
            if every:
                self.slot = [nexus, kind]
        else:
            hit = [n for n, k in self.listed if k == sa_key and n != nexus]
            for name in hit:
                self.drop(name)
            self.attend(hit, Attention.REGISTRATIONS_PREEMPTED)
            if self.slot[1] is not kind:
                others = [n for n, _ in self.listed if n != nexus]
                self.attend(others, Attention.RESERVATIONS_RELEASED)
            self.slot = [nexus, kind]
        self.generation += 1
        return Outcome.DONE

    def slot_key(self) -> int | None:
        """The key whose PREEMPT takes the reservation over."""
        return None if self.slot is None else self.key_of(self.slot[0])

    def legacy(self, nexus: str, *, release: bool) -> Outcome:
        mine = self.key_of(nexus)
        if mine is not None and self.slot is not None and self.slot[0] == nexus:
            return Outcome.DONE
        if self.listed:
            return Outcome.CONFLICT
        if release:
            if self.spc2 == nexus:
                self.spc2 = None
            return Outcome.DONE
        if self.spc2 not in (None, nexus):
            return Outcome.CONFLICT
        self.spc2 = nexus
        return Outcome.DONE

    def power_loss(self) -> None:
        self.generation = 0
        self.listed = []
        self.slot = None
        self.spc2 = None
        self.attentions = [(nexus, Attention.RESET) for nexus in self.nexuses]

    def take_attentions(self, nexus: str) -> Attention | None:
        """The one unit attention that is reported; all others of the nexus are dropped."""
        mine = [attention for name, attention in self.attentions if name == nexus]
        self.attentions = [each for each in self.attentions if each[0] != nexus]
        return mine[0] if mine else None

    def drop(self, nexus: str) -> None:
        self.listed = [entry for entry in self.listed if entry[0] != nexus]

    def attend(self, nexuses: list[str], attention: Attention) -> None:
        for nexus in nexuses:
            if (nexus, attention) not in self.attentions:
                self.attentions.append((nexus, attention))


class OtherTarget(ReferenceTarget):
    """A target that differs from LIO where targets differ, as chance has it.

    held_key: the key by which READ RESERVATION names the holder, and that a PREEMPT must name to
    take over; where it does not follow it is the one that the holder reserved with.  turns: READ
    FULL STATUS has its numbers in the other byte order.
    """

    def __init__(self, nexuses: list[str], random: Random) -> None:
        super().__init__(nexuses)
        self.follows = random.random() < 0.5
        self.clears = random.random() < 0.5
        self.unregister_adds = random.randrange(2)
        self.held_key: int | None = None
        self.turns = random.random() < 0.5

    def full_status(self) -> tuple[FullStatus, ...]:
        told = super().full_status()
        if not self.turns:
            return told
        return tuple(
            replace(
                each,
                key=int.from_bytes(each.key.to_bytes(8, "big"), "little"),
                relative_target_port=each.relative_target_port << 8,
            )
            for each in told
        )

    def slot_key(self) -> int | None:
        return super().slot_key() if self.shared() else self.slot and self.held_key

    def reservation(self) -> tuple | None:
        told = super().reservation()
        return told if told is None or self.shared() else (told[0], self.held_key, told[2])

    def register(self, nexus, key, sa_key, kind, ignore=False) -> Outcome:
        registered = self.key_of(nexus) is not None
        outcome = super().register(nexus, key, sa_key, kind, ignore)
        if outcome is Outcome.DONE and registered and not sa_key:
            self.generation += self.unregister_adds
        if outcome is Outcome.DONE and self.follows and self.slot and self.slot[0] == nexus:
            self.held_key = sa_key
        return outcome

    def reserve(self, nexus, key, sa_key, kind) -> Outcome:
        free = self.slot is None
        outcome = super().reserve(nexus, key, sa_key, kind)
        if free and self.slot is not None:
            self.held_key = key
        return outcome

    def preempt(self, nexus, key, sa_key, kind) -> Outcome:
        own = self.slot is not None and self.slot[0] == nexus and self.slot_key() == sa_key
        if own and key == self.key_of(nexus) and kind and not self.shared() and not self.clears:
            self.slot, self.held_key = [nexus, kind], key
            self.generation += 1
            return Outcome.DONE
        before = self.slot
        outcome = super().preempt(nexus, key, sa_key, kind)
        if self.slot is not before:
            self.held_key = key
        elif self.slot is not None and self.key_of(self.slot[0]) is None:
            # It was removed by a key that is not the one it holds by.
            self.slot = None
        return outcome
