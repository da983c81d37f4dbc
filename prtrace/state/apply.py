"""The reservation state machine: one observation changes one state.

    state = new_state(lu, target, time)
    for seen in observations:
        change = apply(state, seen)
        state = change.state

apply never raises for anything that can be observed: what does not fit makes doubt.
Observations come in the order of their completion; the spans in them say which overlap.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple, assert_never

from prtrace.model import (
    PREEMPTS,
    REGISTERS,
    Action,
    AnyObservation,
    Attention,
    AttentionSeen,
    CapabilitiesRead,
    ConflictSeen,
    FullStatusRead,
    KeysRead,
    LegacyReserve,
    NotWatched,
    OtherUnit,
    Outcome,
    PathsSeen,
    PrOut,
    ReadFailed,
    RecordsLost,
    ReservationRead,
    UnreadablePrOut,
    Unsupported,
)
from prtrace.state import doubt, expecting, signs
from prtrace.state.draft import GENERATION_MASK, MAX_UNDER_WAY, Draft, draft_of
from prtrace.state.evidence import contradicted, unknown_nexus
from prtrace.state.learning import learn_full_status
from prtrace.state.naming import move, specify
from prtrace.state.order import Order, another_overlaps, commutes, could_touch, place
from prtrace.state.partial import give_names_up, learn_keys, learn_reservation, take_names_up
from prtrace.state.paths import doubt_what_a_log_in_ends, is_former, note_paths
from prtrace.state.preempting import preempt
from prtrace.state.registering import register
from prtrace.state.reserving import clear, release, reserve
from prtrace.state.sessions import note_sessions
from prtrace.state.unit import Fact, LuState, UnderWay

_ANSWERS = (CapabilitiesRead, KeysRead, ReservationRead, FullStatusRead, Unsupported)
_OUTCOMES = (PrOut, UnreadablePrOut, ReadFailed, LegacyReserve)
_OF_RESERVATIONS = (
    Attention.RESERVATIONS_PREEMPTED,
    Attention.RESERVATIONS_RELEASED,
    Attention.REGISTRATIONS_PREEMPTED,
)


class Change(NamedTuple):
    """The state after an observation, and in a few words what the observation changed."""

    state: LuState
    effect: str


def new_state(lu: str, target: str = "", time: int = 0) -> LuState:
    """Return the state of a logical unit that was never seen: everything is in doubt.

    target: "VENDOR/PRODUCT/REVISION".  time: now, nanoseconds since the epoch.
    """
    return LuState(lu, target, doubts=doubt.added((), doubt.ALL, "never read", time))


def in_doubt(state: LuState, reason: str, time: int) -> LuState:
    """Return state with everything in doubt for a reason that is no observation of its own."""
    doubts = doubt.added(state.doubts, doubt.ALL, reason, time)
    return replace(state, doubts=doubts, spread=None, surplus=None)


def _unwatched(draft: Draft, state: LuState) -> LuState:
    """Return a state for use after a time that nobody watched, a restart of the host perhaps.

    What anybody did meanwhile is not known; neither are the unit attentions that are left, nor
    which scsi_device stands for which nexus.
    """
    seen = draft.seen
    note_paths(draft, PathsSeen(lu=seen.lu, nexus="", time=seen.time, paths=()))
    note_sessions(draft, state)
    fresh = replace(
        draft.freeze(state),
        expected=LuState("").expected,
        legacy_holder=None,
        legacy_doubt="",
        settled_ns=0,
        settled_by="",
        recent=(),
        floor_ns=0,
        anchor=None,
        census=None,
        seq=0,
        under_way=tuple(each._replace(unwatched=True) for each in state.under_way),
        aptpl=None,
        confirmed=MappingProxyType(
            {fact: replace(each, start_ns=0) for fact, each in draft.confirmed.items()}
        ),
    )
    return in_doubt(fresh, "nobody was watching", seen.time)


def apply(state: LuState, seen: AnyObservation) -> Change:
    """Return what seen makes of state."""
    if not state.supported and (_proves_support(seen) or isinstance(seen, OtherUnit)):
        # Where it was another unit, it was the other that had no reservations.
        state = _anew(state, seen.time)
    draft = draft_of(state, seen)
    if isinstance(seen, PrOut | UnreadablePrOut) and not seen.timed_out:
        draft.over(seen.nexus, seen.start_ns)
    if is_former(draft, seen.nexus, seen.life, seen.done_ns):
        seen = draft.seen = replace(seen, nexus=f"{seen.nexus} (a device that is gone)")
        former = True
    else:
        former = False
    if isinstance(seen, _ANSWERS) or (
        isinstance(seen, _OUTCOMES) and seen.outcome is not Outcome.NOT_EXECUTED
    ):
        expecting.answered(draft, seen)
    match seen:
        case PrOut() if former:
            _former(draft, seen)
        case PrOut():
            _pr_out(draft, seen)
        case FullStatusRead():
            take_names_up(draft)
            learn_full_status(draft, seen)
            _settle_reply(draft, state)
        case KeysRead():
            learn_keys(draft, seen)
            _settle_reply(draft, state)
        case ReservationRead():
            learn_reservation(draft, seen)
            _settle_reply(draft, state)
        case CapabilitiesRead():
            _learn_capabilities(draft, seen)
        case ReadFailed():
            signs.note_failed_read(draft, seen)
        case LegacyReserve():
            signs.note_legacy(draft, seen)
        case AttentionSeen():
            signs.note_attention(draft, seen)
        case ConflictSeen():
            signs.note_conflict(draft, seen)
        case RecordsLost():
            signs.note_loss(draft, seen)
        case OtherUnit():
            signs.note_other_unit(draft, seen)
        case UnreadablePrOut():
            signs.note_unreadable(draft, seen)
            if seen.timed_out:
                _note_under_way(draft, seen, signs.unreadable(seen), doubt.ALL)
        case NotWatched():
            return Change(_unwatched(draft, state), "in doubt: nobody was watching")
        case PathsSeen():
            doubt_what_a_log_in_ends(draft, seen)
            note_paths(draft, seen)
        case Unsupported():
            return _unsupported(draft, state, seen)
        case _:
            assert_never(seen)
    note_sessions(draft, state)
    return Change(draft.freeze(state), "; ".join(draft.words) or "none")


def _learn_capabilities(draft: Draft, seen: CapabilitiesRead) -> None:
    told = seen.capabilities != draft.capabilities
    draft.capabilities = seen.capabilities
    if draft.aptpl is not seen.capabilities.ptpl_a:
        # A reply that overlaps a REGISTER may be older than its APTPL bit.
        draft.aptpl = None if another_overlaps(draft, seen) else seen.capabilities.ptpl_a
    draft.say("read: capabilities" if told else "confirmed by reading")


def _unsupported(draft: Draft, state: LuState, seen: Unsupported) -> Change:
    if seen.full_status:
        draft.names_nexuses = False
        give_names_up(draft)
        return Change(draft.freeze(state), "none: READ FULL STATUS is not known to the device")
    if draft.registrations or draft.reservation is not None or draft.confirmed:
        # It has known reservations before, and will again: they may all be there still.
        _doubt(draft, doubt.ALL, f"READ KEYS on {seen.nexus} is not known to the device any more")
        return Change(draft.freeze(state), "; ".join(draft.words))
    # SPC-2's: the device may check them before it knows that it lacks the others, or after.
    reason = state.legacy_doubt
    doubts = doubt.added((), [Fact.RESERVATION] if reason else (), reason, seen.time)
    for each in state.under_way:
        doubts = doubt.added(doubts, each.facts, each.reason, seen.time)
    known = replace(state, target=draft.target)
    none = replace(_anew(known, seen.time), doubts=doubts, supported=False)
    return Change(none, "the device has no persistent reservations")


def _anew(state: LuState, time: int) -> LuState:
    """Return the state of a unit of which nothing is known but what leads to it."""
    return replace(
        new_state(state.lu, state.target, time),
        seq=state.seq,
        paths=state.paths,
        gone_since=state.gone_since,
        under_way=state.under_way,
        legacy_holder=state.legacy_holder,
        legacy_doubt=state.legacy_doubt,
    )


def _proves_support(seen: AnyObservation) -> bool:
    """Whether only a device that has persistent reservations, or SPC-2's, answers so."""
    if isinstance(seen, PrOut):
        return seen.outcome in (Outcome.DONE, Outcome.CONFLICT)
    if isinstance(seen, AttentionSeen):
        return seen.attention in _OF_RESERVATIONS
    return isinstance(seen, KeysRead | ReservationRead | FullStatusRead | ConflictSeen)


