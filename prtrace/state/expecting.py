"""Unit attentions that commands were seen to raise: whose they are, and when they are over.

A unit attention tells of a command that went unseen, unless a command that was seen raised it.
So an expectation must not outlive what it rests on.  It ends with the unit attention, with any
other answer to a command that was submitted after the cause (SAM-6 5.14: such an answer is not
given while a unit attention waits), with a reading, and with time.
"""

from __future__ import annotations

from prtrace.model import Attention, AttentionSeen, Nexus, Observation
from prtrace.state.binding import initiator_name
from prtrace.state.draft import Draft
from prtrace.state.unit import Expected

LIMIT_NS = 60_000_000_000
"""How long a unit attention is expected.  One that comes later costs a reading, no more."""

_ALONE = (Attention.RESERVATIONS_PREEMPTED, Attention.REGISTRATIONS_PREEMPTED)
"""These say that the nexus is not registered any more, so that no second one can be merged into
the first: the nexus would have to register in between, and the answer ends the expectation.
Where several nexuses share one, it may stand for each of them: another host may have preempted
one while a command of this host preempted the other."""


def take(draft: Draft, seen: AttentionSeen) -> bool:
    """Note that a unit attention was delivered; whether a command that was seen explains it."""
    explained = False
    together = sharing(draft, seen.nexus)
    for nexus in together:
        left = []
        for each in draft.expected.get(nexus, ()):
            fits = each.attention is seen.attention and _in_time(each, seen)
            if fits and not explained:
                explained = seen.count == 1
            elif not draft.profile.attention_clears_all:
                left.append(each)
        _put(draft, nexus, tuple(left))
    return explained and len(together) == 1 and seen.attention in _ALONE


def answered(draft: Draft, seen: Observation) -> None:
    """Note an answer to seen's command that was no unit attention: none waits on its nexus."""
    for nexus in sharing(draft, seen.nexus):
        waiting = draft.expected.get(nexus, ())
        _put(draft, nexus, tuple(each for each in waiting if each.since_ns > seen.start_ns))


def sharing(draft: Draft, nexus: Nexus) -> tuple[Nexus, ...]:
    """The nexuses of this host that share nexus' unit attentions, itself among them.

    LIO keeps them per node ACL and LUN (drivers/target/target_core_ua.c), and all sessions of
    one initiator name with one target portal group have the same.
    """
    path = draft.paths.get(nexus)
    if path is None or not draft.profile.attentions_shared or not path.local.initiator_port:
        return (nexus,)
    own = path.local
    return tuple(
        other
        for other, each in draft.paths.items()
        if other == nexus
        or (
            initiator_name(each.local.initiator_port) == initiator_name(own.initiator_port)
            and each.local.relative_target_port == own.relative_target_port
            and each.local.target_port == own.target_port
        )
    )


def _in_time(each: Expected, seen: AttentionSeen) -> bool:
    """Whether the command that met the unit attention was submitted after the cause, and soon."""
    return 0 <= seen.start_ns - each.since_ns <= LIMIT_NS


def _put(draft: Draft, nexus: Nexus, waiting: tuple[Expected, ...]) -> None:
    if waiting:
        draft.expected[nexus] = waiting
    else:
        draft.expected.pop(nexus, None)
