"""What the state says a command must have been answered, against what it was answered.

Where a state that is not in doubt rules the answer out, the state was wrong: a command went
unseen, or another host's was never visible.  Nothing is predicted from facts in doubt, from
commands that overlap, or where targets are not known to agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from prtrace.model import Action, Nexus, Observation, Outcome, PrOut
from prtrace.state.binding import may_be_own
from prtrace.state.doubt import NONE
from prtrace.state.draft import Draft
from prtrace.state.unit import Fact, Registration

_REGISTRATIONS = frozenset({Fact.REGISTRATIONS})
_BOTH = frozenset({Fact.REGISTRATIONS, Fact.RESERVATION})


class _Forecast(NamedTuple):
    """Whether the command is carried out, and the facts which that rests on."""

    done: bool
    rests_on: frozenset[Fact]


def contradicted(draft: Draft, seen: PrOut) -> frozenset[Fact]:
    """Return the facts that seen's outcome (DONE or CONFLICT) shows to be wrong."""
    forecast = _forecast(draft, seen)
    if forecast is None or forecast.done is (seen.outcome is Outcome.DONE):
        return NONE
    # Registrations that changed unseen have changed PRGENERATION, too.
    if Fact.REGISTRATIONS in forecast.rests_on:
        return forecast.rests_on | {Fact.GENERATION}
    return forecast.rests_on


def unknown_nexus(draft: Draft, seen: Observation) -> bool:
    """Whether the sender may be one of the registrations that are not matched to a nexus."""
    return seen.nexus not in draft.registrations and (
        bool(fitting(draft, seen.nexus)) or bool(draft.unattributed)
    )


def fitting(draft: Draft, nexus: Nexus) -> list[Registration]:
    """The registrations of elsewhere, as far as is known, that may be nexus's own."""
    path = draft.paths.get(nexus)
    return may_be_own(draft.registrations.values(), None if path is None else path.local)


def _forecast(draft: Draft, seen: PrOut) -> _Forecast | None:
    if draft.doubted(Fact.REGISTRATIONS) or unknown_nexus(draft, seen):
        return None
    own = draft.registrations.get(seen.nexus)
    match seen.action:
        case Action.REGISTER:
            if seen.spec_i_pt or seen.all_tg_pt:
                return None
            key = 0 if own is None else own.key
            return _Forecast(key == seen.key, _REGISTRATIONS)
        case Action.REGISTER_AND_IGNORE:
            return None if seen.all_tg_pt else _Forecast(True, _REGISTRATIONS)
        case Action.REGISTER_AND_MOVE | Action.REPLACE_LOST:
            return None
        case Action.RELEASE:
            if own is None:
                return _Forecast(False, _REGISTRATIONS)
            return _release(draft, seen, own)
        case Action.RESERVE | Action.CLEAR | Action.PREEMPT | Action.PREEMPT_AND_ABORT:
            if own is None or own.key != seen.key:
                return _Forecast(False, _REGISTRATIONS)
    if seen.action is Action.RESERVE:
        return _reserve(draft, seen)
    if seen.action is Action.CLEAR:
        return _Forecast(True, _REGISTRATIONS)
    return _preempt(draft, seen, draft.registrations)


def _reserve(draft: Draft, seen: PrOut) -> _Forecast | None:
    if not draft.known(Fact.RESERVATION) or seen.type is None:
        return None
    held = draft.reservation
    if held is None:
        return _Forecast(True, _BOTH)
    if held.holder is None and not held.type.all_registrants:
        return None
    holds = held.type.all_registrants or held.holder == seen.nexus
    return _Forecast(holds and held.type is seen.type, _BOTH)


def _release(draft: Draft, seen: PrOut, own: Registration) -> _Forecast | None:
    held = draft.reservation
    if not draft.known(Fact.RESERVATION):
        return None
    right_key = own.key == seen.key
    if held is None:
        return _Forecast(True, _BOTH) if right_key else None
    if held.holder is None and not held.type.all_registrants:
        return None
    if held.type.all_registrants or held.holder == seen.nexus:
        return _Forecast(right_key and held.type is seen.type, _BOTH)
    if right_key or draft.profile.release_checks_key is False:
        return _Forecast(True, _BOTH)
    return None if draft.profile.release_checks_key is None else _Forecast(False, _BOTH)


def _preempt(
    draft: Draft, seen: PrOut, registrations: Mapping[str, Registration]
) -> _Forecast | None:
    """Forecast refusals only: a PREEMPT that conflicts puts everything in doubt anyway."""
    if seen.sa_key == 0:
        held = draft.reservation
        shared = held is not None and held.type.all_registrants
        if draft.profile.zero_is_refused and draft.known(Fact.RESERVATION) and not shared:
            return _Forecast(False, frozenset({Fact.RESERVATION}))
        return None
    if not draft.profile.unmatched_conflicts:
        return None
    if seen.sa_key in draft.unattributed or any(
        each.key == seen.sa_key for each in registrations.values()
    ):
        return None
    return _Forecast(False, _REGISTRATIONS)