def _settle_reply(draft: Draft, state: LuState) -> None:
    """A reply that told nothing new does not count: it cannot hide a command it overlapped."""
    told = (
        draft.registrations != state.registrations
        or draft.reservation != state.reservation
        or draft.generation != state.generation
        or draft.doubts != state.doubts
        or draft.unattributed != state.unattributed
        or draft.legacy_holder != state.legacy_holder
    )
    if told:
        draft.settle()


def _pr_out(draft: Draft, seen: PrOut) -> None:
    if seen.outcome is not Outcome.NOT_EXECUTED:
        draft.census = None
    match seen.outcome:
        case Outcome.DONE:
            _done(draft, seen)
        case Outcome.CONFLICT:
            _conflict(draft, seen)
        case Outcome.UNKNOWN:
            _unknown(draft, seen)
        case Outcome.NOT_EXECUTED:
            draft.say("none")
        case _:
            assert_never(seen.outcome)


def _former(draft: Draft, seen: PrOut) -> None:
    """A PR OUT over a scsi_device whose address stands for another nexus by now, or for none."""
    harmless = seen.outcome is Outcome.CONFLICT and seen.action not in PREEMPTS
    if seen.outcome is Outcome.NOT_EXECUTED or harmless:
        draft.say("none")
        return
    draft.anchor = draft.census = None
    facts = could_touch(seen.action)
    _doubt(draft, facts, f"{seen.action.value} on {seen.nexus}")
    draft.settle(facts)


