"""What the device says, seen from one side of a move (pure).

A reading tells the side's own registrations from those of the other side and of third
parties.  It is made of READ FULL STATUS, or, where a device has none, of READ KEYS and READ
RESERVATION; then, and where names do not tell the side's own registrations, it is blind: keys
are known, and whose they are is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from prtrace.model import FullStatus, LocalNexus, Nexus, ReservationType
from prtrace.state.binding import Bound, bind, is_other_session, may_be
from prtrace.state.quirks import profile_of

OTHER_SIDE = "source "
"""What the names of the other side's nexuses begin with."""


@dataclass(frozen=True, slots=True)
class OtherRegistration:
    """A registration that is not this side's own.

    nexus: "source H:C:T:L" for the other side's, as far as its port names are known, else
    "<initiator port>,<relative target port>", or "?" in a reading of keys.
    """

    nexus: Nexus
    key: int
    holder: bool = False

    @property
    def other_side(self) -> bool:
        """Whether it is certainly the other side's."""
        return self.nexus.startswith(OTHER_SIDE)


@dataclass(frozen=True, slots=True)
class Reading:
    """own: key by nexus.  type: of the reservation, None where nothing is reserved.

    own_holds: one of the side's own nexuses holds it; None where a blind reading cannot say.
    holder_key: the key that READ RESERVATION shows, of a blind reading only.  repeated: nexuses
    that the reply names more than once: which key each has is not known.  mixed: nexuses that
    the target may take for one of the move's, see _mixed.
    """

    generation: int
    own: Mapping[Nexus, int]
    others: tuple[OtherRegistration, ...]
    type: ReservationType | None
    own_holds: bool | None
    blind: bool = False
    holder_key: int | None = None
    repeated: tuple[Nexus, ...] = ()
    mixed: tuple[Nexus, ...] = ()


def of_full_status(
    generation: int,
    registrations: Iterable[FullStatus],
    own: Iterable[LocalNexus],
    other: Iterable[LocalNexus],
    target: str,
) -> Reading:
    """The reading that a whole READ FULL STATUS reply gives.

    other: the other side's nexuses, named with OTHER_SIDE in front.
    """
    registrations, own, other = tuple(registrations), tuple(own), tuple(other)
    kind = next((each.type for each in registrations if each.holder), None)
    profile = profile_of(target)
    each_listed = profile.lists_every_port
    bound = bind(registrations, (*own, *other), {}, former={}, each_port_listed=each_listed)
    mixed = _mixed(registrations, own, other) if profile.mixes_sessions is not False else ()
    if _hides_own(bound, own):
        holder_key = next((each.key for each in registrations if each.holder), None)
        shared = kind is not None and kind.all_registrants
        keys = [each.key for each in registrations]
        blind = of_keys(generation, keys, kind, 0 if shared else holder_key)
        return replace(blind, mixed=mixed)
    ours = {path.nexus for path in own}
    mine = {nexus: each for nexus, each in bound.by_nexus.items() if nexus in ours}
    others = [
        OtherRegistration(nexus, each.key, each.holder)
        for nexus, each in bound.by_nexus.items()
        if nexus not in ours
    ]
    others += [
        OtherRegistration(
            f"{each.initiator_port},{each.relative_target_port}", each.key, each.holder
        )
        for each in bound.unplaced
    ]
    return Reading(
        generation,
        MappingProxyType({nexus: each.key for nexus, each in mine.items()}),
        tuple(others),
        kind,
        any(each.holder for each in mine.values()),
        repeated=tuple(bound.repeated),
        mixed=mixed,
    )


def _mixed(
    registrations: Iterable[FullStatus], own: Iterable[LocalNexus], other: Iterable[LocalNexus]
) -> tuple[Nexus, ...]:
    """The sessions that a target which mixes them (Profile.mixes_sessions) takes for one that a
    move registers or takes the key from: the other side's for this side's, and for one of either
    side each session that neither has, and that is registered.

    LIO has one bit for all the sessions of an initiator at a target port.  The newest REGISTER
    sets it and whatever takes a registration away clears it: a REGISTER of the destination lets
    the fenced guest of the source in again, and a finish shuts the destination out
    (target_core_pr.c, __core_scsi3_add_registration and __core_scsi3_free_registration).
    """
    own, other = tuple(own), tuple(other)
    found = {
        each.nexus: None
        for each in other
        if any(is_other_session(each.initiator_port, each.relative_target_port, p) for p in own)
    }
    for each in registrations:
        port = each.initiator_port
        relative = None if each.all_target_ports else each.relative_target_port
        sides = [path for path in (*own, *other) if path.initiator_port]
        if any(may_be(port, relative, path) for path in sides):
            continue
        if any(is_other_session(port, relative, path) for path in sides):
            found[f"{port},{'*' if relative is None else relative}"] = None
    return tuple(found)


def _hides_own(bound: Bound, own: Iterable[LocalNexus]) -> bool:
    """Whether a registration may be this side's and names do not tell.

    The port names of a nexus are not known, or one side lacks the iSCSI ISID.
    """
    unclear = (*(bound.by_nexus[name] for name in bound.maybe_local), *bound.unplaced)
    ports = [
        (each.initiator_port, None if each.all_target_ports else each.relative_target_port)
        for each in unclear
    ]
    return any(
        path.initiator_port is None
        or path.relative_target_port is None
        or (path.nexus not in bound.by_nexus and any(may_be(*port, path) for port in ports))
        for path in own
    )


def of_keys(
    generation: int,
    keys: Iterable[int],
    kind: ReservationType | None,
    holder_key: int | None,
) -> Reading:
    """The blind reading that READ KEYS and READ RESERVATION give together."""
    entries = tuple(OtherRegistration("?", key) for key in keys)
    return Reading(
        generation, MappingProxyType({}), entries, kind, None, blind=True, holder_key=holder_key
    )
