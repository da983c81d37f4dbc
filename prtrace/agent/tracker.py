"""From records to events and states: what the agent knows, in memory.

The tracker changes nothing outside itself.  It proposes: events and the states they lead
to.  Once the store has them the caller accepts; if the store fails the caller drops the
proposal, and the same records come again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from prtrace.agent.longreply import LongReply, completed
from prtrace.agent.surroundings import Surroundings
from prtrace.linux.units import Inventory
from prtrace.model import AttentionSeen, LogicalUnit, PrOut
from prtrace.probe.record import Flag, Record, RecordKind
from prtrace.scsi.codes import host_byte_name, status_title
from prtrace.scsi.forms import SENSE_LENGTH_AT
from prtrace.state.apply import new_state
from prtrace.state.decode import COMMANDS, REFUSED, TAKEN, TIMEOUT
from prtrace.state.draft import LONG_AGO
from prtrace.state.event import Command, Event
from prtrace.state.fold import fold
from prtrace.state.unit import LuState, UnderWay

FORGET_AFTER_NS: Final = 30 * 86_400 * 1_000_000_000
"""How long a unit that is gone stays known: volumes come and go, and some return."""


@dataclass(slots=True)
class Proposal:
    """What a batch leads to."""

    events: list[Event] = field(default_factory=list)
    states: dict[str, LuState] = field(default_factory=dict)
    """Only those that changed, by logical unit."""
    safe: dict[str, str] = field(default_factory=dict)
    """By logical unit, the nexus on which a command was just answered: reading there takes no unit
    attention that is meant for somebody else."""
    lost: int = 0
    """How many records had found no room when the newest of these was made."""
    own: int = 0
    """How many of the commands this process sent."""
    numbers: list[int] = field(default_factory=list)
    """The records' numbers."""
    idle: set[int] = field(default_factory=set)
    """The numbers of those records that are readings which told nothing new."""
    met: Inventory | None = None
    """The inventory whose paths are in the states."""
    forgotten: set[str] = field(default_factory=set)
    """Units of which nothing is known any more."""
    cut: dict[tuple[str, bytes], Event] = field(default_factory=dict)
    """By nexus and CDB, the newest commands of this agent whose replies were longer than a
    record."""


