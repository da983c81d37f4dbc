"""One step of the fold that live tracking and replay both are: an event and a state in,
the event with its words and the next state out (pure).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from prtrace.model import AnyObservation
from prtrace.state.apply import apply, new_state
from prtrace.state.decode import decode
from prtrace.state.event import Command, Event
from prtrace.state.refusal import refusal
from prtrace.state.unit import LuState

FORGOTTEN: Final = "forgotten: the unit is not on this host for long"


class Folded(NamedTuple):
    """What an event led to.

    event: with the words, the effect and the reason that its bytes give.  state: None where
    the event tells nothing about the unit.
    """

    event: Event
    state: LuState | None
    observations: tuple[AnyObservation, ...]
    forgotten: bool = False
    """Nothing is known of the unit any more: it is as if it had never been seen."""


def fold(state: LuState | None, event: Event) -> Folded:
    """Apply event to the state of its unit; None is a unit that was never seen."""
    event, observations = decode(event)
    if event.command is Command.FORGOTTEN:
        return Folded(event._replace(effect=FORGOTTEN, reason=""), None, (), forgotten=True)
    if not observations:
        return Folded(event._replace(effect="", reason=""), None, ())
    if state is None:
        state = new_state(event.lu, event.target, event.time)
    effects, reasons = [], []
    for seen in observations:
        reasons.append(refusal(state, seen, event.cdb))
        change = apply(state, seen)
        state = change.state
        effects.append(change.effect)
    reason = next(filter(None, reasons), "")
    return Folded(event._replace(effect="; ".join(effects), reason=reason), state, observations)
