"""What is learned from everything that is no persistent reservation command with an effect.

Unit attentions, RESERVATION CONFLICT of other commands, SPC-2 RESERVE and RELEASE, PR INs
that failed, and records that were lost.  Most of these are signs that a command went unseen.
"""

from __future__ import annotations

from prtrace.model import (
    Access,
    Attention,
    AttentionSeen,
    ConflictSeen,
    LegacyReserve,
    Nexus,
    OtherUnit,
    Outcome,
    ReadFailed,
    RecordsLost,
    UnreadablePrOut,
)
from prtrace.state import expecting
from prtrace.state.access import Standing, ruling
from prtrace.state.doubt import ALL, named
from prtrace.state.draft import Draft
from prtrace.state.evidence import unknown_nexus
from prtrace.state.order import overlaps
from prtrace.state.unit import Fact, Reservation

_CODES = {
    Attention.RESERVATIONS_PREEMPTED: "2A/03",
    Attention.RESERVATIONS_RELEASED: "2A/04",
    Attention.REGISTRATIONS_PREEMPTED: "2A/05",
    Attention.RESET: "29/xx",
    Attention.INFORMATION_LOST: "44/01",
    Attention.INQUIRY_CHANGED: "3F/03",
    Attention.LUNS_CHANGED: "3F/0E",
}


def note_attention(draft: Draft, seen: AttentionSeen) -> None:
    """A unit attention: raised by a command that was seen, or else a stranger's doing."""
    where = f"{_CODES[seen.attention]}{_on(seen.nexus)}"
    explained = expecting.take(draft, seen)
    match seen.attention:
        case Attention.RESET:
            # It takes the place of others that wait (SAM-6 5.14.2), so it may hide them.
            draft.know_legacy(None)
            draft.anchor = None
            _doubt(draft, f"{where}: reset or power loss")
        case Attention.INFORMATION_LOST:
            draft.registrations = {}
            draft.unattributed = ()
            draft.reservation = None
            draft.generation = draft.anchor = None
            draft.expected = {}
            draft.ordered = False
            _doubt(draft, f"{where}: the device lost its reservations")
        case Attention.INQUIRY_CHANGED | Attention.LUNS_CHANGED:
            draft.anchor = None
            _doubt(draft, f"{where}: another logical unit may be at this address now")
        case _ if explained:
            draft.say(f"expected: {where}")
        case _:
            _doubt(draft, f"{where}: what was seen here does not explain it")


def _on(nexus: Nexus) -> str:
    """Where it was, "" where a log does not tell the path."""
    return f" on {nexus}" if nexus else ""


def note_conflict(draft: Draft, seen: ConflictSeen) -> None:
    """A RESERVATION CONFLICT of an ordinary command: right, unless the state allows access."""
    expecting.answered(draft, seen)
    where = f"RESERVATION CONFLICT{_on(seen.nexus)}"
    held = draft.reservation
    if not draft.confirmed and draft.legacy_holder is None:
        draft.doubt_legacy(f"a command met a reservation of somebody else on {seen.nexus}")
    elif (
        overlaps(draft, seen)
        or not draft.known(Fact.RESERVATION)
        or (draft.legacy_holder is not None and draft.legacy_holder != seen.nexus)
    ):
        draft.say("none")
    elif held is None:
        _doubt(draft, f"{where} while no reservation is known")
    else:
        # Some targets refuse what no reservation should: that says nothing new.
        access = Access.UNKNOWN if seen.access is Access.NONE else seen.access
        rule = ruling(held.type, _standing(draft, seen, held), access)
        if rule.allowed:
            _doubt(draft, f"{where}, though {rule.why}")
        else:
            draft.say("none")


def _standing(draft: Draft, seen: ConflictSeen, held: Reservation) -> Standing:
    if held.holder == seen.nexus:
        return Standing.HOLDER
    hidden = held.holder is None and not held.type.all_registrants
    if hidden or not draft.known(Fact.REGISTRATIONS):
        return Standing.UNKNOWN
    return Standing.REGISTERED if seen.nexus in draft.registrations else Standing.NOT_REGISTERED


