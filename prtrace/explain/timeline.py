"""The events of one unit that one host recorded, each with the state before and after (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prtrace.model import (
    AnyObservation,
    FullStatusRead,
    KeysRead,
    LocalNexus,
    PathsSeen,
    ReservationRead,
)
from prtrace.state.apply import apply, new_state
from prtrace.state.event import Command, Event
from prtrace.state.fold import fold
from prtrace.state.unit import LuState


@dataclass(frozen=True, slots=True)
class Step:
    """One event and what it changed."""

    event: Event
    """With the words that its bytes give."""
    before: LuState
    after: LuState
    seen: tuple[AnyObservation, ...]

    @property
    def renames(self) -> bool:
        """Whether paths came or went: a nexus has the name of its ports without its path."""
        return any(isinstance(seen, PathsSeen) for seen in self.seen)

    @property
    def told(self) -> int | None:
        """The PRGENERATION that a reply had, None where the event is no reply with one."""
        for each in self.seen:
            if isinstance(each, FullStatusRead | KeysRead | ReservationRead):
                return each.generation
        return None


def begun(event: Event, paths: tuple[LocalNexus, ...]) -> LuState:
    """What is known of a unit before its first event, where it had these paths all the time."""
    fresh = new_state(event.lu, event.target, event.time)
    if not paths:
        return fresh
    return apply(fresh, PathsSeen(lu=event.lu, nexus="", time=event.time, paths=paths)).state


def timeline(events: Iterable[Event], lu: str, paths: tuple[LocalNexus, ...] = ()) -> list[Step]:
    """The steps of unit lu, in the order of the recording.

    paths: the unit's while it was recorded, where no event tells them (Recording.paths_of).
    """
    steps: list[Step] = []
    state: LuState | None = None
    for event in events:
        if event.lu != lu:
            continue
        if state is None and not steps:
            state = begun(event, paths)
        folded = fold(state, event)
        if folded.forgotten:
            state = None
        before = state or new_state(event.lu, event.target, event.time)
        if folded.state is None:
            if event.command is Command.UNIT_ATTENTION:
                # One of which the log does not tell what it says: a hint, and no observation.
                steps.append(Step(folded.event, before, before, ()))
            continue
        steps.append(Step(folded.event, before, folded.state, folded.observations))
        state = folded.state
    return steps
