"""Which registration of a READ FULL STATUS reply belongs to which nexus of this host.

A descriptor names an initiator port and a relative target port; a local nexus is known as
"H:C:T:L".  They are matched, in this order, never guessing:
1. by both port names, exactly (iSCSI and NAA names are compared without regard to case);
2. where names do not tell: by the key that was observed on the nexus, if as many descriptors
   with that key are left as such nexuses.  Names do not tell where those of a nexus are not
   known, where another nexus goes by the same, and where one side lacks the iSCSI ISID.
What is left keeps the name "<initiator port>,<relative target port>".

A port without its ISID that fits one session only is not that session's for it.  The session
may be a new one, and the registration that of the session before the login.  LIO, besides,
lets no session at all use a registration without ISID (drivers/target/target_core_pr.c,
__core_scsi3_locate_pr_reg, unless enforce_pr_isids is 0).

ALL_TG_PT descriptors have no relative target port.  The standard has one for all the ports: every
local nexus of that initiator port is bound, and those of target ports that are not visible here
are one registration "<initiator port>,*", which may stand for none.  Targets that were examined
list one per target port, alike in everything, and lose them one by one: which ports are left
nobody can tell, so a local nexus is bound only if it was known to be registered with that key.
The others are "<initiator port>,*" as well, which may be local then.  One descriptor of a target
of which it is not known which of the two it does is for all ports, or for one of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from prtrace.model import FullStatus, LocalNexus, Nexus
from prtrace.state.unit import Registration, Source

_ISID = ",i,"
WILD = ",*"
"""How the name of a registration ends that stands for nexuses at any target ports."""


@dataclass(slots=True)
class Bound:
    """The registrations of a reply by the nexus they belong to.

    by_nexus: in the reply's order.  unplaced: descriptors that belong to nexuses which could
    not be told apart; their keys are known, their nexuses are not.  repeated: texts of nexuses
    that the reply names more than once, which no correct reply does.  maybe_local: the nexuses
    (foreign names) that may be local ones.  swappable: local nexuses with one key, bound as a
    group: the key is right, the port names may be another's of the group.
    """

    by_nexus: dict[Nexus, FullStatus] = field(default_factory=dict)
    unplaced: list[FullStatus] = field(default_factory=list)
    repeated: list[Nexus] = field(default_factory=list)
    maybe_local: frozenset[Nexus] = frozenset()
    swappable: frozenset[Nexus] = frozenset()


def bind(
    descriptors: Iterable[FullStatus],
    paths: Iterable[LocalNexus],
    observed: Mapping[Nexus, Registration],
    *,
    former: Mapping[Nexus, Registration],
    each_port_listed: bool | None,
) -> Bound:
    """Match descriptors with paths.

    observed: the registrations known before, for rule 2; pass none where they are in doubt.
    former: those known before, in doubt or not.  each_port_listed: see Profile.lists_every_port.
    """
    descriptors = tuple(descriptors)
    paths = tuple({path.nexus: path for path in paths}.values())
    whole = [p for p in paths if p.initiator_port and p.relative_target_port is not None]
    # Several may go by the same names: newer kernels' tcm_loop has relative target port 0, a
    # reserved value, on all its targets.
    times = Counter(port_names(path) for path in whole)
    named = [path for path in whole if times[port_names(path)] == 1]
    single = {index: each for index, each in enumerate(descriptors) if not each.all_target_ports}
    owner: dict[int, Nexus] = {}
    _by_name(single, named, owner)
    rest = [path for path in paths if path.nexus not in owner.values()]
    anywhere = [each for each in descriptors if each.all_target_ports]
    bound = Bound(swappable=_by_observed_key(single, rest, observed, owner, anywhere))
    taken = set(owner.values())
    free = [path for path in whole if path.nexus not in taken]
    spread = _spread(descriptors, free, former, each_port_listed)
    foreign: set[Nexus] = set()
    for index, each in enumerate(descriptors):
        if each.all_target_ports:
            names = spread.pop(_fold(each.initiator_port), None)
            if names is None:
                continue
            foreign.update(name for name in names if name.endswith(WILD))
            if not names:
                bound.unplaced.extend(
                    other
                    for other in descriptors
                    if other.all_target_ports
                    and _fold(other.initiator_port) == _fold(each.initiator_port)
                )
        elif index in owner:
            names = [owner[index]]
        else:
            names = [f"{each.initiator_port},{each.relative_target_port}"]
            foreign.add(names[0])
        for name in names:
            if name in bound.by_nexus:
                bound.repeated.append(name)
            else:
                bound.by_nexus[name] = each
    # A named path as well: a descriptor without an ISID fits each session of that initiator.
    unbound = [path for path in paths if path.nexus not in bound.by_nexus]
    bound.maybe_local = frozenset(
        name for name in foreign if any(_may_be(bound.by_nexus[name], path) for path in unbound)
    )
    return bound


def _by_name(
    single: Mapping[int, FullStatus], named: Iterable[LocalNexus], owner: dict[int, Nexus]
) -> None:
    found = {port_names(path): path.nexus for path in named}
    for index, each in single.items():
        names = _fold(each.initiator_port), each.relative_target_port
        if names in found:
            owner[index] = found[names]


def _by_observed_key(
    single: Mapping[int, FullStatus],
    paths: Iterable[LocalNexus],
    observed: Mapping[Nexus, Registration],
    owner: dict[int, Nexus],
    anywhere: Collection[FullStatus],
) -> frozenset[Nexus]:
    """Bind by rule 2; return the nexuses whose descriptors may be each other's.

    anywhere: the descriptors that are for all target ports, any of which may be a nexus's too.
    """
    guessed: set[Nexus] = set()
    waiting: dict[int, list[LocalNexus]] = defaultdict(list)
    for path in paths:
        known = observed.get(path.nexus)
        if known is not None and known.source is Source.OBSERVED:
            waiting[known.key].append(path)
    for key, nexuses in waiting.items():
        if any(each.key == key and any(_may_be(each, p) for p in nexuses) for each in anywhere):
            continue
        fitting = [
            index
            for index, each in single.items()
            if index not in owner and each.key == key and any(_may_be(each, p) for p in nexuses)
        ]
        # Nexuses with one key are alike but for who holds the reservation.
        alike = len({single[index].holder for index in fitting}) == 1
        if len(fitting) == len(nexuses) and alike:
            owner.update((index, path.nexus) for index, path in zip(fitting, nexuses, strict=True))
            if len(nexuses) > 1:
                guessed.update(path.nexus for path in nexuses)
    return frozenset(guessed)


def _spread(
    descriptors: Iterable[FullStatus],
    whole: Iterable[LocalNexus],
    former: Mapping[Nexus, Registration],
    each_port_listed: bool | None,
) -> dict[str, list[Nexus]]:
    """Return the nexuses of every ALL_TG_PT initiator port, or none where they are not known.

    whole: paths with both names that no other descriptor is of.  A target that lists an initiator
    port twice lists each target port, whatever is known of such targets.
    """
    groups: dict[str, list[FullStatus]] = defaultdict(list)
    for each in descriptors:
        if each.all_target_ports:
            groups[_fold(each.initiator_port)].append(each)
    result: dict[str, list[Nexus]] = {}
    for port, group in groups.items():
        fitting = [path for path in whole if _same_port(port, _fold(path.initiator_port))]
        local = [path.nexus for path in fitting]
        alike = len({(each.key, each.holder) for each in group}) == 1
        # One side lacks the ISID: which session has registered is not known.
        partly = any(_fold(path.initiator_port) != port for path in fitting)
        wild = f"{group[0].initiator_port}{WILD}"
        one_by_one = True if len(group) > 1 else each_port_listed
        known = [nexus for nexus in local if _has(former, nexus, group[0].key)]
        if not alike or partly or (one_by_one is True and len(group) < len(local)):
            result[port] = []
        elif one_by_one is False:
            result[port] = [*local, wild]
        elif one_by_one is None:
            # It is for all ports, or for one that is not known: the one known, if there is one.
            result[port] = [*known, wild] if len(known) == 1 else [wild]
        else:
            result[port] = [*known, wild] if len(group) > len(known) else known
    return result


def _has(registrations: Mapping[Nexus, Registration], nexus: Nexus, key: int) -> bool:
    own = registrations.get(nexus)
    return own is not None and own.key == key


def may_be(port: str | None, relative: int | None, path: LocalNexus) -> bool:
    """Whether path may be the nexus of these two ports, as far as all the names are known."""
    if port and path.initiator_port and not same_names(port, path):
        return False
    return relative is None or path.relative_target_port in (None, relative)


def same_names(port: str, path: LocalNexus) -> bool:
    """Whether port is path's initiator port; an ISID counts where both names have one."""
    return same_ports(port, path.initiator_port)


