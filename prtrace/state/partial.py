"""What READ KEYS and READ RESERVATION replies teach: a part, and PRGENERATION.

A reply whose PRGENERATION is not the expected one shows that a command went unseen; what the
reply does not itself tell is then in doubt.  Keys are not identities: equal keys do not show
that the same nexuses have them, unless PRGENERATION says that nothing happened in between.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from prtrace.model import KeysRead, Nexus, ReservationRead
from prtrace.state.binding import is_wild
from prtrace.state.draft import GENERATION_MASK, MAX_REGISTRATIONS, Draft, confirmation_of
from prtrace.state.order import another_overlaps
from prtrace.state.registering import UNMATCHED
from prtrace.state.unit import Census, Fact, Reservation, Source

WHOSE_KEYS = "which nexus has which key is not known"
_WHOSE_HOLD = "holder: which nexus has key"
_MOST_BEYOND = GENERATION_MASK >> 1


def learn_keys(draft: Draft, seen: KeysRead) -> None:
    """Learn from a READ KEYS reply."""
    if another_overlaps(draft, seen):
        draft.say(f"not learned: overlapped a command on {draft.settled_by}")
        return
    if seen.truncated:
        note_generation(draft, seen.generation, "READ KEYS")
        draft.say("not learned: truncated")
        return
    before, draft.census = draft.census, _census(seen)
    if _contradicts(draft, seen) and not _repeats(before, draft.census):
        reason = f"READ KEYS at PRGENERATION {seen.generation} contradicts what was observed"
        draft.doubt((Fact.REGISTRATIONS,), reason)
        draft.say(f"not learned: {reason}")
        return
    if not seen.keys:
        _nobody(draft, seen)
        return
    was_known = draft.known(Fact.REGISTRATIONS)
    sure = not any(
        each.what is Fact.REGISTRATIONS and each.reason != UNMATCHED for each in draft.doubts
    )
    anchor = draft.anchor
    unchanged = anchor == seen.generation
    expected = note_generation(draft, seen.generation, "READ KEYS")
    if not draft.names_nexuses and not unchanged and not (sure and expected):
        _strip(draft, draft.census)
        return
    listed = Counter(seen.keys)
    gone = [nexus for nexus, each in draft.registrations.items() if each.key not in listed]
    for nexus in gone:
        _drop(draft, nexus)
    ours = Counter(each.key for each in draft.registrations.values() if not is_wild(each))
    too_few = sorted(key for key, count in ours.items() if count > listed[key])
    unnamed = listed - ours
    # One that is for any target ports is listed as often as the target likes, or not at all.
    absorbed = False
    for key in {each.key for each in draft.registrations.values() if is_wild(each)}:
        absorbed = absorbed or unnamed[key] > 0
        unnamed[key] = min(unnamed[key], draft.unattributed.count(key))
    draft.unattributed = tuple(sorted(unnamed.elements()))[:MAX_REGISTRATIONS]
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
    elif unchanged and not (gone and absorbed):
        # Else one that is gone may be among them, by a key that it was not known to have.
        draft.anchor = anchor
        draft.resolve(Fact.REGISTRATIONS)
        draft.confirm("READ KEYS", Fact.REGISTRATIONS)
        if not gone:
            draft.say("confirmed by reading")
    elif gone or not was_known:
        # Equal keys alone do not show that the same nexuses still have them.
        draft.anchor = anchor
        draft.doubt((Fact.REGISTRATIONS,), WHOSE_KEYS, tells=True)
    if not draft.names_nexuses:
        draft.confirm("READ KEYS", Fact.REGISTRATIONS)
        if too_few:
            _strip(draft, draft.census)
        else:
            draft.resolve(Fact.REGISTRATIONS)
            _drop_whose_hold(draft)
            if not draft.unattributed:
                draft.anchor = seen.generation
    if not draft.words:
        draft.say(f"read: {len(seen.keys)} {'key' if len(seen.keys) == 1 else 'keys'}")


def learn_reservation(draft: Draft, seen: ReservationRead) -> None:
    """Learn from a READ RESERVATION reply."""
    if another_overlaps(draft, seen):
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
        and (held.type, held.scope) == (seen.type, seen.scope)
        and held.key in (None, seen.key)
    )
    draft.resolve(Fact.RESERVATION)
    trusted = was_known and expected
    draft.reservation = _reservation(draft, seen, held, trusted=trusted)
    if trusted and agrees and draft.known(Fact.RESERVATION):
        draft.say("confirmed by reading")
        return
    if was_known and not agrees:
        draft.say("corrected by reading: " + _described(draft.reservation))
    else:
        draft.say("read: " + _described(draft.reservation))


def give_names_up(draft: Draft) -> None:
    """Drop the doubts that only READ FULL STATUS could take away, which the device does not know.

    The keys are known; whose they are cannot be known here, and asking again does not help.
    A doubt of another kind stays until READ KEYS has answered it.
    """
    if draft.census is None:
        return
    doubts = [each for each in draft.doubts if each.what is Fact.REGISTRATIONS]
    if all(each.reason == WHOSE_KEYS for each in doubts):
        if doubts:
            _strip(draft, draft.census)
        _drop_whose_hold(draft)


def take_names_up(draft: Draft) -> None:
    """Note that the device knows READ FULL STATUS: whose the keys are can be known again."""
    if draft.names_nexuses:
        return
    draft.names_nexuses = True
    if draft.unattributed:
        draft.doubt((Fact.REGISTRATIONS,), WHOSE_KEYS)
    held = draft.reservation
    if held is not None and held.holder is None and not held.type.all_registrants:
        named = "that holds it" if held.key is None else f"0x{held.key:x}"
        draft.doubt((Fact.RESERVATION,), f"{_WHOSE_HOLD} {named} is not known")


def _strip(draft: Draft, census: Census) -> None:
    """State keys, and of no nexus that it has one of them: the device does not tell.

    An equal key is no sign of its nexus: another host may have taken the registration away and
    registered the same key.  Whoever sends a command with its key shows that it has it.
    """
    draft.registrations = {}
    draft.unattributed = census.keys[:MAX_REGISTRATIONS]
    draft.anchor = None
    draft.ordered = False
    draft.legacy_holder = None
    held = draft.reservation
    if held is not None:
        draft.reservation = replace(held, holder=None, designated=None)
    draft.resolve(Fact.REGISTRATIONS)
    # As of when the keys were listed, which may be long ago when somebody asks whose they are.
    if census.confirmation is not None:
        draft.confirmed[Fact.REGISTRATIONS] = census.confirmation
    _drop_whose_hold(draft)
    noun = "key" if len(draft.unattributed) == 1 else "keys"
    draft.say(f"read: {len(draft.unattributed)} {noun} of unknown nexuses")


def _drop_whose_hold(draft: Draft) -> None:
    draft.doubts = tuple(e for e in draft.doubts if not e.reason.startswith(_WHOSE_HOLD))


def note_generation(
    draft: Draft, generation: int, by: str, *, told: frozenset[Fact] = frozenset()
) -> bool:
    """Learn PRGENERATION, and doubt what the reply does not tell if a change may have gone unseen.

    by: the command that read it.  told: the facts that it tells besides.  Return whether the
    commands that were seen explain the value, and nothing else can.
    """
    least, spread = draft.generation, draft.spread
    if not draft.explains(generation):
        # A REGISTER may have gone unseen, and with it another APTPL bit.
        draft.aptpl = None
    if is_lower(generation, least):
        draft.surplus = None
    beyond: int | None = None
    if least is None or spread is None:
        # Anything fits, so the value shows nothing of what it counts.
        sure = {f for f in (Fact.REGISTRATIONS, Fact.RESERVATION) if not draft.doubted(f)}
        if draft.anchor == generation:
            # Nobody has preempted.
            sure -= {Fact.RESERVATION}
        reason = f"PRGENERATION {generation} could be anybody's doing"
        draft.doubt(sure - told, reason, tells=True)
    elif beyond := (generation - least) & GENERATION_MASK:
        most = (least + spread) & GENERATION_MASK
        expected = str(least) if not spread else f"{least} to {most}"
        reason = f"PRGENERATION is {generation}, expected {expected}"
        draft.doubt({Fact.REGISTRATIONS, Fact.RESERVATION} - told, reason, tells=True)
        draft.say(reason)
    draft.generation = generation
    draft.resolve(Fact.GENERATION)
    draft.confirm(by, Fact.GENERATION)
    if draft.known(Fact.REGISTRATIONS):
        draft.anchor = generation
    return beyond == 0


def is_lower(generation: int, before: int | None) -> bool:
    """Whether PRGENERATION, which wraps, is that of a device that has begun anew since before.

    Nothing but that makes it lower.  before: at least so much it was, None where nobody knows.
    """
    return before is not None and (generation - before) & GENERATION_MASK > _MOST_BEYOND


def _census(seen: KeysRead) -> Census:
    pid = 0 if seen.issuer is None else seen.issuer.pid
    keys = tuple(sorted(seen.keys))
    return Census(seen.generation, keys, seen.done_ns, pid, confirmation_of(seen, "READ KEYS"))


def _repeats(before: Census | None, now: Census) -> bool:
    """Whether the device said the same twice: then it is what was observed that is wrong."""
    return before is not None and (before.generation, before.keys) == (now.generation, now.keys)


def _contradicts(draft: Draft, seen: KeysRead) -> bool:
    """Whether no command that went unseen can explain the reply."""
    return draft.anchor == seen.generation and contradicts(draft, Counter(seen.keys))


def contradicts(draft: Draft, listed: Counter[int]) -> bool:
    """Whether registrations with these keys cannot follow from the known ones, PRGENERATION
    being the same.

    Every REGISTER counts, so none can have come.  Another host's may have left where the target
    does not count that; one of this host's would have been seen to leave.
    """
    known = Counter(each.key for each in draft.registrations.values() if not is_wild(each))
    known.update(draft.unattributed)
    wild = {each.key for each in draft.registrations.values() if is_wild(each)}
    if any(key not in wild for key in listed - known):
        return True
    if draft.profile.unregister_adds == 1:
        return bool(known - listed)
    return bool(Counter(e.key for e in draft.registrations.values() if e.local) - listed)


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
    if not draft.explains(seen.generation):
        draft.aptpl = None
    draft.registrations = {}
    draft.unattributed = ()
    draft.reservation = None
    draft.legacy_holder = None
    draft.ordered = True
    draft.resolve(*Fact)
    draft.confirm("READ KEYS", *Fact)
    draft.generation = draft.anchor = draft.surplus = seen.generation
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
    draft.doubt((Fact.REGISTRATIONS,), WHOSE_KEYS, tells=True)
    draft.doubts = tuple(
        replace(each, since=since) if each.reason == WHOSE_KEYS else each for each in draft.doubts
    )
    noun = "key" if len(seen.keys) == 1 else "keys"
    draft.say(f"read {len(seen.keys)} {noun}, {len(draft.unattributed)} of unknown nexuses")


def _reservation(
    draft: Draft, seen: ReservationRead, held: Reservation | None, *, trusted: bool
) -> Reservation | None:
    """The reservation that seen shows.

    held: what was known before; trusted: it was not in doubt, and PRGENERATION is the same.
    """
    if seen.type is None:
        return None
    holder: Nexus | None = None
    designated = None
    if seen.type.all_registrants:
        if len(draft.registrations) == 1 and draft.known(Fact.REGISTRATIONS):
            designated = next(iter(draft.registrations)) if draft.profile.designates else None
        elif trusted and held is not None and held.type is seen.type and all_seen(draft):
            designated = held.designated
    elif seen.key == 0:
        draft.doubt((Fact.RESERVATION,), "holder: the reservation is listed with key 0")
    else:
        holder = _holder(draft, seen, held, trusted=trusted)
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


def only_whose_hold(draft: Draft) -> bool:
    """Whether READ RESERVATION has told all of the reservation but whose it is."""
    reasons = [each.reason for each in draft.doubts if each.what is Fact.RESERVATION]
    return draft.reservation is not None and all(each.startswith("holder:") for each in reasons)


def all_seen(draft: Draft) -> bool:
    """Whether every command that may have moved the reservation since was one of this host's.

    Only a registrant can reserve or release, and PRGENERATION tells of a registration that came.
    """
    return (
        draft.anchor is not None
        and not draft.unattributed
        and all(each.local for each in draft.registrations.values())
    )


def _holder(
    draft: Draft, seen: ReservationRead, held: Reservation | None, *, trusted: bool
) -> Nexus | None:
    """Return the nexus that holds it under the key of seen; else None, and it is in doubt.

    A target may show the key that the holder had when it reserved, which another has by now.
    """
    key = seen.key
    before = held if trusted and held is not None and held.type is seen.type else None
    own = None if before is None else draft.registrations.get(before.holder or "")
    if before is not None and own is not None and own.local and before.key in (None, key):
        # It would have been seen to let go.
        return before.holder
    having = [nexus for nexus, each in draft.registrations.items() if each.key == key]
    if key in draft.unattributed:
        if draft.names_nexuses:
            draft.doubt((Fact.RESERVATION,), f"{_WHOSE_HOLD} 0x{key:x} is not known")
        return None
    sure = not draft.doubted(Fact.REGISTRATIONS)
    if len(having) == 1 and sure:
        current = (
            draft.profile.holder_key_follows
            or (len(draft.registrations) == 1 and not draft.unattributed)
            or (trusted and (before is None or before.holder == having[0]))
        )
        if current:
            return having[0]
        reason = f"holder: 0x{key:x}, the key of {having[0]}, may be one that the holder had"
    elif len(having) > 1:
        reason = f"holder: key 0x{key:x} is registered on several nexuses"
    elif not having and sure and draft.profile.holder_key_follows is not None:
        reason = f"holder: no known registration has key 0x{key:x}"
        draft.anchor = None
        draft.doubt((Fact.REGISTRATIONS, Fact.GENERATION), reason)
    else:
        reason = f"{_WHOSE_HOLD} 0x{key:x} is not known"
    draft.doubt((Fact.RESERVATION,), reason)
    return None


def _described(held: Reservation | None) -> str:
    if held is None:
        return "no reservation"
    return held.type.name if held.key is None else f"{held.type.name}, key 0x{held.key:x}"
