"""The effect of PREEMPT and PREEMPT AND ABORT (SPC-6 5.14.11.4), which has many cases.

sa_key names whom to remove.  What it means depends on the reservation:
  held by one, sa_key is the holder's key     take over: remove, and reserve for the sender
  held by all registrants, sa_key 0           take over, removing everybody else
  otherwise                                   remove the registrations, leave the reservation
and the sender's own registration survives or not, as the target likes (see quirks.py).
"""

from __future__ import annotations

import enum
from collections.abc import Collection

from prtrace.model import Attention, Nexus, PrOut
from prtrace.state.draft import Draft
from prtrace.state.registering import leave, prove
from prtrace.state.unit import Fact, Registration, Reservation, Source


class _Path(enum.Enum):
    """What a PREEMPT does to the reservation."""

    REMOVE = "remove registrations"
    TAKE_OVER = "take the reservation over"
    EITHER = "not known which"


def preempt(draft: Draft, seen: PrOut) -> None:
    """Apply a PREEMPT or PREEMPT AND ABORT that was done."""
    prove(draft, seen.nexus, seen.key)
    before = draft.counted()
    most = None if before is None else 1 + before
    if seen.sa_key == 0:
        _preempt_all(draft, seen)
    else:
        _preempt_key(draft, seen)
    exact = draft.profile.counts_removed is False
    draft.advance(
        1 if exact else 0,
        1 if exact else most,
        f"not known by how much {seen.action.value} on {seen.nexus} raised it",
    )


def _preempt_all(draft: Draft, seen: PrOut) -> None:
    """sa_key 0: legal only while all registrants hold, and then everybody else goes."""
    held = draft.reservation
    shared = held is not None and held.type.all_registrants
    certain = shared and draft.known(Fact.RESERVATION)
    if not draft.profile.zero_is_refused and not certain:
        draft.anchor = None
        draft.doubt(Fact, f"{seen.action.value} of key 0 on {seen.nexus}")
        return
    _remove(draft, seen, [nexus for nexus in draft.registrations if nexus != seen.nexus])
    draft.unattributed = ()
    draft.ordered = draft.known(Fact.REGISTRATIONS)
    _hold(draft, seen)


def _preempt_key(draft: Draft, seen: PrOut) -> None:
    matching = [each for each in draft.registrations.values() if each.key == seen.sa_key]
    held = draft.reservation
    path = _path(draft, seen, matching)
    gone = [each.nexus for each in matching if each.nexus != seen.nexus]
    own = seen.sa_key == seen.key
    # Where the key by which it is held is not known, or in doubt, it may be the one preempted.
    stale = not draft.profile.holder_key_follows and (
        path is _Path.EITHER or not draft.known(Fact.RESERVATION)
    )
    self_preempt = (
        (path is _Path.TAKE_OVER or stale)
        and held is not None
        and held.holder in (None, seen.nexus)
    )
    others = gone or seen.sa_key in draft.unattributed
    if self_preempt and others and not draft.profile.self_preempt_clears:
        draft.anchor = None
        draft.doubt(
            (Fact.REGISTRATIONS,),
            f"not known whether {seen.nexus} removed the others that share its key",
        )
        gone = []
    certain = path is _Path.TAKE_OVER and draft.known(Fact.RESERVATION)
    if own and not certain and _sender_removed(draft, seen):
        gone.append(seen.nexus)
    _remove(draft, seen, gone)
    unknown = seen.sa_key in draft.unattributed
    if path is _Path.REMOVE and held is not None and _may_be_gone(draft, held, gone, unknown):
        draft.doubt((Fact.RESERVATION,), f"{seen.nexus} may have preempted the holder")
    if unknown:
        draft.unattributed = tuple(key for key in draft.unattributed if key != seen.sa_key)
    match path:
        case _Path.TAKE_OVER:
            _hold(draft, seen)
        case _Path.EITHER:
            if held is not None and held.type.all_registrants and seen.type is held.type:
                draft.reservation = _without_designated(held)
            else:
                draft.doubt(
                    (Fact.RESERVATION,),
                    f"not known whether {seen.nexus} preempted the holder",
                )
        case _Path.REMOVE:
            if held is not None and held.type.all_registrants and not draft.registrations:
                leave(draft, held, seen.nexus)
            if not gone:
                draft.say("none: nobody was removed")