def same_ports(one: str | None, other: str | None) -> bool:
    """Whether both may name one initiator port; an ISID counts where both names have one."""
    return _same_port(_fold(one), _fold(other))


def _same_port(one: str, other: str) -> bool:
    if (_ISID in one) != (_ISID in other):
        return initiator_name(one) == initiator_name(other)
    return one == other


def _may_be(each: FullStatus, path: LocalNexus) -> bool:
    relative = None if each.all_target_ports else each.relative_target_port
    return may_be(each.initiator_port, relative, path)


def may_be_own(
    registrations: Iterable[Registration], path: LocalNexus | None
) -> list[Registration]:
    """The registrations of elsewhere, as far as is known, that may be those of path's nexus.

    A path whose names are other ones is not that registration's, whatever else is not known of it.
    One that stands for any target ports may be that of a nexus that had another, too: LIO does not
    ask which nexuses are registered that ALL_TG_PT registers along.
    path: None where nobody has told it.
    """
    return [
        each
        for each in registrations
        if (each.maybe_local or is_wild(each))
        and (path is None or may_be(each.initiator_port, each.relative_target_port, path))
    ]


def is_wild(registration: Registration) -> bool:
    """Whether it stands for the nexuses of one initiator port at any target ports."""
    return (
        not registration.local
        and registration.initiator_port is not None
        and registration.relative_target_port is None
        and registration.nexus.endswith(WILD)
    )