def note_legacy(draft: Draft, seen: LegacyReserve) -> None:
    """An SPC-2 RESERVE or RELEASE; beside registrations it changes nothing (SPC-6 5.14.3, CRH)."""
    command = "RELEASE" if seen.release else "RESERVE"
    registered = bool(draft.registrations) or bool(draft.unattributed)
    match seen.outcome:
        case Outcome.DONE if seen.third_party:
            draft.doubt_legacy(f"SPC-2 {command} on {seen.nexus} for a third party")
        case Outcome.DONE if seen.release:
            if draft.legacy_holder == seen.nexus:
                draft.legacy_holder = None
                draft.say("SPC-2 reservation released")
        case Outcome.DONE if not registered:
            draft.know_legacy(seen.nexus)
            draft.say(f"SPC-2 reservation held by {seen.nexus}")
        case Outcome.DONE:
            _reserved_beside_registrations(draft, seen)
        case Outcome.CONFLICT:
            unexplained = not registered and draft.legacy_holder is None
            if unexplained and not draft.confirmed:
                draft.doubt_legacy(f"SPC-2 {command} on {seen.nexus} met a reservation")
            elif unexplained and draft.known(Fact.REGISTRATIONS) and not overlaps(draft, seen):
                _doubt(draft, f"SPC-2 {command} on {seen.nexus} met a RESERVATION CONFLICT")
        case Outcome.UNKNOWN:
            draft.doubt_legacy(f"SPC-2 {command} on {seen.nexus}: outcome unknown")
        case Outcome.NOT_EXECUTED:
            pass
    if not draft.words:
        draft.say("none")


def _reserved_beside_registrations(draft: Draft, seen: LegacyReserve) -> None:
    """A RESERVE that was done though registrations are known.

    It changes nothing where a registrant sends it, and is refused otherwise (SPC-6 5.14.3, CRH).
    Either the sender is one, or nobody is registered any more and the sender holds the unit.
    """
    if seen.nexus in draft.registrations:
        if draft.doubted(Fact.REGISTRATIONS):
            reason = f"SPC-2 RESERVE on {seen.nexus}, which may not be registered"
            _doubt(draft, reason, {Fact.RESERVATION})
        return
    if not unknown_nexus(draft, seen) and not overlaps(draft, seen):
        draft.legacy_holder = seen.nexus
    _doubt(draft, f"SPC-2 RESERVE on {seen.nexus}, which is not known to be registered")


def note_failed_read(draft: Draft, seen: ReadFailed) -> None:
    """A PR IN without a reply.  One that conflicts met an SPC-2 reservation: nothing else does."""
    if seen.outcome is not Outcome.CONFLICT or draft.legacy_holder is not None:
        draft.say("none")
        return
    reason = f"{seen.action} on {seen.nexus} met a RESERVATION CONFLICT: SPC-2 reservation active"
    if overlaps(draft, seen):
        draft.say(reason)
    elif draft.registrations and draft.known(Fact.REGISTRATIONS):
        # Registrations and an SPC-2 reservation exclude each other.
        _doubt(draft, reason)
    else:
        _doubt(draft, reason, {Fact.RESERVATION})


def note_unreadable(draft: Draft, seen: UnreadablePrOut) -> None:
    """A PR OUT that could not be decoded: it may have done anything, conflict included."""
    if seen.outcome is Outcome.NOT_EXECUTED:
        draft.say("none")
    else:
        draft.anchor = None
        _doubt(draft, unreadable(seen))


def unreadable(seen: UnreadablePrOut) -> str:
    """The reason of the doubt that seen makes."""
    return f"PR OUT on {seen.nexus} not understood: {seen.problem}"


def note_other_unit(draft: Draft, seen: OtherUnit) -> None:
    """What was seen on a nexus may be of another unit, this one's or the other's: all of it.

    When the device confirmed something over that nexus, it may have been the other unit that did.
    """
    draft.expected.pop(seen.nexus, None)
    draft.anchor = draft.census = None
    # No reply shows which unit they are of.
    draft.capabilities = draft.aptpl = None
    draft.names_nexuses = True
    draft.confirmed = {
        fact: each for fact, each in draft.confirmed.items() if each.nexus != seen.nexus
    }
    if not seen.found:
        _doubt(draft, f"which unit answered over {seen.nexus} is not known")
        return
    draft.over(seen.nexus)
    _doubt(
        draft, f"{seen.nexus} leads to {seen.found}: its commands were taken for another unit's"
    )


def note_loss(draft: Draft, seen: RecordsLost) -> None:
    """Records that never came: anything may have happened meanwhile."""
    # What PRGENERATION does not count, an unregistration, may have been among them.  A timed-out
    # command stays under way, though the record of its end may be lost too, until that is known.
    draft.anchor = None
    if seen.over:
        draft.over(seen.nexus)
    noun = "record" if seen.count == 1 else "records"
    _doubt(draft, f"{seen.count} {noun} of {seen.nexus} lost ({seen.cause})")


def _doubt(draft: Draft, reason: str, facts: frozenset[Fact] | set[Fact] = ALL) -> None:
    draft.doubt(facts, reason)
    draft.settle(frozenset(facts))
    draft.say(f"in doubt: {named(facts)} ({reason})")