def _path(draft: Draft, seen: PrOut, matching: Collection[Registration]) -> _Path:
    """Return what a PREEMPT of a key other than 0 does to the reservation."""
    held = draft.reservation
    if held is None:
        return _Path.REMOVE
    if not held.type.all_registrants:
        if held.key is None:
            return _Path.EITHER
        return _Path.TAKE_OVER if held.key == seen.sa_key else _Path.REMOVE
    if draft.profile.designates is False:
        return _Path.REMOVE
    if not draft.known(Fact.REGISTRATIONS):
        return _Path.EITHER
    if draft.profile.designates and held.designated in draft.registrations:
        hit = draft.registrations[held.designated].key == seen.sa_key
        return _Path.TAKE_OVER if hit else _Path.REMOVE
    if not matching:
        return _Path.REMOVE
    if draft.profile.designates and len(matching) == len(draft.registrations):
        return _Path.TAKE_OVER
    return _Path.EITHER


def _may_be_gone(draft: Draft, held: Reservation, gone: Collection[Nexus], unknown: bool) -> bool:
    """Whether registrations went with the holder's among them, although not for its key.

    gone: of these nexuses.  unknown: of nexuses that are not known, too.
    """
    if held.type.all_registrants:
        return False
    if held.holder is not None:
        return held.holder in gone
    return not draft.profile.holder_key_follows and (bool(gone) or unknown)


def _sender_removed(draft: Draft, seen: PrOut) -> bool:
    """Whether a PREEMPT of the sender's own key that takes nothing over removes the sender."""
    profile = draft.profile
    held = draft.reservation
    if not draft.known(Fact.RESERVATION):
        cases = {profile.own_key_unreserved, profile.own_key_reserved, profile.own_key_shared}
        removes = cases.pop() if len(cases) == 1 else None
    elif held is None:
        removes = profile.own_key_unreserved
    elif held.type.all_registrants:
        removes = profile.own_key_shared
    else:
        removes = profile.own_key_reserved
    if removes is None:
        draft.anchor = None
        why = f"not known whether {seen.nexus} removed itself by preempting its own key"
        draft.doubt((Fact.REGISTRATIONS,), why)
        if held is not None:
            draft.doubt((Fact.RESERVATION,), why)
    return bool(removes)


def _remove(draft: Draft, seen: PrOut, gone: Collection[Nexus]) -> None:
    if not gone:
        return
    draft.expect(gone, Attention.REGISTRATIONS_PREEMPTED)
    for nexus in gone:
        del draft.registrations[nexus]
    noun = "registration" if len(gone) == 1 else "registrations"
    draft.say(f"preempted {len(gone)} {noun}")


def _hold(draft: Draft, seen: PrOut) -> None:
    """Make the sender the holder, with the command's type."""
    held = draft.reservation
    if seen.type is None:
        draft.doubt((Fact.RESERVATION,), f"PREEMPT on {seen.nexus} with a type not known here")
        return
    if held is not None and held.type is not seen.type and draft.known(Fact.RESERVATION):
        draft.expect(tuple(draft.registrations), Attention.RESERVATIONS_RELEASED)
    shared = seen.type.all_registrants
    stores_key_zero = held is not None and held.type.all_registrants and not shared
    draft.reservation = Reservation(
        seen.type,
        0,
        holder=None if shared else seen.nexus,
        key=0 if shared else seen.key,
        source=Source.OBSERVED,
        at=seen.time,
        by=seen.issuer,
        designated=seen.nexus if shared and draft.profile.designates else None,
    )
    if stores_key_zero and draft.profile.designates is None:
        # SPDK keeps key 0 here, and then no holder can be told by its key.
        draft.doubt((Fact.RESERVATION,), f"not known under which key {seen.nexus} holds it")
    draft.say(f"now held by {seen.nexus} ({seen.type.name})")


def _without_designated(held: Reservation) -> Reservation:
    return Reservation(held.type, held.scope, held.holder, held.key, held.source, held.at, held.by)
