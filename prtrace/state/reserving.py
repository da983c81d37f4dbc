"""The effect of RESERVE, RELEASE and CLEAR (SPC-6 5.14.9, 5.14.11.3 and 5.14.11.6)."""

from __future__ import annotations

from dataclasses import replace

from prtrace.model import Attention, PrOut
from prtrace.state.draft import Draft
from prtrace.state.registering import prove
from prtrace.state.unit import Fact, Reservation, Source


def reserve(draft: Draft, seen: PrOut) -> None:
    """Apply a RESERVE that was done: whatever was before, the sender holds it now."""
    prove(draft, seen.nexus, seen.key)
    if seen.type is None:
        draft.doubt((Fact.RESERVATION,), f"RESERVE on {seen.nexus} of a type not known here")
        return
    held = draft.reservation
    shared = seen.type.all_registrants
    if held is not None and held.type is seen.type and (shared or held.holder == seen.nexus):
        if not shared and held.key != seen.key and not draft.known(Fact.RESERVATION):
            draft.reservation = replace(held, key=_shown_key(draft, seen))
        draft.say("none: held already")
        return
    # Under an all-registrants type the first to reserve stays the designated holder, and
    # who was first is known only if there was no reservation before.
    first = held is None and draft.known(Fact.RESERVATION)
    draft.reservation = Reservation(
        seen.type,
        seen.scope,
        holder=None if shared else seen.nexus,
        key=0 if shared else _shown_key(draft, seen),
        source=Source.OBSERVED,
        at=seen.time,
        by=seen.issuer,
        designated=seen.nexus if shared and first and draft.profile.designates else None,
    )
    draft.say(f"reserved {seen.type.name}")


def _shown_key(draft: Draft, seen: PrOut) -> int | None:
    """The key by which the target names the sender as the holder; None where that is not known.

    A RESERVE by who holds already changes nothing, and a target may keep to the key of before.
    """
    if draft.profile.holder_key_follows:
        return seen.key
    fresh = draft.reservation is None and draft.known(Fact.RESERVATION)
    return seen.key if fresh else None


def release(draft: Draft, seen: PrOut) -> None:
    """Apply a RELEASE that was done: GOOD is also the answer to one that releases nothing."""
    held = draft.reservation
    if held is None:
        draft.say("none: nothing reserved")
        return
    shared = held.type.all_registrants
    holder = None if held.holder is None else draft.registrations.get(held.holder)
    if not shared and (held.holder is None or (holder is not None and holder.maybe_local)):
        draft.doubt((Fact.RESERVATION,), f"not known whether {seen.nexus} held what it released")
        return
    if not shared and held.holder != seen.nexus:
        draft.say("none: not the holder")
        return
    if seen.type is not held.type:
        # A holder's RELEASE of another type is refused, so the state was wrong.
        draft.doubt(
            (Fact.RESERVATION,), f"RELEASE on {seen.nexus} of another type was not refused"
        )
        return
    others = len(draft.registrations) > 1 or not draft.known(Fact.REGISTRATIONS)
    if shared and others and not draft.profile.release_shared:
        draft.doubt(
            (Fact.RESERVATION,),
            f"not known whether RELEASE on {seen.nexus} released it for all registrants",
        )
        return
    draft.reservation = None
    draft.say(f"released {held.type.name}")
    if not held.type.single_nexus and draft.known(Fact.RESERVATION):
        draft.expect(tuple(draft.registrations), Attention.RESERVATIONS_RELEASED)


def clear(draft: Draft, seen: PrOut) -> None:
    """Apply a CLEAR that was done: nothing is left, so nothing about it is in doubt."""
    most = 1 if draft.profile.counts_removed is False else draft.counted()
    draft.expect(tuple(draft.registrations), Attention.RESERVATIONS_PREEMPTED)
    draft.registrations = {}
    draft.unattributed = ()
    draft.reservation = None
    draft.ordered = True
    if not draft.quiet:
        draft.resolve(Fact.REGISTRATIONS, Fact.RESERVATION)
        draft.confirm(seen.action.value, Fact.REGISTRATIONS, Fact.RESERVATION)
    draft.advance(1, most, f"not known by how much CLEAR on {seen.nexus} raised it")
    draft.say("cleared: no registrations, no reservation")
