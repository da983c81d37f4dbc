"""The effect of REGISTER and REGISTER AND IGNORE EXISTING KEY, and who is registered with what.

SPC-6 5.14.7 (registering) and 5.14.11.2 (unregistering), with the target's profile.
"""

from __future__ import annotations

from dataclasses import replace

from prtrace.model import Action, Attention, Nexus, PrOut
from prtrace.state.binding import is_wild, same_ports
from prtrace.state.draft import Draft
from prtrace.state.evidence import fitting, unknown_nexus
from prtrace.state.unit import Fact, Registration, Reservation, Source

UNMATCHED = "a nexus registered that may have been one of those whose nexus is not known"
"""Why it is in doubt whether the newest REGISTER added a registration.  It names no nexus, so that
it stands once in the list of doubts, which is bounded."""
FURTHER = "registered or unregistered further nexuses"
"""How the reason of a doubt ends that leaves the sender's own registration as it is stated."""
_RO_ATTENTION = Attention.RESERVATIONS_RELEASED


def register(draft: Draft, seen: PrOut) -> None:
    """Apply a REGISTER or REGISTER AND IGNORE EXISTING KEY that was done."""
    if seen.action is Action.REGISTER and seen.key != 0:
        prove(draft, seen.nexus, seen.key)
    elif seen.action is Action.REGISTER_AND_IGNORE and unknown_nexus(draft, seen):
        _doubt_unmatched(draft)
    held = draft.reservation
    alone = not seen.all_tg_pt and _of_all_ports(draft, seen)
    # Siblings of a registration made with ALL_TG_PT may change with it, the holder among them.
    registered = seen.nexus in draft.registrations or not draft.known(Fact.REGISTRATIONS)
    spreads = seen.all_tg_pt and held is not None and (registered or unknown_nexus(draft, seen))
    if seen.sa_key:
        _add_or_change(draft, seen)
    else:
        _unregister(draft, seen)
    if seen.all_tg_pt and not seen.spec_i_pt:
        why = f"{seen.action.value} on {seen.nexus} {FURTHER}"
        draft.ordered = False
        draft.advance(0, None, why, tells=True)
        draft.doubt((Fact.REGISTRATIONS,), why, tells=True)
        if spreads:
            draft.doubt((Fact.RESERVATION,), why)
    elif alone:
        why = (
            f"{seen.nexus} was registered for all target ports, and what others have is not known"
        )
        draft.anchor = None
        draft.doubt((Fact.REGISTRATIONS,), why)
        if held is not None and held.holder != seen.nexus:
            draft.doubt((Fact.RESERVATION,), why)


def _of_all_ports(draft: Draft, seen: PrOut) -> bool:
    """Whether seen changes a registration that was made for all target ports, and others with it.

    Where a target lists one for all, others may be at ports that are not here.  LIO takes an
    unregistration for one of all those with the key, where it lets it pass without ALL_TG_PT
    (drivers/target/target_core_pr.c, core_scsi3_emulate_pro_register).  Where it is not known how
    the target lists them, it may be either.
    """
    own = draft.registrations.get(seen.nexus)
    if own is None:
        return False
    others = [
        each
        for each in draft.registrations.values()
        if each is not own and _same_port(draft, each, own)
    ]
    one_by_one = draft.profile.lists_every_port
    if one_by_one is not True and any(map(is_wild, others)):
        return True
    # How the others were made may not be known.
    takes_along = one_by_one is not False and own.all_ports and not seen.sa_key
    return takes_along and any(each.key == own.key for each in others)


def _same_port(draft: Draft, one: Registration, other: Registration) -> bool:
    """Whether both may be of one initiator port."""
    ports = []
    for each in (one, other):
        path = draft.paths.get(each.nexus)
        ports.append(each.initiator_port or (path.local.initiator_port if path else None))
    return None in ports or same_ports(*ports)


def span(adds: int | None) -> tuple[int, int]:
    """The least and the most that a command adds to PRGENERATION; None: it may count or not."""
    return (0, 1) if adds is None else (adds, adds)


def prove(draft: Draft, nexus: Nexus, key: int) -> None:
    """Note that a command shows nexus to be registered with key, where that was not known."""
    own = draft.registrations.get(nexus)
    if draft.quiet or (own is not None and own.key == key):
        return
    seen = draft.seen
    if own is not None:
        draft.put(replace(own, key=key, source=Source.OBSERVED, at=seen.time, by=None))
        return
    own_key = [each for each in fitting(draft, nexus) if each.key == key]
    among = len(own_key) + draft.unattributed.count(key)
    if among == len(own_key) == 1 and not is_wild(own_key[0]) and draft.known(Fact.REGISTRATIONS):
        _rename(draft, own_key[0], nexus)
        return
    if own_key:
        # Any of them can be the sender's; the holder, too.
        held = draft.reservation
        facts = {Fact.REGISTRATIONS}
        if held is not None and (
            held.type.all_registrants
            or held.holder is None
            or any(each.nexus == held.holder for each in own_key)
        ):
            facts.add(Fact.RESERVATION)
        draft.anchor = None
        which = f"one of {among} registrations" if among > 1 else "the registration"
        draft.doubt(facts, f"{nexus} may be {which} with key 0x{key:x}")
    if draft.unattributed and key not in draft.unattributed and not own_key:
        draft.anchor = None
        draft.doubt((Fact.REGISTRATIONS,), f"{nexus} has key 0x{key:x}, which was not listed")
    if key in draft.unattributed:
        rest = list(draft.unattributed)
        rest.remove(key)
        draft.unattributed = tuple(rest)
    draft.ordered = False
    draft.put(Registration(nexus, key, local=True, source=Source.OBSERVED, at=seen.time))


