"""What READ KEYS and READ RESERVATION replies teach: a part, and PRGENERATION.

A reply whose PRGENERATION is not the expected one shows that a command went unseen; what the
reply does not itself tell is then in doubt.  Keys are not identities: equal keys do not show
that the same nexuses have them, unless PRGENERATION says that nothing happened in between.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from prtrace.model import KeysRead, Nexus, ReservationRead
from prtrace.state.draft import MAX_REGISTRATIONS, Draft
from prtrace.state.order import overlaps
from prtrace.state.unit import Fact, Reservation, Source

WHOSE_KEYS = "which nexus has which key is not known"


def learn_keys(draft: Draft, seen: KeysRead) -> None:
    """Learn from a READ KEYS reply."""
    if overlaps(draft, seen):
        draft.say(f"not learned: overlapped a command on {draft.settled_by}")
        return
    if seen.truncated:
        note_generation(draft, seen.generation, "READ KEYS")
        draft.say("not learned: truncated")
        return
    pid = 0 if seen.issuer is None else seen.issuer.pid
    draft.census = seen.generation, len(seen.keys), seen.done_ns, pid
    if not seen.keys:
        _nobody(draft, seen)
        return
    was_known = draft.known(Fact.REGISTRATIONS)
    anchor = draft.anchor
    unchanged = anchor == seen.generation
    note_generation(draft, seen.generation, "READ KEYS")
    listed = Counter(seen.keys)
    gone = [nexus for nexus, each in draft.registrations.items() if each.key not in listed]
    for nexus in gone:
        _drop(draft, nexus)
    ours = Counter(each.key for each in draft.registrations.values())
    too_few = sorted(key for key, count in ours.items() if count > listed[key])
    draft.unattributed = tuple(sorted((listed - ours).elements()))[:MAX_REGISTRATIONS]
    draft.legacy_holder = None
    if gone:
        draft.say("corrected by reading: not registered: " + ", ".join(gone[:8]))
    if draft.unattributed:
        _ask_whose(draft, seen)
    if too_few:
        reason = f"fewer nexuses have key 0x{too_few[0]:x} than known"
        draft.doubt((Fact.REGISTRATIONS,), reason)
        draft.say(reason)
    if draft.unattributed or too_few:
        draft.anchor = None
    elif unchanged:
        draft.anchor = anchor
        draft.resolve(Fact.REGISTRATIONS)
        draft.confirm("READ KEYS", Fact.REGISTRATIONS)
        if not gone:
            draft.say("confirmed by reading")
    elif gone or not was_known:
        # Equal keys alone do not show that the same nexuses still have them.
        draft.anchor = anchor
        draft.doubt((Fact.REGISTRATIONS,), WHOSE_KEYS)
    if not draft.words:
        draft.say(f"read: {len(seen.keys)} keys")


def learn_reservation(draft: Draft, seen: ReservationRead) -> None:
    """Learn from a READ RESERVATION reply."""
    if overlaps(draft, seen):
        draft.say(f"not learned: overlapped a command on {draft.settled_by}")
        return
    held = draft.reservation
    was_known = draft.known(Fact.RESERVATION)
    expected = note_generation(
        draft, seen.generation, "READ RESERVATION", told=frozenset({Fact.RESERVATION})
    )
    draft.legacy_holder = None
    draft.confirm("READ RESERVATION", Fact.RESERVATION)
    agrees = (
        held is None
        if seen.type is None
        else held is not None
        and (held.type, held.key, held.scope) == (seen.type, seen.key, seen.scope)
    )
    if was_known and agrees and expected:
        draft.say("confirmed by reading")
        return
    draft.resolve(Fact.RESERVATION)
    draft.reservation = _reservation(draft, seen, held)
    if was_known and not agrees:
        draft.say("corrected by reading: " + _described(draft.reservation))
    else:
        draft.say("read: " + _described(draft.reservation))


def note_generation(
    draft: Draft, generation: int, by: str, *, told: frozenset[Fact] = frozenset()
) -> bool:
    """Learn PRGENERATION, and doubt what the reply does not tell if a change went unseen.

    by: the command that read it.  Return False where a change went unseen.
    """
    expected = draft.generation
    as_expected = not draft.known(Fact.GENERATION) or expected in (None, generation)
    if not as_expected:
        reason = f"PRGENERATION is {generation}, expected {expected}"
        draft.doubt({Fact.REGISTRATIONS, Fact.RESERVATION} - told, reason)
        draft.say(reason)
    draft.generation = generation
    draft.resolve(Fact.GENERATION)
    draft.confirm(by, Fact.GENERATION)
    if draft.known(Fact.REGISTRATIONS):
        draft.anchor = generation
    return as_expected


def _drop(draft: Draft, nexus: Nexus) -> None:
    """Remove a registration that a reply no longer lists; what it held is in doubt."""
    del draft.registrations[nexus]
    held = draft.reservation
    if held is not None and (held.type.all_registrants or held.holder == nexus):
        if held.designated == nexus:
            draft.reservation = replace(held, designated=None)
        draft.doubt((Fact.RESERVATION,), f"the registration of {nexus} is gone")


def _nobody(draft: Draft, seen: KeysRead) -> None:
    """No keys: nobody is registered, and nobody can hold a reservation."""
    was_known = draft.known(Fact.REGISTRATIONS) and draft.known(Fact.RESERVATION)
    had = bool(draft.registrations) or draft.reservation is not None
    draft.registrations = {}
    draft.unattributed = ()
    draft.reservation = None
    draft.legacy_holder = None
    draft.ordered = True
    draft.resolve(*Fact)
    draft.confirm("READ KEYS", *Fact)
    draft.generation = draft.anchor = seen.generation
    if had and was_known:
        draft.say("corrected by reading: no registrations, no reservation")
    else:
        draft.say("confirmed by reading" if was_known else "read: no registrations")


def _ask_whose(draft: Draft, seen: KeysRead) -> None:
    since = min(
        (each.since for each in draft.doubts if each.what is Fact.REGISTRATIONS),
        default=seen.time,
    )
    draft.resolve(Fact.REGISTRATIONS)
    draft.doubt((Fact.REGISTRATIONS,), WHOSE_KEYS)
    draft.doubts = tuple(
        replace(each, since=since) if each.reason == WHOSE_KEYS else each for each in draft.doubts
    )
    draft.say(f"read {len(seen.keys)} keys, {len(draft.unattributed)} of unknown nexuses")


def _reservation(
    draft: Draft, seen: ReservationRead, held: Reservation | None
) -> Reservation | None:
    if seen.type is None:
        return None
    holder: Nexus | None = None
    designated = None
    if seen.type.all_registrants:
        if len(draft.registrations) == 1 and draft.known(Fact.REGISTRATIONS):
            designated = next(iter(draft.registrations)) if draft.profile.designates else None
    elif seen.key == 0:
        draft.doubt((Fact.RESERVATION,), "holder: the reservation is listed with key 0")
    else:
        holder = _holder(draft, seen.key)
    if held is not None and (held.type, held.key, held.holder, held.scope) == (
        seen.type,
        seen.key,
        holder,
        seen.scope,
    ):
        return replace(held, designated=designated)
    return Reservation(
        seen.type, seen.scope, holder, seen.key, Source.READ, seen.time, designated=designated
    )


def _holder(draft: Draft, key: int) -> Nexus | None:
    """Return the one nexus registered with key; else None, and the reservation is in doubt."""
    having = [nexus for nexus, each in draft.registrations.items() if each.key == key]
    if len(having) == 1 and draft.known(Fact.REGISTRATIONS):
        return having[0]
    if len(having) > 1:
        reason = f"holder: key 0x{key:x} is registered on several nexuses"
    elif not having and draft.known(Fact.REGISTRATIONS):
        reason = f"holder: no known registration has key 0x{key:x}"
        draft.anchor = None
        draft.doubt((Fact.REGISTRATIONS, Fact.GENERATION), reason)
    else:
        reason = f"holder: which nexus has key 0x{key:x} is not known"
    draft.doubt((Fact.RESERVATION,), reason)
    return None


def _described(held: Reservation | None) -> str:
    if held is None:
        return "no reservation"
    return held.type.name if held.key is None else f"{held.type.name}, key 0x{held.key:x}"
