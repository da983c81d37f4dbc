"""Commands that overlap: two whose [start_ns, done_ns] spans meet have no known order.

The device took them one after the other, but which one first cannot be seen from here.  That
does no harm where the result is the same either way: REGISTERs of different nexuses that do
not touch the reservation.  Everywhere else the facts they touch are in doubt.  Commands of
one nexus are treated alike: two processes may share it, and a target may take their
commands in any order.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from prtrace.model import REGISTERS, Action, Observation, PrOut
from prtrace.state.doubt import ALL
from prtrace.state.draft import Draft
from prtrace.state.unit import Fact, Settled

_RESERVATION = frozenset({Fact.RESERVATION})


class Order(enum.Enum):
    """How a command lies to those that are part of the state already."""

    AFTER = "after"
    """It was submitted when all of them were complete."""
    COMMUTES = "commutes"
    """It overlaps some of them, and the result does not depend on the order."""
    UNKNOWN = "unknown"
    """It overlaps some of them, and the result may depend on the order."""


class Placed(NamedTuple):
    """A command's place: its order, and what is in doubt for it."""

    order: Order
    doubtful: frozenset[Fact] = frozenset()
    other: str = ""
    """A nexus whose command it overlaps."""


AFTER = Placed(Order.AFTER)


def overlaps(draft: Draft, seen: Observation) -> bool:
    """Whether seen was submitted before the newest change was complete; unknown is no."""
    return seen.start_ns != 0 and seen.start_ns < draft.settled_ns


def another_overlaps(draft: Draft, reply: Observation) -> bool:
    """Whether a command other than reply's own overlaps, as overlaps() says.

    A long reply is observed twice, as far as a record holds and whole: one command, one span.
    """
    if not overlaps(draft, reply):
        return False
    own = reply.nexus, reply.done_ns
    met = (each for each in draft.recent if each.done_ns > reply.start_ns)
    # Before the floor only times are remembered, and nobody's names.
    return reply.start_ns < draft.floor_ns or any((e.nexus, e.done_ns) != own for e in met)


def place(draft: Draft, seen: PrOut) -> Placed:
    """Return where seen lies among the commands that are part of draft."""
    if not overlaps(draft, seen):
        return AFTER
    if seen.start_ns < draft.floor_ns:
        return Placed(Order.UNKNOWN, ALL, draft.settled_by)
    met = [each for each in draft.recent if each.done_ns > seen.start_ns]
    if commutes(draft, seen) and all(_swaps(each, seen) for each in met):
        return Placed(Order.COMMUTES)
    touched = could_touch(seen.action).union(*(each.touched for each in met))
    return Placed(Order.UNKNOWN, touched, met[-1].nexus if met else draft.settled_by)


def could_touch(action: Action) -> frozenset[Fact]:
    """Return the facts that action may change, whatever the state."""
    return _RESERVATION if action in (Action.RESERVE, Action.RELEASE) else ALL


def commutes(draft: Draft, seen: PrOut) -> bool:
    """Whether seen is a REGISTER that touches no registration but its own and no reservation.

    An unregistration under an all-registrants reservation is none: whether it leaves somebody
    behind to hold the reservation depends on the others.
    """
    if seen.action not in REGISTERS or seen.spec_i_pt or seen.all_tg_pt:
        return False
    if not draft.known(Fact.RESERVATION):
        return False
    if any(each.maybe_local for each in draft.registrations.values()):
        return False
    held = draft.reservation
    if held is None:
        return True
    if held.type.all_registrants:
        return seen.sa_key != 0
    return held.holder not in (None, seen.nexus)


def _swaps(settled: Settled, seen: PrOut) -> bool:
    return settled.commutes and settled.nexus != seen.nexus
