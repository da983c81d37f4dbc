"""The reservation state of one logical unit, as a value.

What is known, where each fact came from, and what is in doubt.  A LuState is never
changed: prtrace.state.apply returns a new one.  Doubt is a fact like any other: it says
which part may be wrong, since when and why, and only a reading of the device, a command
whose effect leaves no room (CLEAR), or the operator takes it away.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from prtrace.model import Attention, Capabilities, Issuer, LocalNexus, Nexus, ReservationType


class Source(enum.Enum):
    """How a fact became known."""

    OBSERVED = "observed"
    """The effect of a command that this host saw succeed."""
    READ = "read"
    """A PR IN reply said so."""


class Fact(enum.Enum):
    """The parts of the state that can be in doubt, each on its own."""

    REGISTRATIONS = "registrations"
    RESERVATION = "reservation"
    GENERATION = "generation"


@dataclass(frozen=True, slots=True)
class Doubt:
    """One fact that may be wrong: why, and since when (nanoseconds since the epoch)."""

    what: Fact
    reason: str
    since: int


@dataclass(frozen=True, slots=True)
class Registration:
    """One registered nexus.

    local: the nexus is one of this host's.  at: when the fact was observed or read,
    nanoseconds since the epoch.  by: who sent the REGISTER, where that was seen.
    maybe_local: read from the device, and it may be the registration of one of this host's
    nexuses whose own port names are not known, so that the two cannot be matched.
    all_ports: it was made for all target ports, by ALL_TG_PT.
    overlooked: the target may take the nexus for one that is not registered: see
    prtrace.state.sessions.
    """

    nexus: Nexus
    key: int
    local: bool
    source: Source
    at: int
    by: Issuer | None = None
    initiator_port: str | None = None
    relative_target_port: int | None = None
    maybe_local: bool = False
    all_ports: bool = False
    overlooked: bool = False


@dataclass(frozen=True, slots=True)
class Reservation:
    """The persistent reservation.

    holder: the holding nexus, or None where it is not known which one it is, and for the
    all-registrants types, where every registrant holds it.  key: the holder's key as READ
    RESERVATION would show it; None where it is not known, 0 for the all-registrants types.
    designated: the one registrant that some targets treat as *the* holder of an
    all-registrants reservation (see prtrace.state.quirks), None where not known.
    """

    type: ReservationType
    scope: int
    holder: Nexus | None
    key: int | None
    source: Source
    at: int
    by: Issuer | None = None
    designated: Nexus | None = None


@dataclass(frozen=True, slots=True)
class Confirmation:
    """When the device itself last confirmed a fact.

    What other hosts did afterwards is not in the fact; what this host was seen to do is.
    """

    at: int
    """The submission of the command, nanoseconds since the epoch: the device answered later."""
    by: str
    """The command: "READ FULL STATUS", "CLEAR", …"""
    nexus: Nexus
    """The nexus that carried it, as it was called then."""
    start_ns: int = 0
    """The submission on CLOCK_MONOTONIC, 0 where that is of another start of the host."""


@dataclass(frozen=True, slots=True)
class Path:
    """One scsi_device of this host that leads to the unit, for as long as it lives."""

    local: LocalNexus
    since_ns: int = 0
    """When it was found (CLOCK_MONOTONIC): commands that ended before may be another life's."""
    renewed: bool = False
    """Whether another scsi_device had the address before, as far as this unit knows."""


@dataclass(frozen=True, slots=True)
class Census:
    """What a READ KEYS reply listed.

    keys: in ascending order.  done_ns: its completion (CLOCK_MONOTONIC).  pid: who asked, 0
    where that was not seen.  confirmation: as of when, None where that is not known.
    """

    generation: int
    keys: tuple[int, ...]
    done_ns: int
    pid: int
    confirmation: Confirmation | None = None


class Expected(NamedTuple):
    """A unit attention that an observed command raised.  since_ns: the command's completion."""

    attention: Attention
    since_ns: int


class UnderWay(NamedTuple):
    """A PR OUT that timed out here, and that the device may still carry out.

    start_ns: its submission, by which its end is recognised.  reason: that of the doubts about
    facts, which nothing takes away before that.  unwatched: nobody was watching since, so that no
    record will tell its end.  life: of the scsi_device that carries it, 0 where not known; it goes
    when its requests are over, and so does the kernel that had it.
    """

    nexus: Nexus
    start_ns: int
    reason: str
    facts: frozenset[Fact] = frozenset(Fact)
    unwatched: bool = False
    life: int = 0


