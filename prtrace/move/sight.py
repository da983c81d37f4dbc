"""What one look at the device means for a move, seen from one of its sides (pure).

Role, type and holder come from here, never from the file.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from prtrace.model import Nexus, ReservationType
from prtrace.move.reading import Reading


class Held(enum.Enum):
    """Who holds the reservation, seen from the side that looks."""

    HERE = "this side"
    THERE = "the other side"
    ELSE = "another node, or all registrants"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Sight:
    """One atomic look.

    mine: the key of each of this side's nexuses that has one.  there: the guest's key is
    registered on the other side; for the source that is everywhere else, for it does not know
    the destination's nexuses.  rekeyed: a nexus of the source has another key; False on the
    source.  third: the guest's key is registered where neither side is, and no leftover is known;
    the source cannot tell.  unclear: the other side may not have it, because what an earlier move
    left may be all that there is of it.  repeated: the reply names a nexus twice, and nothing here
    is to be relied on.  mixed: the target may take another nexus for one of the move's.
    """

    generation: int
    mine: tuple[tuple[Nexus, int], ...]
    there: bool
    rekeyed: bool
    third: bool
    type: ReservationType | None
    held: Held
    blind: bool = False
    unclear: bool = False
    repeated: bool = False
    mixed: bool = False

    def with_key(self, key: int) -> tuple[Nexus, ...]:
        """This side's nexuses that have key."""
        return tuple(nexus for nexus, found in self.mine if found == key)

    def free(self, nexus: Nexus) -> bool:
        """Whether a nexus of this side has no key."""
        return all(nexus != found for found, _ in self.mine)


@dataclass(frozen=True, slots=True)
class Viewpoint:
    """What a side must know of a move to make sense of a look.

    source: this is the source.  registered: how many of the source's nexuses had the key when
    the file was saved.  leftovers: nexuses that had the key since an earlier move when the
    file was saved, as readings name them.  One of them can give the key up late and be
    registered anew by this move: the name does not tell what it has the key from.
    """

    key: int
    source: bool
    registered: int = 1
    leftovers: frozenset[Nexus] = frozenset()


def sight_of(view: Viewpoint, reading: Reading) -> Sight:
    """What a reading says that tells nexuses apart."""
    mine = tuple(sorted(reading.own.items(), key=lambda each: each[0]))
    there = third = another = False
    held = _held_here(reading)
    for entry in reading.others:
        if view.source:
            there |= entry.key == view.key
            if entry.holder and held is None and entry.key == view.key:
                held = Held.THERE
        elif entry.other_side:
            there |= entry.key == view.key
            another |= entry.key != view.key
            if entry.holder and held is None:
                held = Held.THERE
        elif entry.key == view.key and entry.nexus not in view.leftovers:
            third = True
    if held is None:
        held = Held.ELSE
    elsewhere = {entry.nexus for entry in reading.others if entry.key == view.key}
    return Sight(
        reading.generation,
        mine,
        there,
        another,
        third,
        reading.type,
        held,
        unclear=view.source and elsewhere <= view.leftovers,
        repeated=bool(reading.repeated),
        mixed=bool(reading.mixed),
    )


def blind_sight(
    view: Viewpoint, reading: Reading, touched: Mapping[Nexus, bool], *, held_before: bool
) -> Sight:
    """What a reading of keys says, together with touches of this side's nexuses.

    touched: whether REGISTER of the guest's key over itself was GOOD, which only a nexus with
    that key answers.  held_before: this side is taken for the holder where both sides have the
    key; the device does not tell, the journal does.
    """
    mine = tuple((nexus, view.key) for nexus, good in sorted(touched.items()) if good)
    elsewhere = sum(entry.key == view.key for entry in reading.others) - len(mine)
    held = _held_here(reading)
    if held is None:
        if reading.holder_key != view.key:
            held = Held.ELSE
        elif mine and elsewhere > 0:
            held = Held.HERE if held_before else Held.THERE
        else:
            held = Held.HERE if mine else Held.THERE
    left = len(view.leftovers)
    # Of fewer keys than there were, the source's may be the ones that are gone.
    enough = left + 1 if view.source else left + view.registered
    most = view.registered + left
    return Sight(
        reading.generation,
        mine,
        there=elsewhere > 0,
        rekeyed=False,
        third=elsewhere > most,
        type=reading.type,
        held=held,
        blind=True,
        unclear=bool(left) and 0 < elsewhere < enough,
        mixed=bool(reading.mixed),
    )


def _held_here(reading: Reading) -> Held | None:
    """The holder where the reservation itself tells; None where the registrations must."""
    if reading.type is None:
        return Held.NOBODY
    if reading.type.all_registrants:
        return Held.ELSE
    return Held.HERE if reading.own_holds else None