def _conflict(draft: Draft, seen: PrOut) -> None:
    if seen.action in PREEMPTS:
        # SPDK answers so after it removed the holder and the sender.
        facts = doubt.ALL
        reason = f"{seen.action.value} on {seen.nexus} met a RESERVATION CONFLICT"
    elif draft.legacy_holder is None and place(draft, seen).order is Order.AFTER:
        facts = contradicted(draft, seen)
        reason = f"{seen.action.value} on {seen.nexus} should not have met a RESERVATION CONFLICT"
    else:
        facts, reason = doubt.NONE, ""
    if not facts:
        draft.say("none")
        return
    if seen.action not in PREEMPTS or not _counts(draft, seen):
        draft.anchor = None
    _doubt(draft, facts, reason)
    draft.settle(facts)


def _unknown(draft: Draft, seen: PrOut) -> None:
    placed = place(draft, seen)
    facts = _changes(draft, seen)
    if placed.order is Order.UNKNOWN:
        facts |= placed.doubtful
        draft.anchor = None
    if not _counts(draft, seen):
        # Done or not, PRGENERATION shows the same.
        draft.anchor = None
    problem = seen.problem or "outcome unknown"
    reason = f"{seen.action.value} on {seen.nexus}: {problem}"
    _doubt(draft, facts, reason)
    if seen.timed_out:
        _note_under_way(draft, seen, reason, facts)
    draft.settle(facts)


def _counts(draft: Draft, seen: PrOut) -> bool:
    """Whether PRGENERATION tells if seen was carried out, as far as it changes registrations."""
    match seen.action:
        case Action.REGISTER | Action.REGISTER_AND_IGNORE:
            return seen.sa_key != 0 or draft.profile.unregister_adds == 1
        case Action.RESERVE | Action.RELEASE | Action.CLEAR | Action.REGISTER_AND_MOVE:
            return True
        case Action.PREEMPT | Action.PREEMPT_AND_ABORT:
            return draft.profile.counts_removed is False
        case Action.REPLACE_LOST:
            return False
        case _:
            assert_never(seen.action)


def _note_under_way(
    draft: Draft, seen: PrOut | UnreadablePrOut, reason: str, facts: frozenset[Fact]
) -> None:
    """Nothing that is read before the request is over shows what the device will do yet."""
    new = UnderWay(seen.nexus, seen.start_ns, reason, facts, life=seen.life)
    if len(draft.under_way) >= MAX_UNDER_WAY:
        # For all that come after: it ends when nothing is under way on the nexus.
        why = f"more than {MAX_UNDER_WAY} commands are under way"
        new = UnderWay(seen.nexus, 0, why, doubt.ALL, life=seen.life)
    if new not in draft.under_way:
        draft.under_way = (*draft.under_way, new)


def _done(draft: Draft, seen: PrOut) -> None:
    placed = place(draft, seen)
    swaps = commutes(draft, seen)
    new = seen.nexus not in draft.registrations
    if placed.order is Order.UNKNOWN:
        draft.quiet = True
        draft.anchor = None
        _doubt(
            draft,
            placed.doubtful,
            f"{seen.action.value} on {seen.nexus} overlapped a command on {placed.other}",
        )
    else:
        wrong = contradicted(draft, seen)
        if wrong:
            draft.anchor = None
            _doubt(draft, wrong, f"{seen.action.value} on {seen.nexus} should not have been done")
        # With an SPC-2 reservation active it would have met a conflict.
        draft.legacy_holder = None
    before = draft.surplus_of()
    _take_effect(draft, seen, placed.order)
    if draft.surplus is not None:
        draft.surplus = (draft.surplus + draft.surplus_of() - before) & GENERATION_MASK
    if new and placed.order is not Order.AFTER:
        draft.ordered = False
    touched = could_touch(seen.action)
    if swaps and placed.order is not Order.UNKNOWN:
        draft.settle(touched - {Fact.RESERVATION}, commutes=True)
    else:
        draft.settle(touched)


