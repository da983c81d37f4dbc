"""A state being changed by one observation: mutable while it is worked on, then frozen.

Only apply() makes and freezes drafts.  Everything that is bounded is bounded here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from prtrace.model import Attention, Capabilities, Nexus, Observation
from prtrace.state.binding import is_wild
from prtrace.state.doubt import NONE, added, cleared
from prtrace.state.quirks import Profile, profile_of
from prtrace.state.unit import (
    Census,
    Confirmation,
    Doubt,
    Expected,
    Fact,
    LuState,
    Path,
    Registration,
    Reservation,
    Settled,
    UnderWay,
)

MAX_REGISTRATIONS = 65536
"""Registrations kept (and keys without a nexus); beyond, the registrations are in doubt."""
MAX_UNDER_WAY = 256
"""Timed-out commands remembered; a host has fewer requests on their way to one unit."""
MAX_RECENT = 32
"""Commands remembered to recognise overlaps; older ones are remembered by time alone."""
GENERATION_MASK = 0xFFFF_FFFF
LONG_AGO = 1
"""Observation.start_ns of a command whose submission nobody saw: it overlaps all before it."""


@dataclass(slots=True)
class Draft:
    """The fields of a LuState, changeable, with the observation that changes them."""

    lu: str
    seen: Observation
    profile: Profile
    target: str
    generation: int | None
    spread: int | None
    registrations: dict[Nexus, Registration]
    reservation: Reservation | None
    unattributed: tuple[int, ...]
    legacy_holder: Nexus | None
    doubts: tuple[Doubt, ...]
    expected: dict[Nexus, tuple[Expected, ...]]
    settled_ns: int
    settled_by: Nexus
    recent: tuple[Settled, ...]
    floor_ns: int
    ordered: bool
    anchor: int | None
    census: Census | None
    paths: dict[Nexus, Path]
    confirmed: dict[Fact, Confirmation]
    aptpl: bool | None
    capabilities: Capabilities | None
    names_nexuses: bool
    under_way: tuple[UnderWay, ...]
    gone_since: int | None
    legacy_doubt: str
    surplus: int | None
    quiet: bool = False
    """Set where the order of commands is not known: then no unit attention is expected."""
    words: list[str] = field(default_factory=list)

    def known(self, fact: Fact) -> bool:
        """Whether fact is whole and not in doubt: no key is left whose nexus is not known."""
        whole = fact is not Fact.REGISTRATIONS or not self.unattributed
        return whole and not self.doubted(fact)

    def doubted(self, fact: Fact) -> bool:
        """Whether what is stated of fact may be wrong."""
        return any(each.what is fact for each in self.doubts)

    def doubt(self, facts: Iterable[Fact], reason: str, *, tells: bool = False) -> None:
        """Put facts in doubt since this observation.

        tells: PRGENERATION and the number of registrations together tell what was not seen.
        """
        facts = frozenset(facts)
        if not tells and facts & {Fact.REGISTRATIONS, Fact.GENERATION}:
            self.surplus = None
        if Fact.GENERATION in facts:
            self.spread = None
        if {Fact.REGISTRATIONS, Fact.GENERATION} <= facts:
            # A REGISTER may have gone unseen, and with it another APTPL bit.
            self.aptpl = None
        self.doubts = added(self.doubts, facts, reason, self.seen.time)

    def doubt_legacy(self, reason: str) -> None:
        """Note that somebody else may have an SPC-2 reservation; the first reason is kept."""
        if not self.legacy_doubt:
            self.legacy_doubt = reason
            self.doubt((Fact.RESERVATION,), reason)
            self.say(f"in doubt: {Fact.RESERVATION.value} ({reason})")

    def know_legacy(self, holder: Nexus | None) -> None:
        """Note who has an SPC-2 reservation: nobody else."""
        reason, self.legacy_doubt, self.legacy_holder = self.legacy_doubt, "", holder
        self.doubts = tuple(each for each in self.doubts if not reason or each.reason != reason)

    def resolve(self, *facts: Fact) -> None:
        """Take the doubts about facts away."""
        if Fact.GENERATION in facts:
            self.spread = 0
        if Fact.RESERVATION in facts:
            self.legacy_doubt = ""
        if self.doubts:
            self.doubts = cleared(self.doubts, facts, [each.reason for each in self.under_way])
        # A bound kept some of them from being a doubt so far.
        for each in self.under_way:
            lasting = each.facts.intersection(facts)
            self.doubts = added(self.doubts, lasting, each.reason, self.seen.time)

    def counted(self) -> int | None:
        """How many registrations there are; None where that is not known."""
        if not self.known(Fact.REGISTRATIONS) or any(map(is_wild, self.registrations.values())):
            return None
        return len(self.registrations) + len(self.unattributed)

    def surplus_of(self) -> int:
        """PRGENERATION less the number of registrations, as far as both are known."""
        count = len(self.registrations) + len(self.unattributed)
        return ((self.generation or 0) - count) & GENERATION_MASK

    def explains(self, generation: int) -> bool:
        """Whether the commands that were seen, and nothing else, make PRGENERATION this."""
        return self.spread is not None and self.generation == generation

    def rest(self, fact: Fact, on: Fact) -> None:
        """Note that what is stated of fact rests on another fact: it is as old as that one."""
        older = self.confirmed.get(on)
        own = self.confirmed.get(fact)
        if older is None:
            self.confirmed.pop(fact, None)
        elif own is not None and older.at < own.at:
            self.confirmed[fact] = older

    def confirm(self, by: str, *facts: Fact) -> None:
        """Note that the device itself said what facts are, in answer to the command by.

        See confirmation_of.
        """
        confirmation = confirmation_of(self.seen, by)
        if confirmation is not None:
            self.confirmed.update(dict.fromkeys(facts, confirmation))

    def say(self, words: str) -> None:
        """Add to the effect's text."""
        self.words.append(words)

    def advance(self, least: int, most: int | None, why: str, *, tells: bool = False) -> None:
        """Add to PRGENERATION from least to most; None: anything.  why: why that is not known.

        tells: see doubt().
        """
        spread = self.spread
        if self.generation is not None:
            self.generation = (self.generation + least) & GENERATION_MASK
        if least != most:
            self.anchor = None
            self.doubt((Fact.GENERATION,), why, tells=tells)
        if most is None or spread is None:
            self.spread = None
        else:
            self.spread = spread + most - least
        if self.anchor is not None:
            self.anchor = (self.anchor + least) & GENERATION_MASK

    def expect(self, nexuses: Iterable[Nexus], attention: Attention) -> None:
        """Note that attention was raised for those of nexuses that are this host's.

        Call it while they are still registered.  The sender gets none.
        """
        if self.quiet or not self.profile.raises_attentions:
            return
        raised = False
        for nexus in nexuses:
            registration = self.registrations.get(nexus)
            if registration is None or not registration.local or nexus == self.seen.nexus:
                continue
            others = tuple(
                each for each in self.expected.get(nexus, ()) if each.attention is not attention
            )
            self.expected[nexus] = (*others, Expected(attention, self.seen.done_ns))
            raised = True
        if raised:
            self.say("unit attention expected")

    def put(self, registration: Registration) -> bool:
        """Add or replace a registration; False where there are too many (then in doubt)."""
        new = registration.nexus not in self.registrations
        if new and len(self.registrations) >= MAX_REGISTRATIONS:
            self.anchor = None
            self.doubt((Fact.REGISTRATIONS,), f"more than {MAX_REGISTRATIONS} registrations")
            return False
        self.registrations[registration.nexus] = registration
        return True

    def rename(self, old: Nexus, new: Nexus) -> None:
        """Call the nexus old by another name, in its place in the list of registrations."""
        if old in self.registrations:
            self.registrations = {
                (new if nexus == old else nexus): replace(each, nexus=new)
                if nexus == old
                else each
                for nexus, each in self.registrations.items()
            }
        held = self.reservation
        if held is not None and old in (held.holder, held.designated):
            self.reservation = replace(
                held,
                holder=new if held.holder == old else held.holder,
                designated=new if held.designated == old else held.designated,
            )
        if any(each.nexus == old for each in self.recent):
            self.recent = tuple(
                each._replace(nexus=new) if each.nexus == old else each for each in self.recent
            )
        if self.settled_by == old:
            self.settled_by = new

    def forget(self) -> None:
        """Drop everything that is known of reservations."""
        self.registrations = {}
        self.unattributed = ()
        self.reservation = self.legacy_holder = None
        self.legacy_doubt = ""
        self.generation = self.spread = self.anchor = None
        self.census = None
        self.expected = {}
        self.confirmed = {}
        self.doubts = ()
        self.under_way = ()
        self.ordered = False
        self.aptpl = self.capabilities = self.surplus = None
        self.names_nexuses = True

    def over(self, nexus: Nexus, start_ns: int | None = None) -> None:
        """Note that requests of nexus are over, that of start_ns or all: doubts may go now."""
        self.under_way = tuple(
            each
            for each in self.under_way
            if each.nexus != nexus or start_ns not in (None, each.start_ns)
        )

    def settle(self, touched: frozenset[Fact] = NONE, *, commutes: bool = False) -> None:
        """Note that the observation is part of the state from now on."""
        done = self.seen.done_ns
        if not done:
            return
        if done >= self.settled_ns:
            self.settled_ns, self.settled_by = done, self.seen.nexus
        entry = Settled(self.seen.nexus, done, touched, commutes)
        recent = (*self.recent, entry)
        if len(recent) > 1 and recent[-2].done_ns > done:
            recent = tuple(sorted(recent, key=lambda each: each.done_ns))
        if len(recent) > MAX_RECENT:
            self.floor_ns = max(self.floor_ns, recent[0].done_ns)
            recent = recent[1:]
        self.recent = recent

    def freeze(self, state: LuState) -> LuState:
        """Return the changed state; state is the one this draft was made from."""
        return LuState(
            lu=state.lu,
            target=self.target,
            generation=self.generation,
            spread=self.spread,
            registrations=MappingProxyType(self.registrations),
            reservation=self.reservation,
            unattributed=self.unattributed,
            legacy_holder=self.legacy_holder,
            doubts=self.doubts,
            expected=MappingProxyType(self.expected),
            settled_ns=self.settled_ns,
            settled_by=self.settled_by,
            recent=self.recent,
            floor_ns=self.floor_ns,
            ordered=self.ordered,
            anchor=self.anchor,
            census=self.census,
            seq=max(state.seq, self.seen.seq),
            supported=state.supported,
            paths=MappingProxyType(self.paths),
            confirmed=MappingProxyType(self.confirmed),
            aptpl=self.aptpl,
            capabilities=self.capabilities,
            names_nexuses=self.names_nexuses,
            under_way=self.under_way,
            gone_since=self.gone_since,
            legacy_doubt=self.legacy_doubt,
            surplus=self.surplus,
        )