def is_other_session(port: str | None, relative: int | None, path: LocalNexus) -> bool:
    """Whether a nexus of these two ports is another session of path's initiator at path's target
    port, or may be: what is not known of a name may be anything.

    Only iSCSI has several initiator ports of one name; the ISID tells them apart.
    """
    name = initiator_name(port)
    return (
        bool(name and (isid_of(port) or isid_of(path.initiator_port)))
        and name == initiator_name(path.initiator_port)
        and _fold(port) != _fold(path.initiator_port)
        and (relative is None or path.relative_target_port in (None, relative))
    )


def is_same_initiator(port: str | None, relative: int | None, path: LocalNexus) -> bool:
    """Whether a nexus of these two ports may be one of path's initiator, in whatever session, at
    path's target port: what is not known of a name may be anything."""
    names = initiator_name(port), initiator_name(path.initiator_port)
    return ("" in names or names[0] == names[1]) and (
        relative is None or path.relative_target_port in (None, relative)
    )


def port_names(path: LocalNexus) -> tuple[str, int | None]:
    """The names by which path's nexus is told from others: not alike in two spellings."""
    return _fold(path.initiator_port), path.relative_target_port


def _fold(port: str | None) -> str:
    return (port or "").casefold()


def isid_of(port: str | None) -> str:
    """The hexadecimal digits of the ISID in an initiator port's name, "" where it has none."""
    return _fold(port).partition(_ISID)[2].removeprefix("0x")


def initiator_name(port: str | None) -> str:
    """The part of an initiator port's name before an ISID, not alike in two spellings."""
    return _fold(port).partition(_ISID)[0]
