"""What a READ FULL STATUS reply teaches: everything, unless it is truncated or overlaps.

A reply whose command was submitted before the newest change was complete may be older than
that change, so nothing is learned from it; it is not even allowed to take doubts away where
it agrees, for it may agree with what was true before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace

from prtrace.model import FullStatus, FullStatusRead, LocalNexus, Nexus, ReservationType
from prtrace.state.binding import Bound, bind, may_be
from prtrace.state.doubt import ALL
from prtrace.state.draft import GENERATION_MASK, MAX_REGISTRATIONS, Draft
from prtrace.state.order import another_overlaps
from prtrace.state.partial import (
    all_seen,
    contradicts,
    is_lower,
    note_generation,
    only_whose_hold,
)
from prtrace.state.paths import by_address
from prtrace.state.unit import Census, Fact, Registration, Reservation, Source

_NAMED = 8
"""Nexuses that an effect names at most."""
ONE_LOOK_NS = 1_000_000_000
"""Between two commands of a process that looks at a unit once."""


def learn_full_status(draft: Draft, seen: FullStatusRead) -> None:
    """Learn from a READ FULL STATUS reply."""
    if another_overlaps(draft, seen):
        draft.say(f"not learned: overlapped a command on {draft.settled_by}")
        return
    if seen.truncated:
        note_generation(draft, seen.generation, "READ FULL STATUS")
        draft.say("not learned: truncated")
        return
    ordered = _in_byte_order(draft, seen)
    if ordered is None:
        _leave_unread(draft, seen)
        return
    seen = ordered
    if reason := _disagreement(draft, seen):
        draft.doubt((Fact.REGISTRATIONS, Fact.RESERVATION), reason)
        draft.say(f"not learned: {reason}")
        return
    proven = draft.anchor == seen.generation
    paths = _paths(draft, seen)
    bound = bind(
        seen.registrations,
        paths,
        draft.registrations if proven else {},
        former=_former(draft, seen),
        each_port_listed=draft.profile.lists_every_port,
    )
    before = (draft.registrations, draft.reservation, draft.generation, draft.unattributed)
    known = {fact for fact in ALL if draft.known(fact)}
    unmoved = draft.spread == 0 and draft.generation == seen.generation
    told_key = unmoved and only_whose_hold(draft)
    if not draft.explains(seen.generation):
        draft.aptpl = None
    draft.resolve(*ALL)
    draft.surplus = _surplus(seen)
    local = {path.nexus for path in paths}
    draft.registrations, draft.unattributed = _registrations(
        draft, seen, bound, local, proven=proven
    )
    trusted = told_key or (Fact.RESERVATION in known and proven)
    draft.reservation = _reservation(draft, seen, bound, trusted=trusted)
    draft.generation = draft.anchor = seen.generation
    draft.ordered = not bound.unplaced and not any(e.all_target_ports for e in seen.registrations)
    draft.legacy_holder = None
    draft.confirm("READ FULL STATUS", *ALL)
    # Who is registered has not met what takes a registration away, or has registered again.
    draft.expected = {
        nexus: each for nexus, each in draft.expected.items() if nexus not in draft.registrations
    }
    _doubt_contradictions(draft, seen, bound)
    same = _same(draft, before)
    kept = same and known == ALL and proven and all_seen(draft)
    _keep_designated(draft, before[1] if kept else None)
    if same:
        draft.say("confirmed by reading")
    elif known == ALL:
        draft.say("corrected by reading: " + _summary(draft))
    else:
        draft.say("read: " + _summary(draft))
    if gone := _gone(draft, before[0]):
        draft.say("not registered any more: " + ", ".join(gone[:_NAMED]))


def _gone(draft: Draft, before: Mapping[Nexus, Registration]) -> list[Nexus]:
    """Those that were registered before the reply, and are not after it under whatever name."""
    if draft.unattributed:
        return []
    gone = []
    for nexus, was in before.items():
        path = draft.paths.get(nexus)
        ports = LocalNexus(
            nexus,
            draft.lu,
            initiator_port=was.initiator_port if path is None else path.local.initiator_port,
            relative_target_port=(
                was.relative_target_port if path is None else path.local.relative_target_port
            ),
        )
        if ports.initiator_port and not any(
            may_be(each.initiator_port, each.relative_target_port, ports)
            for each in draft.registrations.values()
        ):
            gone.append(nexus)
    return gone


def _former(draft: Draft, seen: FullStatusRead) -> Mapping[Nexus, Registration]:
    """The registrations known before, where it is proven that those of ALL_TG_PT have stayed.

    PRGENERATION less the number of registrations proves it.  The target that lists each target
    port raises PRGENERATION once for each that it registers, however many those are (LIO, drivers/
    target/target_core_pr.c, __core_scsi3_add_registration), which leaves the difference as it is.
    Whatever takes a registration away makes it greater, and so does another key; nothing makes it
    less but a target that begins anew.  So where it is what the commands seen make it, none but
    those did either, and the target has not begun anew.  That a target has, its unit attention
    says, the path that goes, or PRGENERATION, which is lower then.
    """
    unmoved = draft.anchor == seen.generation and not draft.doubted(Fact.REGISTRATIONS)
    # What LIO does not count is an unregistration: it takes all those of the key along or, with
    # REGISTER AND IGNORE EXISTING KEY, its own alone.
    counted = draft.surplus == _surplus(seen) and not is_lower(seen.generation, draft.generation)
    return draft.registrations if unmoved or counted else {}


def _surplus(seen: FullStatusRead) -> int:
    return (seen.generation - len(seen.registrations)) & GENERATION_MASK


def _disagreement(draft: Draft, seen: FullStatusRead) -> str:
    """Why the reply is not taken at its word; "" where it is.

    READ KEYS and READ FULL STATUS list the same registrations (SPC-6 6.16.2 and 6.16.5), and
    while PRGENERATION stays nobody registers.  What READ KEYS confirms is believed; LIO ends
    the list of READ FULL STATUS, and says nothing, at a nexus whose TransportID it cannot build.
    """
    listed = Counter(each.key for each in seen.registrations)
    spread = any(each.all_target_ports for each in seen.registrations)
    census = draft.census
    if census is not None and census.generation == seen.generation:
        keys = Counter(census.keys)
        same = set(keys) == set(listed) if spread else keys == listed
        # LIO does not count an unregistration: what has left since READ KEYS has left.
        left = not listed - keys and draft.profile.unregister_adds == 0
        if same or (left and not _is_same_look(census, seen)):
            return ""
        return (
            f"READ FULL STATUS and READ KEYS at PRGENERATION {seen.generation} list other keys"
            if len(listed) == len(keys) or listed - keys
            else f"READ FULL STATUS lists {listed.total()} of {keys.total()} registrations"
        )
    if spread or draft.anchor != seen.generation or not contradicts(draft, listed):
        return ""
    return f"READ FULL STATUS at PRGENERATION {seen.generation} contradicts what was observed"


def _is_same_look(census: Census, seen: FullStatusRead) -> bool:
    """Whether one process asked for both, one right after the other."""
    if seen.issuer is None or seen.issuer.pid != census.pid:
        return False
    return 0 <= seen.start_ns - census.done_ns <= ONE_LOOK_NS


def _in_byte_order(draft: Draft, seen: FullStatusRead) -> FullStatusRead | None:
    """The reply with its keys and target ports turned round, if that is what the target does.

    None where nothing shows whether it does, and it makes a difference: READ KEYS settles it, and
    every reading of prtrace's own begins with that.  SPDK copies them into READ FULL STATUS in the
    processor's byte order (lib/scsi/scsi_pr.c, scsi_pr_in_read_full_status); READ KEYS, or what
    was observed, tells.
    """
    if draft.profile.turns_full_status is False:
        return seen
    turned = tuple(map(_turned, seen.registrations))
    other = replace(seen, registrations=turned)
    wrong, right = _disagreement(draft, seen), _disagreement(draft, other)
    if wrong or right or other == seen:
        return other if wrong and not right else seen
    if _keys(other) != _keys(seen):
        return None
    # READ KEYS does not settle it either: at which target port each of them is, is not known.
    return replace(
        seen,
        registrations=tuple(
            each
            if each.relative_target_port == opposite.relative_target_port
            else replace(each, relative_target_port=0, all_target_ports=True)
            for each, opposite in zip(seen.registrations, turned, strict=True)
        ),
    )


def _turned(each: FullStatus) -> FullStatus:
    """The registration with its numbers in the other byte order."""
    return replace(
        each,
        key=int.from_bytes(each.key.to_bytes(8, "big"), "little"),
        relative_target_port=int.from_bytes(
            each.relative_target_port.to_bytes(2, "big"), "little"
        ),
    )


def _keys(seen: FullStatusRead) -> list[int]:
    return [each.key for each in seen.registrations]


def _may_be_held_so(held: Reservation | None, seen: FullStatusRead) -> bool:
    """Whether the reply, in whatever byte order it is, can tell of this reservation."""
    holding = [each for each in seen.registrations if each.holder]
    if held is None or not holding:
        return held is None and not holding
    keys = {key for each in holding for key in (each.key, _turned(each).key)}
    return {(each.type, each.scope) for each in holding} == {(held.type, held.scope)} and (
        held.type.all_registrants or held.key in keys
    )


def _leave_unread(draft: Draft, seen: FullStatusRead) -> None:
    """Note a reply of which nothing shows in which byte order it is.

    It confirms nothing; but what it contradicts in any byte order is in doubt.
    """
    note_generation(draft, seen.generation, "READ FULL STATUS")
    draft.say("not learned: nothing shows in which byte order the reply is")
    if not (draft.doubted(Fact.RESERVATION) or _may_be_held_so(draft.reservation, seen)):
        draft.doubt((Fact.RESERVATION,), "READ FULL STATUS tells of another reservation")
    if draft.doubted(Fact.REGISTRATIONS):
        return
    stated = {*draft.unattributed, *(each.key for each in draft.registrations.values())}
    if stated not in (set(_keys(seen)), {_turned(each).key for each in seen.registrations}):
        facts = (Fact.REGISTRATIONS, Fact.RESERVATION)
        draft.doubt(facts, "READ FULL STATUS lists other keys than are known, in any byte order")


def _paths(draft: Draft, seen: FullStatusRead) -> tuple[LocalNexus, ...]:
    """This host's paths as far as they are told; the reply's own is one in any case."""
    if draft.paths and not seen.paths:
        return by_address(draft.paths)
    if any(path.nexus == seen.nexus for path in seen.paths):
        return seen.paths
    return (*seen.paths, LocalNexus(seen.nexus, seen.lu))


def _registrations(
    draft: Draft, seen: FullStatusRead, bound: Bound, local: Collection[Nexus], *, proven: bool
) -> tuple[dict[Nexus, Registration], tuple[int, ...]]:
    result: dict[Nexus, Registration] = {}
    for nexus, each in bound.by_nexus.items():
        if len(result) >= MAX_REGISTRATIONS:
            draft.doubt((Fact.REGISTRATIONS,), f"more than {MAX_REGISTRATIONS} registrations")
            break
        # The same key at another PRGENERATION may be a registration that was made anew.
        known = draft.registrations.get(nexus) if proven else None
        same = known is not None and known.key == each.key
        no_port = each.all_target_ports or nexus in bound.swappable
        result[nexus] = Registration(
            nexus,
            each.key,
            local=nexus in local,
            source=known.source if known is not None and same else Source.READ,
            at=known.at if known is not None and same else seen.time,
            by=known.by if known is not None and same else None,
            initiator_port=None if nexus in bound.swappable else each.initiator_port,
            relative_target_port=None if no_port else each.relative_target_port,
            maybe_local=nexus in bound.maybe_local,
            all_ports=each.all_target_ports,
        )
    return result, tuple(each.key for each in bound.unplaced[:MAX_REGISTRATIONS])


def _reservation(
    draft: Draft, seen: FullStatusRead, bound: Bound, *, trusted: bool
) -> Reservation | None:
    holding = [each for each in seen.registrations if each.holder]
    if not holding:
        return None
    old = draft.reservation
    kinds = {(each.type, each.scope) for each in holding}
    if len(kinds) > 1:
        draft.doubt((Fact.RESERVATION,), "the reply names holders of different types")
    kind, scope = holding[0].type, holding[0].scope
    if kind is None:
        draft.doubt((Fact.RESERVATION,), "the reply names a holder, but no type known here")
        return old
    holder: Nexus | None = None
    key: int | None = 0
    if not kind.all_registrants:
        holders = [nexus for nexus, each in bound.by_nexus.items() if each.holder]
        holder, key = _single_holder(draft, holding, holders)
        if not draft.profile.holder_key_follows:
            key = _shown_key(draft, holder, key, kind, old if trusted else None)
    if old is not None and _essence(old) == (kind, scope, holder, key):
        return replace(old, designated=None)
    return Reservation(kind, scope, holder, key, Source.READ, seen.time)


def _single_holder(
    draft: Draft, holding: list[FullStatus], holders: list[Nexus]
) -> tuple[Nexus | None, int | None]:
    if len(holding) == 1 and len(holders) == 1:
        return holders[0], holding[0].key
    keys = {each.key for each in holding}
    draft.doubt((Fact.RESERVATION,), "holder: the reply does not tell which nexus holds it")
    return None, keys.pop() if len(keys) == 1 else None


def _shown_key(
    draft: Draft,
    holder: Nexus | None,
    key: int | None,
    kind: ReservationType,
    old: Reservation | None,
) -> int | None:
    """The key by which a target names the holder that may keep to the one it had before.

    old: the reservation as it was known at this PRGENERATION, by its key at least.  key: the
    holder's own.
    """
    if holder is None or old is None or old.type is not kind or old.holder not in (None, holder):
        return None
    # Another host's holder may have let go and reserved anew, under its present key.
    return old.key if old.key == key or draft.registrations[holder].local else None


def _keep_designated(draft: Draft, old: Reservation | None) -> None:
    """Set the designated holder, which no reply names.

    It is the only registrant, or the one that old names: the reservation before a reply that
    changed nothing and that no other host can have moved; None otherwise.
    """
    held = draft.reservation
    if held is None or not draft.profile.designates or not held.type.all_registrants:
        return
    if len(draft.registrations) == 1 and not draft.unattributed:
        draft.reservation = replace(held, designated=next(iter(draft.registrations)))
    elif old is not None:
        draft.reservation = replace(held, designated=old.designated)


def _doubt_contradictions(draft: Draft, seen: FullStatusRead, bound: Bound) -> None:
    if bound.repeated:
        draft.anchor = None
        # Two nexuses of one name: one of them may hold it, and which of them is not known.
        held = any(each.holder for each in seen.registrations)
        facts = {Fact.REGISTRATIONS, Fact.RESERVATION} if held else {Fact.REGISTRATIONS}
        draft.doubt(facts, f"the reply names {bound.repeated[0]} more than once")
    if bound.unplaced:
        draft.doubt(
            (Fact.REGISTRATIONS,),
            "which target port has which ALL_TG_PT registration is not known",
        )


def _same(
    draft: Draft,
    before: tuple[dict[Nexus, Registration], Reservation | None, int | None, tuple[int, ...]],
) -> bool:
    registrations, reservation, generation, unattributed = before
    return (
        {nexus: each.key for nexus, each in registrations.items()}
        == {nexus: each.key for nexus, each in draft.registrations.items()}
        and _essence(reservation) == _essence(draft.reservation)
        and generation == draft.generation
        and unattributed == draft.unattributed
    )


def _essence(
    held: Reservation | None,
) -> tuple[ReservationType, int, Nexus | None, int | None] | None:
    return None if held is None else (held.type, held.scope, held.holder, held.key)


def _summary(draft: Draft) -> str:
    count = len(draft.registrations) + len(draft.unattributed)
    held = draft.reservation
    noun = "registration" if count == 1 else "registrations"
    if held is None:
        return f"{count} {noun}, no reservation"
    holder = "all registrants" if held.type.all_registrants else held.holder or "an unknown nexus"
    return f"{count} {noun}, {held.type.name} held by {holder}"