class Tracker:
    """The states of every unit, and the way from a record to the next one."""

    def __init__(
        self,
        epoch: str,
        states: Mapping[str, LuState],
        surroundings: Surroundings,
        own: frozenset[int] | None = None,
    ) -> None:
        """own: the processes that send commands for the agent; None: this one."""
        self.epoch = epoch
        self.states = dict(states)
        self.surroundings = surroundings
        self._own = frozenset({os.getpid()}) if own is None else own
        self._met: Inventory | None = None
        self._cut: dict[tuple[str, bytes], Event] = {}

    @property
    def under_way(self) -> frozenset[tuple[str, UnderWay]]:
        """The PR OUTs that timed out on a path that is here, with their units."""
        return frozenset(
            (lu, each)
            for lu, state in self.states.items()
            for each in state.under_way
            if each.nexus in state.paths
        )

    @property
    def unmet(self) -> bool:
        """Whether the inventory's paths are not yet in the states."""
        return self._met is not self.surroundings.inventory

    def meet(self, proposal: Proposal) -> None:
        """Add a PATHS event for each unit whose paths are not those that its state knows."""
        inventory = self.surroundings.inventory
        if inventory is (proposal.met or self._met):
            return
        proposal.met = inventory
        here = {lu: unit.nexuses for lu, unit in inventory.units.items()}
        for lu in (*here, *(lu for lu in self.states if lu not in here)):
            state = proposal.states.get(lu) or self.states.get(lu)
            known = () if state is None else tuple(path.local for path in state.paths.values())
            # Who was gone before there was gone_since has none.
            undated = state is not None and lu not in here and state.gone_since is None
            if state is None or undated or known != here.get(lu, ()):
                self.add(
                    proposal,
                    Event(
                        command=Command.PATHS,
                        epoch=self.epoch,
                        time=self.surroundings.scanned_at,
                        start_ns=self.surroundings.scanned_ns,
                        done_ns=self.surroundings.scanned_ns,
                        lu=lu,
                        target=target_of(inventory.units.get(lu)),
                        paths=here.get(lu, ()),
                    ),
                )

    def propose(self, raws: Iterable[bytes], known: frozenset[int]) -> Proposal:
        """Read records in their order.  known: numbers the store already has.

        Raises MalformedError, or whatever else a record that cannot be digested causes.
        """
        proposal = Proposal()
        skew = time.time_ns() - time.monotonic_ns()
        for raw in raws:
            record = Record.parse(raw)
            proposal.numbers.append(record.header.seq)
            proposal.lost = max(proposal.lost, record.header.lost)
            if record.header.seq in known:
                continue
            event = self._event(record, skew)
            # The look at the record's surroundings may have found other paths.
            self.meet(proposal)
            proposal.own += self.is_own(event)
            self.add(proposal, event)
        return proposal

    def add(self, proposal: Proposal, event: Event) -> None:
        """Decode one event and let it change the state that proposal has reached."""
        before = proposal.states.get(event.lu)
        if before is None and event.lu not in proposal.forgotten:
            before = self.states.get(event.lu)
        folded = fold(before, event)
        event = folded.event
        for seen in folded.observations:
            if isinstance(seen, AttentionSeen | PrOut) and event.status != TIMEOUT:
                proposal.safe[event.lu] = event.nexus
            if isinstance(seen, AttentionSeen) and self.is_own(event):
                event = event._replace(effect=f"{event.effect}; {TAKEN}")
        if event.command is Command.PR_IN and event.record and _same(before, folded.state):
            proposal.idle.add(event.record)
        if event.command is Command.PR_IN and event.truncated and self.is_own(event):
            proposal.cut[event.nexus, event.cdb] = event
        if folded.forgotten:
            proposal.states.pop(event.lu, None)
            proposal.forgotten.add(event.lu)
        if folded.state is not None:
            proposal.forgotten.discard(event.lu)
            proposal.states[event.lu] = folded.state
        proposal.events.append(event)

    def add_told(self, proposal: Proposal, event: Event) -> None:
        """Add an event that no record tells; without a unit it is of every unit."""
        for lu in [event.lu] if event.lu else self.everybody(proposal):
            self.add(proposal, event._replace(lu=lu))

    def complete(self, nexus: str, replies: Sequence[LongReply]) -> tuple[Event, ...]:
        """The events of whole replies to commands of this agent over nexus; see longreply."""
        cut = [self._cut.pop((nexus, cdb), None) for cdb in {reply.cdb for reply in replies}]
        whole = [event for each in cut if (event := completed(each, replies)) is not None]
        return tuple(sorted(whole, key=lambda event: event.done_ns))

    def gone_for_long(self, now: int) -> list[str]:
        """Units that have had no path to this host since FORGET_AFTER_NS before now."""
        return [
            lu
            for lu, state in self.states.items()
            if state.gone_since is not None and now - state.gone_since > FORGET_AFTER_NS
        ]

    def is_own(self, event: Event) -> bool:
        """Whether the agent itself sent the command."""
        return event.issuer is not None and event.issuer.pid in self._own

    def state(self, lu: str, target: str, now: int) -> LuState:
        """The accepted state of a unit; one that was never seen is all in doubt."""
        known = self.states.get(lu)
        if known is None:
            return new_state(lu, target, now)
        return replace(known, target=target) if target and not known.target else known

    def everybody(self, proposal: Proposal) -> list[str]:
        """Every unit that is here, or known once the proposal is accepted."""
        known = {**self.surroundings.inventory.units, **self.states, **proposal.states}
        return [lu for lu in known if lu not in proposal.forgotten]

    def accept(self, proposal: Proposal) -> None:
        """The store has the proposal: it is the truth from now on."""
        self.states.update(proposal.states)
        for lu in proposal.forgotten:
            self.states.pop(lu, None)
        self._met = proposal.met or self._met
        self._cut |= proposal.cut

    def _event(self, record: Record, skew: int) -> Event:
        header = record.header
        hctl = record.nexus
        nexus = self.surroundings.nexus(hctl)
        lu = self.surroundings.unit(hctl, record.page83)
        asked = self.surroundings.asked(record)
        cdb = record.cdb
        return Event(
            epoch=self.epoch,
            record=header.seq,
            time=header.done_ns + skew,
            start_ns=header.start_ns or LONG_AGO,
            done_ns=header.done_ns,
            lu=lu,
            nexus=hctl,
            device="" if nexus is None else nexus.device,
            target=record.target,
            command=COMMANDS[cdb[0]],
            status=_status(header.kind, header.result),
            host_byte=_host_byte(header.kind, header.result),
            attempts=max(header.attempt, 1),
            issuer=asked.issuer,
            exe=asked.exe,
            unit=asked.unit,
            truncated=bool(header.flags & Flag.TRUNCATED),
            cdb=cdb,
            data=record.data,
            head=header.head[: header.head_length],
            sense_bytes=_trimmed(record.sense),
            asked=asked.cdb,
            asked_data=asked.parameter,
            life=header.life,
        )


def target_of(unit: LogicalUnit | None) -> str:
    """VENDOR/PRODUCT/REVISION as records have it, "" for a unit that is not here."""
    return "" if unit is None else unit.target


def _same(before: LuState | None, after: LuState | None) -> bool:
    """Whether a reading left everything that is known of a unit as it was, but its age."""
    if after is None:
        return True
    return before is not None and _known(before) == _known(after)


def _known(state: LuState) -> tuple[object, ...]:
    """What later evidence is judged by, except when the device was asked last."""
    census = state.census
    return (
        state.supported,
        state.paths,
        state.generation,
        state.registrations,
        state.reservation,
        state.unattributed,
        state.legacy_holder,
        state.legacy_doubt,
        state.expected,
        state.doubts,
        state.ordered,
        state.anchor,
        state.surplus,
        census and (census.generation, census.keys),
        state.spread,
        state.aptpl,
        state.capabilities,
        state.names_nexuses,
        state.under_way,
    )


def _status(kind: int, result: int) -> str:
    if kind == RecordKind.TIMEOUT:
        return TIMEOUT
    if kind == RecordKind.ERROR:
        return REFUSED
    return status_title(result & 0xFF)


def _host_byte(kind: int, result: int) -> str:
    code = result >> 16 & 0xFF
    return host_byte_name(code) if code and kind in (RecordKind.DONE, RecordKind.OVER) else ""


def _trimmed(sense: bytes) -> bytes:
    """Sense data as long as ADDITIONAL SENSE LENGTH says, of a buffer of fixed size."""
    at = SENSE_LENGTH_AT
    return sense[: at + 1 + sense[at]] if len(sense) > at else sense
