"""Registrations on which a target may not act, where an initiator has several sessions (pure).

LIO asks one bit of the initiator's node ACL whether a nexus is registered, for all the initiator's
sessions at a target port (drivers/target/target_core_pr.c).  Each new registration sets it
(__core_scsi3_add_registration), the end of any clears it (__core_scsi3_free_registration), and a
REGISTER on a nexus that is registered leaves it.  So a nexus may be registered, be listed, and be
refused.  No reply shows the bit: it is known from the registration of a nexus on, as long as the
commands of its initiator are seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from prtrace.model import LocalNexus, NotWatched, OtherUnit, PrOut, RecordsLost
from prtrace.state.binding import is_other_session, is_same_initiator, isid_of, same_ports
from prtrace.state.draft import Draft
from prtrace.state.unit import Fact, LuState, Registration

_UNSEEN = (NotWatched, OtherUnit, RecordsLost)


def note_sessions(draft: Draft, before: LuState) -> None:
    """Note of which registrations it is not known any more whether the target acts on them."""
    if draft.profile.mixes_sessions is False:
        return
    was, now = before.registrations, draft.registrations
    if isinstance(draft.seen, _UNSEEN):
        _overlook(draft, now.values())
    elif was == now:
        return
    elif isinstance(draft.seen, PrOut):
        for nexus in was.keys() & now.keys():
            if was[nexus].overlooked:
                now[nexus] = replace(now[nexus], overlooked=True)
        for each in [each for nexus, each in now.items() if nexus not in was]:
            if before.doubted(Fact.REGISTRATIONS) or before.unattributed:
                # It may have been there before.
                _overlook(draft, (each,))
            else:
                _see(draft, each)
    else:
        # What a reading or a path brought: under the same ports as before, or of an unseen past.
        for each in list(now.values()):
            old = _of_before(draft, before, each)
            if old is None or old.key != each.key:
                _overlook(draft, (each,))
            elif old.overlooked != each.overlooked:
                now[each.nexus] = replace(each, overlooked=old.overlooked)
    left = [_as_path(draft, each) for each in now.values()]
    for old in was.values():
        gone = _as_path(draft, old, before)
        if old.nexus not in now and not any(_is_same(gone, each) for each in left):
            _overlook(
                draft,
                [
                    each
                    for each in now.values()
                    if is_other_session(
                        gone.initiator_port, gone.relative_target_port, _as_path(draft, each)
                    )
                ],
            )


def _overlook(draft: Draft, registrations: Iterable[Registration]) -> None:
    """The target may take their nexuses for nexuses that are not registered."""
    for each in tuple(registrations):
        if not each.overlooked and isid_of(_as_path(draft, each).initiator_port):
            draft.registrations[each.nexus] = replace(each, overlooked=True)


def _see(draft: Draft, made: Registration) -> None:
    """A nexus was registered: the target acts on every registration of its initiator again."""
    path = _as_path(draft, made)
    if path.initiator_port is None or path.relative_target_port is None:
        return
    for each in tuple(draft.registrations.values()):
        other = _as_path(draft, each)
        named = other.initiator_port is not None and other.relative_target_port is not None
        if named and is_same_initiator(path.initiator_port, path.relative_target_port, other):
            draft.registrations[each.nexus] = replace(each, overlooked=False)


def _of_before(draft: Draft, before: LuState, each: Registration) -> Registration | None:
    """The registration of the same ports before; a path that came or went gave it another name."""
    found = before.registrations.get(each.nexus)
    path = _as_path(draft, each)
    if found is not None and _is_same(_as_path(draft, found, before), path):
        return found
    olds = before.registrations.values()
    return next((old for old in olds if _is_same(_as_path(draft, old, before), path)), None)


def _is_same(one: LocalNexus, other: LocalNexus) -> bool:
    """Whether both have the same ports, as far as they have names."""
    if one.initiator_port is None or other.initiator_port is None:
        return one.nexus == other.nexus
    return (
        same_ports(one.initiator_port, other.initiator_port)
        and one.relative_target_port == other.relative_target_port
    )


def _as_path(draft: Draft, each: Registration, before: LuState | None = None) -> LocalNexus:
    """The registration's nexus; a command that was seen names its address only."""
    path = (draft.paths if before is None else before.paths).get(each.nexus)
    if path is not None:
        return path.local
    return LocalNexus(
        each.nexus,
        draft.lu,
        initiator_port=each.initiator_port,
        relative_target_port=each.relative_target_port,
    )