class Settled(NamedTuple):
    """A command that is already part of the state, kept to recognise commands that overlap it.

    done_ns: its completion (CLOCK_MONOTONIC).  touched: the facts it may have changed; none
    for a reply, which asserts values instead of changing them.  commutes: it may change
    places with the REGISTER of another nexus without changing the result.

    A tuple, because the store finds the text of each by its value, 32 times a command.
    """

    nexus: Nexus
    done_ns: int
    touched: frozenset[Fact] = frozenset()
    commutes: bool = False


@dataclass(frozen=True, slots=True)
class LuState:
    """Everything known of one logical unit.

    generation: PRGENERATION, None where unknown; while in doubt, the least that it can be.
    spread: it can be greater by so much, because it is not known how the target counts the
    commands seen since the last reply; None where it can be anything.
    registrations: in the order in which the target would list them, as far as known;
    ordered says whether all of that order is known (some targets pick the next holder by it).
    anchor: the PRGENERATION at which registrations are right if no command went unseen.
    Unlike generation it is never set from a reply that does not name the registrations, so
    a reply that shows it, with the same keys, proves them.  None where there is no such value.
    census: the last READ KEYS reply, while no command has changed anything since.
    unattributed: keys that READ KEYS showed and no known nexus accounts for, repeats included.
    expected: unit attentions that observed commands have raised and nobody has taken yet.
    legacy_holder: the nexus with an SPC-2 RESERVE active.
    legacy_doubt: the reason of the doubt whether somebody else has one, "" for none.  On a device
    that has no other reservations READ KEYS does not answer it.
    settled_ns: CLOCK_MONOTONIC completion of the newest command that was applied or reply
    that was learned from; a command submitted before it overlapped it.
    settled_by: the nexus of that command.  recent: the newest such commands, oldest first;
    floor_ns: completion of the newest one that is no longer in recent.
    seq: the last record applied.  supported: False for a device that has no reservations.
    paths: this host's nexuses to the unit, by "H:C:T:L"; none while nobody has told them.
    confirmed: when and how the device last confirmed each fact; none where it never did.
    aptpl: whether reservations survive a power loss: the APTPL bit of the newest REGISTER that
    was seen, or what the device said; None where neither is known, or where another REGISTER may
    have gone unseen since.
    capabilities: of the newest REPORT CAPABILITIES reply, None where none was seen.
    names_nexuses: False for a device that does not know READ FULL STATUS, so that nobody can
    tell whose a key is that no command was seen to register.
    under_way: the PR OUTs that timed out and whose requests are not over.
    surplus: PRGENERATION less the number of registrations (modulo 2**32), as the commands seen
    since the last reply that names all of these make it; None where there is none, or where it
    does not tell of everything that may have gone unseen.  See prtrace.state.learning, _former.
    gone_since: when the last path of this host went (nanoseconds since the epoch), None while
    there is one and where nobody has told paths.
    """

    lu: str
    target: str = ""
    generation: int | None = None
    registrations: Mapping[Nexus, Registration] = field(
        default_factory=lambda: MappingProxyType({})
    )
    reservation: Reservation | None = None
    unattributed: tuple[int, ...] = ()
    legacy_holder: Nexus | None = None
    doubts: tuple[Doubt, ...] = ()
    expected: Mapping[Nexus, tuple[Expected, ...]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    settled_ns: int = 0
    settled_by: Nexus = ""
    recent: tuple[Settled, ...] = ()
    floor_ns: int = 0
    ordered: bool = False
    anchor: int | None = None
    census: Census | None = None
    seq: int = 0
    supported: bool = True
    paths: Mapping[Nexus, Path] = field(default_factory=lambda: MappingProxyType({}))
    confirmed: Mapping[Fact, Confirmation] = field(default_factory=lambda: MappingProxyType({}))
    spread: int | None = None
    aptpl: bool | None = None
    capabilities: Capabilities | None = None
    names_nexuses: bool = True
    under_way: tuple[UnderWay, ...] = ()
    gone_since: int | None = None
    legacy_doubt: str = ""
    surplus: int | None = None

    @property
    def as_of(self) -> int | None:
        """The time since which nothing that another host did can be in the state.

        Nanoseconds since the epoch; None where some fact was never confirmed.
        """
        if len(self.confirmed) < len(Fact):
            return None
        return min(each.at for each in self.confirmed.values())

    def doubted(self, fact: Fact) -> bool:
        """Whether fact is in doubt."""
        return any(doubt.what is fact for doubt in self.doubts)

    @property
    def holders(self) -> tuple[Nexus, ...]:
        """The nexuses that hold the reservation, as far as known."""
        if self.reservation is None:
            return ()
        if self.reservation.type.all_registrants:
            return tuple(self.registrations)
        return () if self.reservation.holder is None else (self.reservation.holder,)
