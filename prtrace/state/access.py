"""What a reservation lets a nexus do, and the rule in words (pure).

Source: SPC-4 5.13.1 and its table "commands that are allowed in the presence of various
reservations", SBC-3 table of the same name.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from prtrace.model import Access, Nexus, ReservationType
from prtrace.state.binding import is_other_session, isid_of, may_be_own
from prtrace.state.quirks import profile_of
from prtrace.state.unit import Fact, LuState, Registration, Reservation


class Standing(enum.Enum):
    """What a nexus is to the reservation."""

    HOLDER = "holds the reservation"
    REGISTERED = "is registered"
    NOT_REGISTERED = "is not registered"
    UNKNOWN = "may be registered or not"


class Ruling(NamedTuple):
    """Whether a command is let in."""

    allowed: bool | None
    """None where that is not known."""
    why: str
    """The rule, as a sentence without its full stop."""


_FREE = Ruling(True, "nothing is reserved")


def ruling(held: ReservationType | None, standing: Standing, access: Access) -> Ruling:
    """Whether a reservation of type held lets a command in; None is no reservation."""
    if held is None:
        return _FREE
    if access is Access.NONE:
        return Ruling(True, "no reservation refuses this command")
    if standing is Standing.UNKNOWN:
        rulings = [ruling(held, each, access) for each in Standing if each is not standing]
        if len({each.allowed for each in rulings}) == 1:
            return rulings[-1]
        return Ruling(None, f"under {held.name} it depends on whether this nexus is registered")
    if standing is Standing.HOLDER or (held.all_registrants and standing is Standing.REGISTERED):
        return Ruling(True, "this nexus holds the reservation")
    if standing is Standing.REGISTERED and not held.single_nexus:
        return Ruling(True, f"{held.name} lets every registered nexus in")
    if held in _WRITE_EXCLUSIVE and access is Access.READ:
        return Ruling(True, f"{held.name} lets everybody read")
    if access is Access.UNKNOWN:
        return Ruling(None, "whether a reservation refuses this command is not known here")
    refused = "writes" if held in _WRITE_EXCLUSIVE else "reads and writes"
    if held.single_nexus:
        return Ruling(False, f"{held.name} refuses {refused} of every nexus but the holder")
    return Ruling(False, f"{held.name} refuses {refused} of a nexus that is not registered")


_WRITE_EXCLUSIVE = (ReservationType.WE, ReservationType.WERO, ReservationType.WEAR)


def standing(state: LuState, nexus: Nexus) -> Standing:
    """What nexus is to the unit's reservation, as far as the state knows."""
    if state.doubted(Fact.REGISTRATIONS) or state.unattributed:
        return Standing.UNKNOWN
    if nexus in state.registrations:
        return Standing.HOLDER if nexus in state.holders else Standing.REGISTERED
    path = state.paths.get(nexus)
    if may_be_own(state.registrations.values(), None if path is None else path.local):
        return Standing.UNKNOWN
    return Standing.NOT_REGISTERED


def may(state: LuState, nexus: Nexus, access: Access) -> Ruling:
    """Whether nexus may read or write the unit now, as far as the state knows."""
    if state.doubted(Fact.RESERVATION):
        return Ruling(None, "what is reserved is in doubt")
    if state.legacy_holder is not None and access is not Access.NONE:
        if state.legacy_holder == nexus:
            return Ruling(True, "this nexus holds the SPC-2 reservation")
        return Ruling(False, f"an SPC-2 RESERVE by {state.legacy_holder} refuses everybody else")
    if not state.supported:
        return _FREE
    found = state.reservation
    held = None if found is None else found.type
    place = standing(state, nexus)
    told = ruling(held, place, access)
    if found is None:
        return told
    if profile_of(state.target).mixes_sessions is not False:
        mixed = None if place is Standing.HOLDER else _mixed(state, nexus, found)
        why = "this initiator has another session, and this target may take one for the other"
        if _may_be_overlooked(state, nexus, found):
            mixed = Standing.NOT_REGISTERED
            why = "this target may have forgotten it with another session of the initiator"
        if mixed is not None and ruling(held, mixed, access).allowed is not told.allowed:
            return Ruling(None, why)
    if place is not Standing.REGISTERED:
        return told
    hidden = found.holder is None and not found.type.all_registrants
    if hidden and told.allowed is not ruling(held, Standing.HOLDER, access).allowed:
        return Ruling(None, f"under {found.type.name} it depends on which nexus holds it")
    return told


_COMPARED: Final = 8
"""Digits of an ISID's text that LIO compares: it takes the text's first 8 bytes for the number."""


def _mixed(state: LuState, nexus: Nexus, found: Reservation) -> Standing | None:
    """What LIO takes nexus for, where another session of its initiator is registered; else None.

    target_scsi3_pr_reservation_check() and core_scsi3_pr_seq_non_holder() (drivers/target/
    target_core_pr.c) look at the initiator's node ACL, of which one bit says that any session is
    registered, and compare 8 bytes of the ISID's text with the holder's.
    """
    path = state.paths.get(nexus)
    own = None if path is None else path.local
    isid = isid_of(None if own is None else own.initiator_port)
    if own is None or not isid:
        return None
    others = {
        each.nexus: port
        for each in state.registrations.values()
        if each.nexus != nexus
        and (port := _port(state, each))
        and is_other_session(port, each.relative_target_port, own)
    }
    if not others:
        return None
    holder = others.get(found.holder or found.designated or "")
    if holder is None:
        return Standing.REGISTERED
    alike = isid_of(holder)[:_COMPARED] == isid[:_COMPARED]
    return Standing.HOLDER if alike else Standing.NOT_REGISTERED


def _may_be_overlooked(state: LuState, nexus: Nexus, found: Reservation) -> bool:
    """Whether LIO may take nexus, which is registered, for one that is not.

    Only the holder is looked for without the bit of _mixed(): see prtrace.state.sessions.
    """
    own = state.registrations.get(nexus)
    holds = nexus in (found.holder, found.designated)
    return own is not None and own.overlooked and not holds


def _port(state: LuState, each: Registration) -> str | None:
    """The registration's initiator port; a command that was seen names its path only."""
    path = state.paths.get(each.nexus)
    return each.initiator_port or (None if path is None else path.local.initiator_port)
