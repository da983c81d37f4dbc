"""Why a command was answered RESERVATION CONFLICT, by what was known before it (pure).

The reason is a sentence for people.  It is inferred from the state: where a fact that it needs is
in doubt, or where the state would have let the command in, it says so.

Source: SPC-4 5.13.1 (access) and 6.16.2 (service actions of PERSISTENT RESERVE OUT).
"""

from __future__ import annotations

from typing import Final, assert_never

from prtrace.model import (
    Access,
    Action,
    ConflictSeen,
    LegacyReserve,
    Nexus,
    Outcome,
    PrOut,
    ReservationType,
)
from prtrace.scsi.commands import medium_command
from prtrace.state.access import Standing, may, ruling, standing
from prtrace.state.event import key_text
from prtrace.state.unit import Fact, LuState, Registration

_NOT_REGISTERED: Final = "this nexus is not registered"
_OTHER_KEY: Final = "this nexus is registered with another key than the command gave"


def refusal(state: LuState, seen: object, cdb: bytes, *, block: bool = True) -> str:
    """The reason why seen was refused, "" where it was not, or where nothing can be said.

    state: what was known before the command.  seen: the observation.  cdb: the command's, b""
    where it was not recorded.  block: whether to name the block that it wanted.
    """
    match seen:
        case ConflictSeen():
            return _ordinary(state, seen.nexus, cdb, block=block)
        case PrOut() if seen.outcome is Outcome.CONFLICT:
            return _pr_out(state, seen)
        case LegacyReserve() if seen.outcome is Outcome.CONFLICT:
            if state.registrations and not state.doubted(Fact.REGISTRATIONS):
                return "SPC-2 RESERVE is refused while any nexus is registered"
            if state.legacy_holder not in (None, seen.nexus):
                return f"{_named(state, state.legacy_holder or '')} has an SPC-2 reservation"
            return ""
        case _:
            return ""


def possible_refusals(action: Action, key: int | None, sa_key: int | None) -> tuple[str, ...]:
    """Why a PERSISTENT RESERVE OUT may have been refused of whose sender nothing is known.

    key, sa_key: RESERVATION KEY and SERVICE ACTION RESERVATION KEY of its parameter list, None
    where it is not there.  Each is a clause; one of them holds, or another nexus has an SPC-2
    reservation.
    """
    match action:
        case Action.REGISTER:
            if key is None:
                return (f"{_NOT_REGISTERED}, and the command gave a key", _OTHER_KEY)
            if not key:
                return ("this nexus is registered, and the command says that it has no key",)
            return (_register(None, key), _OTHER_KEY)
        case Action.RELEASE | Action.CLEAR:
            return (_NOT_REGISTERED, _OTHER_KEY)
        case Action.RESERVE:
            held = "another nexus holds a reservation, or this one holds another type"
            return (_NOT_REGISTERED, _OTHER_KEY, held)
        case Action.PREEMPT | Action.PREEMPT_AND_ABORT:
            if sa_key is None:
                return (_NOT_REGISTERED, _OTHER_KEY, "no registration has the key to preempt")
            return (_NOT_REGISTERED, _OTHER_KEY, *([_no_key(sa_key)] if sa_key else []))
        case Action.REGISTER_AND_MOVE:
            held = "this nexus is not the one that alone holds the reservation"
            return (_NOT_REGISTERED, _OTHER_KEY, held)
        case Action.REGISTER_AND_IGNORE | Action.REPLACE_LOST:
            return ()
        case _:
            assert_never(action)


def possible_refusals_of(access: Access) -> tuple[str, ...]:
    """Why a command that is no reservation command may have been refused, as possible_refusals.

    Nothing where no reservation refuses it, or where what it does is not known here.
    """
    refusing = [
        each
        for each in ReservationType
        if ruling(each, Standing.NOT_REGISTERED, access).allowed is False
    ]
    alone = [each.name for each in refusing if each.single_nexus]
    others = [each.name for each in refusing if not each.single_nexus]
    if not refusing:
        return ()
    return (
        f"this nexus is not registered, under {_either(others)}",
        f"this nexus is not the holder, under {_either(alone)}",
    )