def _take_effect(draft: Draft, seen: PrOut, order: Order) -> None:
    _take_aptpl(draft, seen, order)
    _note_what_it_rests_on(draft, seen)
    match seen.action:
        case Action.REGISTER | Action.REGISTER_AND_IGNORE:
            specifies = seen.spec_i_pt and seen.nexus not in draft.registrations
            register(draft, seen)
            if specifies:
                specify(draft, seen)
            elif seen.spec_i_pt:
                # The standard refuses it on a nexus that is registered.
                _doubt(draft, doubt.ALL, f"{seen.action.value} on {seen.nexus} with SPEC_I_PT")
        case Action.RESERVE:
            reserve(draft, seen)
        case Action.RELEASE:
            release(draft, seen)
        case Action.CLEAR:
            clear(draft, seen)
        case Action.PREEMPT | Action.PREEMPT_AND_ABORT:
            preempt(draft, seen)
        case Action.REGISTER_AND_MOVE:
            move(draft, seen)
        case Action.REPLACE_LOST:
            draft.anchor = None
            draft.ordered = False
            _doubt(draft, doubt.ALL, f"{seen.action.value} on {seen.nexus}")
        case _:
            assert_never(seen.action)


def _note_what_it_rests_on(draft: Draft, seen: PrOut) -> None:
    """A fact that changes by what is known of another is as old as that one."""
    match seen.action:
        case Action.PREEMPT | Action.PREEMPT_AND_ABORT | Action.REGISTER_AND_MOVE:
            draft.rest(Fact.REGISTRATIONS, Fact.RESERVATION)
            draft.rest(Fact.RESERVATION, Fact.REGISTRATIONS)
        case Action.REGISTER | Action.REGISTER_AND_IGNORE:
            held = draft.reservation
            if held is not None and held.type.all_registrants and not seen.sa_key:
                draft.rest(Fact.RESERVATION, Fact.REGISTRATIONS)
        case Action.RESERVE | Action.RELEASE | Action.CLEAR | Action.REPLACE_LOST:
            pass
        case _:
            assert_never(seen.action)


def _take_aptpl(draft: Draft, seen: PrOut, order: Order) -> None:
    """Note what the APTPL bit of a command that was done leaves of the setting.

    LIO ends each REGISTER on a registered nexus with core_scsi3_update_and_write_aptpl, the one
    that unregisters too; SPC-6 5.14.7 speaks of registering alone.
    """
    if seen.action not in (*REGISTERS, Action.REGISTER_AND_MOVE) or draft.aptpl is seen.aptpl:
        return
    if order is not Order.AFTER:
        # Which of two bits came last is not known.
        draft.aptpl = None
        return
    registered = seen.nexus in draft.registrations
    sure = draft.known(Fact.REGISTRATIONS) and not unknown_nexus(draft, seen)
    if seen.sa_key or (sure and registered and draft.profile.unregister_takes_aptpl):
        draft.aptpl = seen.aptpl
    elif registered or not sure:
        draft.aptpl = None


def _changes(draft: Draft, seen: PrOut) -> frozenset[Fact]:
    """Return the facts that seen may have changed if it was carried out."""
    touched = could_touch(seen.action)
    if seen.action not in REGISTERS or not draft.known(Fact.RESERVATION):
        return touched
    held = draft.reservation
    if held is None:
        return touched - {Fact.RESERVATION}
    sender_holds = held.holder in (None, seen.nexus) and not held.type.all_registrants
    shared = held.type.all_registrants and seen.sa_key == 0
    unmatched = any(each.maybe_local for each in draft.registrations.values())
    if sender_holds or shared or unmatched or seen.all_tg_pt:
        return touched
    return touched - {Fact.RESERVATION}


def _doubt(draft: Draft, facts: frozenset[Fact], reason: str) -> None:
    draft.doubt(facts, reason)
    draft.say(f"in doubt: {doubt.named(facts)} ({reason})")