def leave(draft: Draft, held: Reservation, nexus: Nexus) -> None:
    """Settle what becomes of an all-registrants reservation after nexus' registration went."""
    if not draft.known(Fact.REGISTRATIONS):
        why = f"{nexus} may have been the last registrant"
        draft.doubt((Fact.RESERVATION,), why)
        draft.reservation = replace(held, designated=None)
    elif not draft.registrations:
        draft.reservation = None
        draft.say(f"released {held.type.name}: the last registrant is gone")
    elif held.designated is None or held.designated == nexus:
        draft.reservation = replace(held, designated=_successor(draft))


def _successor(draft: Draft) -> Nexus | None:
    """Return who is the designated holder once the old one is gone; the list's first on LIO."""
    if not draft.profile.designates:
        return None
    held = draft.reservation
    left = tuple(draft.registrations)
    if len(left) == 1:
        return left[0]
    knew = held is not None and held.designated is not None
    return left[0] if knew and draft.ordered else None


def _add_or_change(draft: Draft, seen: PrOut) -> None:
    own = draft.registrations.get(seen.nexus)
    new = Registration(
        seen.nexus,
        seen.sa_key,
        local=True,
        source=Source.OBSERVED,
        at=seen.time,
        by=seen.issuer,
        initiator_port=None if own is None else own.initiator_port,
        relative_target_port=None if own is None else own.relative_target_port,
        all_ports=seen.all_tg_pt if own is None else own.all_ports,
    )
    draft.advance(1, 1, "")
    if not draft.put(new):
        return
    if own is None:
        draft.say(f"registered 0x{seen.sa_key:x}")
        return
    draft.say(f"changed key 0x{own.key:x} to 0x{seen.sa_key:x}")
    held = draft.reservation
    if held is None or held.type.all_registrants:
        return
    if held.holder is None and _may_hold(draft, held, own):
        draft.doubt((Fact.RESERVATION,), f"{seen.nexus} changed its key, and may hold it")
    if held.holder != seen.nexus:
        return
    if held.key == seen.sa_key or draft.profile.holder_key_follows:
        draft.reservation = replace(held, key=seen.sa_key)
    else:
        draft.doubt(
            (Fact.RESERVATION,),
            f"the holder {seen.nexus} changed its key; the reservation may show the old one",
        )


def _unregister(draft: Draft, seen: PrOut) -> None:
    profile = draft.profile
    own = draft.registrations.get(seen.nexus)
    held = draft.reservation
    if own is None:
        if draft.known(Fact.REGISTRATIONS):
            draft.advance(
                *span(profile.idle_register_adds),
                "not known whether this target counts a REGISTER that changes nothing",
            )
            draft.say("none: not registered")
            return
        idle, left = span(profile.idle_register_adds), span(profile.unregister_adds)
        draft.advance(
            min(*idle, *left),
            max(*idle, *left),
            f"not known whether {seen.nexus} was registered",
        )
        if held is not None and (held.type.all_registrants or held.holder is None):
            draft.doubt((Fact.RESERVATION,), f"not known whether {seen.nexus} held it")
        draft.say("unregistered, if it was registered")
        return
    del draft.registrations[seen.nexus]
    draft.say(f"unregistered 0x{own.key:x}")
    draft.advance(
        *span(profile.unregister_adds), "not known whether this target counts an unregistration"
    )
    if held is None:
        return
    if held.type.all_registrants:
        leave(draft, held, seen.nexus)
    elif held.holder is None and _may_hold(draft, held, own):
        draft.doubt((Fact.RESERVATION,), f"not known whether {seen.nexus} held it")
    elif held.holder == seen.nexus:
        draft.reservation = None
        draft.say(f"released {held.type.name}")
        if not held.type.single_nexus and draft.known(Fact.RESERVATION):
            draft.expect(tuple(draft.registrations), _RO_ATTENTION)


def _may_hold(draft: Draft, held: Reservation, own: Registration) -> bool:
    """Whether own's nexus may be the holder that is not known: by its key, or a former one."""
    return not draft.profile.holder_key_follows or held.key in (own.key, None)


def _doubt_unmatched(draft: Draft) -> None:
    """REGISTER AND IGNORE from a nexus that may be one of those read from the device."""
    draft.anchor = None
    draft.doubt((Fact.REGISTRATIONS,), UNMATCHED)
    held = draft.reservation
    if held is not None:
        holder = None if held.holder is None else draft.registrations.get(held.holder)
        if held.type.all_registrants or holder is None or holder.maybe_local:
            draft.doubt((Fact.RESERVATION,), UNMATCHED)


def _rename(draft: Draft, old: Registration, nexus: Nexus) -> None:
    """Give a registration read from the device its local name."""
    draft.rename(old.nexus, nexus)
    draft.registrations[nexus] = replace(old, nexus=nexus, local=True, maybe_local=False)