def _either(names: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def command_name(cdb: bytes, *, block: bool = False) -> str:
    """The command as the standard writes it, by its operation code; and its first block."""
    command = medium_command(cdb)
    wanted = block and command.lba is not None
    return f"{command.name} at block {command.lba}" if wanted else command.name


def holder(state: LuState) -> str:
    """Who holds what, in words; "" where nothing is known to be reserved."""
    if state.legacy_holder is not None:
        return f"{_named(state, state.legacy_holder)} has an SPC-2 reservation"
    held = state.reservation
    if held is None or state.doubted(Fact.RESERVATION):
        return ""
    if held.type.all_registrants:
        return f"every registered nexus holds {held.type.name}"
    if held.holder is None:
        return f"{held.type.name} is held by a nexus that is not known"
    key = "" if held.key is None else f", key {key_text(held.key)}"
    return f"{held.type.name} is held by {_named(state, held.holder)}{key}"


def _ordinary(state: LuState, nexus: Nexus, cdb: bytes, *, block: bool) -> str:
    what = command_name(cdb, block=block)
    ruled = may(state, nexus, medium_command(cdb).access)
    if ruled.allowed is False:
        told = (f"{what}: {ruled.why}", holder(state), _rank(state, nexus))
        return "; ".join(filter(None, told))
    if ruled.allowed is None:
        return f"{what}: {ruled.why}"
    return f"{what}: what was known would have let it in ({ruled.why})"


def _rank(state: LuState, nexus: Nexus) -> str:
    rank = standing(state, nexus)
    return "" if rank is Standing.UNKNOWN else f"{nexus} {rank.value}"


def _pr_out(state: LuState, seen: PrOut) -> str:
    if state.legacy_holder not in (None, seen.nexus):
        return f"{_named(state, state.legacy_holder or '')} has an SPC-2 reservation"
    rank = standing(state, seen.nexus)
    if rank is Standing.UNKNOWN:
        return ""
    mine = state.registrations.get(seen.nexus)
    match seen.action:
        case Action.REGISTER:
            return _register(mine, seen.key)
        case Action.REGISTER_AND_IGNORE | Action.REPLACE_LOST:
            return ""
        case Action.RESERVE | Action.REGISTER_AND_MOVE:
            wrong_key = _key(mine, seen.key)
            held = "" if rank is Standing.HOLDER else holder(state)
            return wrong_key or (f"{held} already" if held else "")
        case Action.RELEASE | Action.CLEAR:
            return _key(mine, seen.key)
        case Action.PREEMPT | Action.PREEMPT_AND_ABORT:
            return _key(mine, seen.key) or _preempt(state, seen.sa_key)
        case _:
            assert_never(seen.action)


def _register(mine: Registration | None, key: int) -> str:
    if mine is None:
        return (
            f"{_NOT_REGISTERED}, and the command says that it has key {key_text(key)}"
            if key
            else ""
        )
    if mine.key == key:
        return ""
    return f"this nexus has key {key_text(mine.key)}, the command gave {key_text(key)}"


def _key(mine: Registration | None, key: int) -> str:
    return _NOT_REGISTERED if mine is None else _register(mine, key)


def _preempt(state: LuState, key: int) -> str:
    if any(each.key == key for each in state.registrations.values()):
        return ""
    return _no_key(key)


def _no_key(key: int) -> str:
    return f"no registration has key {key_text(key)}"


def _named(state: LuState, nexus: Nexus) -> str:
    """A nexus as people know it: with its disk, or as one that this host does not have.

    It is another host's, or was this host's before a login or on a path that is gone.
    """
    path = state.paths.get(nexus)
    if path is not None:
        return f"{nexus} ({path.local.device})" if path.local.device else nexus
    each = state.registrations.get(nexus)
    if each is None or each.local or each.maybe_local:
        return nexus
    return f"{nexus} (no path of this host)"