def confirmation_of(seen: Observation, by: str) -> Confirmation | None:
    """When the device said what it did in answer to the command by; None where nobody knows.

    It did so at some time after the submission; not before is all that can be said.
    """
    if seen.start_ns == LONG_AGO:
        return None
    at = seen.time - (seen.done_ns - seen.start_ns if seen.start_ns else 0)
    return Confirmation(at, by, seen.nexus, seen.start_ns or seen.done_ns)


def draft_of(state: LuState, seen: Observation) -> Draft:
    """Return state as a draft, about to be changed by seen."""
    target = seen.target or state.target
    return Draft(
        lu=state.lu,
        seen=seen,
        profile=profile_of(target),
        target=target,
        generation=state.generation,
        spread=state.spread,
        registrations=dict(state.registrations),
        reservation=state.reservation,
        unattributed=state.unattributed,
        legacy_holder=state.legacy_holder,
        doubts=state.doubts,
        expected=dict(state.expected),
        settled_ns=state.settled_ns,
        settled_by=state.settled_by,
        recent=state.recent,
        floor_ns=state.floor_ns,
        ordered=state.ordered,
        anchor=state.anchor,
        census=state.census,
        paths=dict(state.paths),
        confirmed=dict(state.confirmed),
        aptpl=state.aptpl,
        capabilities=state.capabilities,
        names_nexuses=state.names_nexuses,
        under_way=state.under_way,
        gone_since=state.gone_since,
        legacy_doubt=state.legacy_doubt,
        surplus=state.surplus,
    )
