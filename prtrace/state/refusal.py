"""Why a command was answered RESERVATION CONFLICT, by what was known before it (pure).

The reason is a sentence for people.  It is inferred from the state: where a fact that it needs is
in doubt, or where the state would have let the command in, it says so.

Source: SPC-4 5.13.1 (access) and 6.16.2 (service actions of PERSISTENT RESERVE OUT).
"""

from __future__ import annotations

from typing import Final, assert_never

from prtrace.model import Action, ConflictSeen, LegacyReserve, Nexus, Outcome, PrOut
from prtrace.scsi.commands import medium_command
from prtrace.state.access import Standing, may, standing
from prtrace.state.event import key_text
from prtrace.state.unit import Fact, LuState, Registration

_NOT_REGISTERED: Final = "this nexus is not registered"


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
