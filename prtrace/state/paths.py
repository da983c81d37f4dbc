"""What it means for the state that this host's paths to the unit change.

A registration belongs to an I_T nexus, the pair of ports (SPC-6 5.14.7); a scsi_device comes
and goes, and the kernel gives its H:C:T:L to the next one.  So whatever is known under an
address is put under the port names when the scsi_device is gone, and under the new address
when a scsi_device with these ports appears.  What has no port names cannot be followed: it
keeps a name of its own, and is in doubt.

With its path an initiator may have logged out of the target, and not every target keeps what an
initiator has registered until it logs in again (Profile.forgets_at_logout).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from prtrace.model import LOCAL_NAME, LocalNexus, Nexus, PathsSeen
from prtrace.state.binding import is_same_initiator, may_be, port_names, same_names
from prtrace.state.doubt import ALL, named
from prtrace.state.draft import Draft
from prtrace.state.unit import Fact, Path, Registration

_FORGETTING = "the target may have forgotten with a session what its initiator registered"


def note_paths(draft: Draft, seen: PathsSeen) -> None:
    """Take the paths of seen as those of the unit from now on."""
    before = draft.paths
    now = {path.nexus: path for path in seen.paths}
    kept = {
        nexus
        for nexus, path in before.items()
        if nexus in now and _is_same(path.local, now[nexus])
    }
    gone = [path.local for nexus, path in before.items() if nexus not in kept]
    # Of a time when nobody told paths.
    gone += (
        LocalNexus(
            each.nexus,
            draft.lu,
            initiator_port=each.initiator_port,
            relative_target_port=each.relative_target_port,
        )
        for each in draft.registrations.values()
        if each.local and each.nexus not in before and each.nexus not in now
    )
    came = [path for path in now.values() if path.nexus not in kept]
    _depart(draft, gone, [*gone, *(before[nexus].local for nexus in kept)])
    draft.paths = {
        path.nexus: (
            replace(before[path.nexus], local=path)
            if path.nexus in kept
            else Path(path, seen.done_ns, renewed=path.nexus in before)
        )
        for path in seen.paths
    }
    # A scsi_device goes when its requests are over, and this may be the first to tell.
    draft.under_way = tuple(
        each
        for each in draft.under_way
        if each.nexus in now and _may_be_one_life(each.life, now[each.nexus].life)
    )
    if draft.paths:
        draft.gone_since = None
    elif draft.gone_since is None:
        draft.gone_since = draft.seen.time
    learned = [now[nexus] for nexus in kept if _named(now[nexus]) != _named(before[nexus].local)]
    _arrive(draft, [*came, *learned])
    _mark_maybe_local(draft)
    _describe(draft, gone, came, [now[n] for n in kept if now[n] != before[n].local])
    if draft.lu.startswith(LOCAL_NAME) and gone and not kept:
        draft.forget()
        draft.doubt(ALL, "never read")
        draft.say("a unit without a designator ends with its device")


def doubt_what_a_log_in_ends(draft: Draft, seen: PathsSeen) -> None:
    """Put in doubt what the target may have forgotten; to be called before note_paths().

    Any registration of the initiator at the target port of a path that is gone or new: that of a
    session before the last log-in is kept, and goes, with those of the others.
    """
    if draft.profile.forgets_at_logout is False:
        return
    now = {path.nexus: path for path in seen.paths}
    gone = [
        path.local
        for nexus, path in draft.paths.items()
        if nexus not in now or not _is_same(path.local, now[nexus])
    ]
    before = draft.paths
    came = [
        path
        for nexus, path in now.items()
        if nexus not in before or not _is_same(before[nexus].local, path)
    ]
    ports = [_ports(draft, each) for each in draft.registrations.values()]
    ports += [(None, None)] if draft.unattributed else []
    for path in (*gone, *came):
        if any(is_same_initiator(port, relative, path) for port, relative in ports):
            what = "is gone" if path in gone else "is new"
            reason = f"{path.nexus} {what}, and {_FORGETTING}"
            draft.anchor = draft.census = None
            draft.doubt(ALL, reason)
            draft.settle(ALL)
            draft.say(f"in doubt: {named(ALL)} ({reason})")
            return


def _ports(draft: Draft, each: Registration) -> tuple[str | None, int | None]:
    """The registration's ports, as far as they are known; a command that was seen names none."""
    path = draft.paths.get(each.nexus)
    if path is None:
        return each.initiator_port, each.relative_target_port
    local = path.local
    return each.initiator_port or local.initiator_port, local.relative_target_port


def is_former(draft: Draft, nexus: Nexus, life: int, done_ns: int) -> bool:
    """Whether a command that went over the address nexus may have met another scsi_device.

    life: that of the scsi_device that carried it, 0 where not known; done_ns: its end.
    """
    if not draft.paths or not nexus:
        return False
    path = draft.paths.get(nexus)
    if path is None:
        return True
    if life and path.local.life:
        return life != path.local.life
    return path.renewed and done_ns < path.since_ns


def _is_same(old: LocalNexus, new: LocalNexus) -> bool:
    """Whether both describe one life of one scsi_device, and one nexus."""
    if not _may_be_one_life(old.life, new.life):
        return False
    ports = ((old.initiator_port, new.initiator_port), (old.target_port, new.target_port))
    changed = any(a and b and a.casefold() != b.casefold() for a, b in ports)
    relative = old.relative_target_port, new.relative_target_port
    return not changed and (None in relative or relative[0] == relative[1])


