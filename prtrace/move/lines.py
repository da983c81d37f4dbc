"""What a host's journal says of one move of one logical unit (pure).

A registration is proof, or it is in question.  The key on a nexus is verified if it was there
before the move, or if a look after its REGISTER found another verified one.  The line "in
question" is on disk before the REGISTER goes out, and goes only after that look or after the
registration was withdrawn.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from prtrace.errors import MalformedError
from prtrace.model import Nexus, ReservationType
from prtrace.move.savefile import flag


class Worth(enum.Enum):
    """What a registration that this move made is worth."""

    IN_QUESTION = "in question"
    VERIFIED = "verified"


@dataclass(frozen=True, slots=True)
class Lines:
    """The journal's lines of one move.

    nexuses: the standing of what this move registered here, by nexus.
    prepared: something was verified here once; it stays true when the registration goes.
    counted: load registered without prepare, by the file's PRGENERATION.
    preempted: a PREEMPT of this move went out.
    told: commit, or the abort on the source, has said that the guest may run here, or late commit
    that it is committed; and the key has been here at every look since.
    released: the type that the source released for the destination to take.
    absent: the abort found the key nowhere on the source, or only together with one in question.
    What appears there since is in question, whoever registered it: multipathd does so where
    another nexus has the key, and that may be the one that this move has revived.
    """

    nexuses: tuple[tuple[Nexus, Worth], ...] = ()
    prepared: bool = False
    counted: bool = False
    preempted: bool = False
    told: bool = False
    released: ReservationType | None = None
    absent: bool = False

    def standing(self, nexus: Nexus) -> Worth | None:
        """The standing of a nexus, None without a line."""
        return dict(self.nexuses).get(nexus)

    @property
    def listed(self) -> tuple[Nexus, ...]:
        """The nexuses that have a line."""
        return tuple(nexus for nexus, _ in self.nexuses)

    @property
    def in_question(self) -> tuple[Nexus, ...]:
        """The nexuses whose registration is in question."""
        return tuple(nexus for nexus, each in self.nexuses if each is Worth.IN_QUESTION)

    def with_line(self, nexus: Nexus, standing: Worth) -> Self:
        """The lines with one more, or one changed."""
        lines = {**dict(self.nexuses), nexus: standing}
        prepared = self.prepared or standing is Worth.VERIFIED
        return replace(
            self, nexuses=tuple(sorted(lines.items(), key=lambda each: each[0])), prepared=prepared
        )

    def only(self, registered: Iterable[Nexus]) -> Self:
        """The lines of nexuses that a look found registered: the others are forgotten.

        What was told of the guest ends where none is left: who took the key away, or the guest
        itself, came after it, and a key that is registered since proves nothing of before.
        """
        found = set(registered)
        told = self.told and bool(found)
        kept = tuple(each for each in self.nexuses if each[0] in found)
        return replace(self, nexuses=kept, told=told)

    def renamed(self, names: Mapping[Nexus, Nexus]) -> Self:
        """The lines with other names for those nexuses that names has."""
        lines = ((names.get(nexus, nexus), each) for nexus, each in self.nexuses)
        return replace(self, nexuses=tuple(sorted(lines, key=lambda each: each[0])))

    def to_json(self) -> dict[str, Any]:
        """For the journal."""
        return {
            "nexuses": {nexus: each.value for nexus, each in self.nexuses},
            "prepared": self.prepared,
            "counted": self.counted,
            "preempted": self.preempted,
            "told": self.told,
            "released": None if self.released is None else self.released.name,
            "absent": self.absent,
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """Take back what to_json() gave; MalformedError where it is something else."""
        try:
            released = given["released"]
            return cls(
                nexuses=tuple(
                    (str(nexus), Worth(each)) for nexus, each in sorted(given["nexuses"].items())
                ),
                prepared=flag(given["prepared"]),
                counted=flag(given["counted"]),
                preempted=flag(given["preempted"]),
                told=flag(given["told"]),
                released=None if released is None else ReservationType[released],
                absent=flag(given.get("absent", False)),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MalformedError("journal", f"{type(error).__name__}: {error}"[:200]) from None
