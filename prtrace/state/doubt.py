"""Doubts: which facts may be wrong, kept few, and the oldest first.

A doubt goes away by a reading of the device, or by a command whose effect leaves no room
(CLEAR); never by a command that merely fits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from prtrace.state.unit import Doubt, Fact

MAX_PER_FACT = 8
"""Doubts kept per fact; the oldest say where the trouble began, so they are the ones kept."""

ALL = frozenset(Fact)
NONE: frozenset[Fact] = frozenset()


def added(
    doubts: tuple[Doubt, ...], facts: Iterable[Fact], reason: str, since: int
) -> tuple[Doubt, ...]:
    """Return doubts with one more for each of facts, unless there already or one too many."""
    wanted = frozenset(facts)
    for fact in Fact:
        if fact not in wanted:
            continue
        same = [doubt for doubt in doubts if doubt.what is fact]
        if len(same) < MAX_PER_FACT and all(doubt.reason != reason for doubt in same):
            doubts = (*doubts, Doubt(fact, reason, since))
    return doubts


def cleared(
    doubts: tuple[Doubt, ...], facts: Iterable[Fact], lasting: Collection[str] = ()
) -> tuple[Doubt, ...]:
    """Return doubts without those about facts; those for the lasting reasons stay."""
    gone = frozenset(facts)
    return tuple(doubt for doubt in doubts if doubt.what not in gone or doubt.reason in lasting)


def named(facts: Iterable[Fact]) -> str:
    """Return facts as text, in one order: "registrations, generation"."""
    wanted = frozenset(facts)
    return ", ".join(fact.value for fact in Fact if fact in wanted)