def _may_be_one_life(one: int, other: int) -> bool:
    return 0 in (one, other) or one == other


def _named(path: LocalNexus) -> bool:
    return bool(path.initiator_port) and path.relative_target_port is not None


def _depart(draft: Draft, gone: Iterable[LocalNexus], before: Iterable[LocalNexus]) -> None:
    """Put what is known under addresses that are gone under the names of their ports."""
    times = Counter(port_names(path) for path in before if _named(path))
    for path in gone:
        own = draft.registrations.get(path.nexus)
        unique = _named(path) and times[port_names(path)] == 1
        name = (
            f"{path.initiator_port},{path.relative_target_port}"
            if unique
            else f"{path.nexus}@{draft.seen.time}"
        )
        draft.expected.pop(path.nexus, None)
        # A scsi_device goes when its requests are over.
        draft.over(path.nexus)
        if draft.legacy_holder == path.nexus:
            # It ends with the I_T nexus (SPC-2 5.5.1), if the nexus ended with the path.
            draft.legacy_holder = None
            draft.doubt((Fact.RESERVATION,), f"{path.nexus}, which held it by SPC-2, is gone")
        if own is not None and name in draft.registrations:
            # Two names for one nexus: whoever told the second one did not know the first.
            del draft.registrations[name]
            draft.doubt((Fact.REGISTRATIONS,), f"two registrations are known of {name}")
        if own is not None and not unique:
            held = draft.reservation
            holds = held is not None and (held.type.all_registrants or held.holder == path.nexus)
            facts = {Fact.REGISTRATIONS, Fact.RESERVATION} if holds else {Fact.REGISTRATIONS}
            reason = f"{path.nexus} is gone, and its ports are not known"
            draft.anchor = None
            draft.doubt(facts, reason)
            draft.say(f"in doubt: {named(facts)} ({reason})")
        draft.rename(path.nexus, name)
        if own is not None:
            draft.registrations[name] = replace(
                own,
                nexus=name,
                local=False,
                initiator_port=path.initiator_port or own.initiator_port,
                relative_target_port=path.relative_target_port
                if path.relative_target_port is not None
                else own.relative_target_port,
            )


def _arrive(draft: Draft, came: Iterable[LocalNexus]) -> None:
    """Put what is known under the names of ports under the address that they have now."""
    times = Counter(port_names(path.local) for path in draft.paths.values() if _named(path.local))
    for path in came:
        if not _named(path) or times[port_names(path)] > 1:
            continue
        _move_away(draft, path)
        for each in list(draft.registrations.values()):
            if each.local or each.initiator_port is None:
                continue
            if each.relative_target_port is None:
                if same_names(each.initiator_port, path):
                    # Registered for all target ports: this one may be among them.
                    draft.anchor = None
                    draft.doubt(
                        (Fact.REGISTRATIONS,), f"whether {path.nexus} is registered is not known"
                    )
            elif port_names(path) == (each.initiator_port.casefold(), each.relative_target_port):
                _rebind(draft, each, path)


def _move_away(draft: Draft, path: LocalNexus) -> None:
    """Free path's address from a registration of other ports: of a time when nobody told paths."""
    own = draft.registrations.get(path.nexus)
    if own is None or own.initiator_port is None or own.relative_target_port is None:
        return
    name = f"{own.initiator_port},{own.relative_target_port}"
    if port_names(path) != (own.initiator_port.casefold(), own.relative_target_port):
        draft.rename(path.nexus, name)
        draft.registrations[name] = replace(draft.registrations[name], local=False)


def _rebind(draft: Draft, old: Registration, path: LocalNexus) -> None:
    own = draft.registrations.get(path.nexus)
    if own is not None:
        draft.anchor = None
        draft.doubt((Fact.REGISTRATIONS,), f"two registrations are known of {path.nexus}")
        if draft.reservation is not None:
            draft.doubt((Fact.RESERVATION,), f"two registrations are known of {path.nexus}")
        del draft.registrations[old.nexus]
    draft.rename(old.nexus, path.nexus)
    kept = old if own is None else own
    draft.registrations[path.nexus] = replace(
        kept, nexus=path.nexus, local=True, maybe_local=False
    )


def _mark_maybe_local(draft: Draft) -> None:
    """Say of each registration of elsewhere whether it may be that of a path of this host.

    Of a nameless one, or of a session where the registration was listed without an ISID.
    """
    if not draft.paths:
        return
    free = [
        path.local for path in draft.paths.values() if path.local.nexus not in draft.registrations
    ]
    for nexus, each in draft.registrations.items():
        if each.local:
            continue
        maybe = any(may_be(each.initiator_port, each.relative_target_port, p) for p in free)
        if maybe != each.maybe_local:
            draft.registrations[nexus] = replace(each, maybe_local=maybe)


def _describe(
    draft: Draft,
    gone: Iterable[LocalNexus],
    came: Iterable[LocalNexus],
    changed: Iterable[LocalNexus],
) -> None:
    for word, paths in (("vanished", gone), ("appeared", came), ("changed", changed)):
        told = [_text(path) for path in paths]
        if told:
            draft.say(f"{word}: {', '.join(told)}")


def _text(path: LocalNexus) -> str:
    parts = [part for part in (path.device, path.initiator_port or "", path.state) if part]
    return f"{path.nexus} ({', '.join(parts)})" if parts else path.nexus


def by_address(paths: Mapping[Nexus, Path]) -> tuple[LocalNexus, ...]:
    """The paths as an inventory lists them."""
    return tuple(path.local for path in paths.values())
