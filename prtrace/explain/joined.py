"""What several hosts recorded of one unit, as one history (pure).

Every event of every host goes into one fold, in which every host's paths are paths of the unit.
So the state, the rule that refused a command and the command that made it so are the same
whichever host is asked about.

The hosts' clocks are brought together by what PRGENERATION says of them (skew.py): within its
bounds the difference that is nearest to none is taken.  Where the bounds do not tell which of two
events was first, the clocks alone order them, and `by_clocks` says so: that is no knowledge.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import Final

from prtrace.explain.skew import Bounds, Span, apart, quiet_counts, spans
from prtrace.explain.timeline import Step, timeline
from prtrace.model import (
    LegacyReserve,
    LocalNexus,
    Nexus,
    NotWatched,
    Outcome,
    PrOut,
    UnreadablePrOut,
)
from prtrace.state.draft import LONG_AGO
from prtrace.state.event import Command, Event

_OF: Final = " of "
_CAUSE_FIRST_NS: Final = 500_000_000
"""A bound comes from a cause and its effect: the cause is put so much before it, at most."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an event of the history comes from."""

    host: str
    event: Event
    """As the host recorded it."""
    span: Span


@dataclass(frozen=True, slots=True)
class Joined:
    """One history of several hosts.

    Its events are numbered anew, their times are by the clock of `reference`, and the paths are
    named "H:C:T:L of HOST".
    """

    steps: Sequence[Step]
    made: Sequence[Step]
    """Those that may have changed registrations or the reservation."""
    origins: Sequence[Origin]
    """Of the event with number n: the one at n - 1."""
    ahead: dict[str, int]
    """By how much each host's clock is taken to be ahead of the reference's, nanoseconds."""
    bounds: dict[tuple[str, str], Bounds]
    """Of the second host's clock against the first's."""
    reference: str

    def up_to(self, time: int) -> Joined:
        """The history up to that time of the reference's clock."""
        kept = [step for step in self.steps if step.event.time <= time]
        return replace(self, steps=kept, made=[step for step in kept if _changes(step)])

    def origin(self, seq: int) -> Origin | None:
        """Where the event with that number comes from; None for no event's."""
        return self.origins[seq - 1] if 0 < seq <= len(self.origins) else None

    def by_clocks(self, seq: int) -> Iterator[Step]:
        """The commands of other hosts of which only the clocks tell whether they were before seq.

        Those that may have changed who is registered or what is reserved, in the history's order.
        """
        own = self.origins[seq - 1]
        for step in self.made:
            other = self.origins[step.event.seq - 1]
            if other.host != own.host and not self.ordered(own, other):
                yield step

    def ordered(self, one: Origin, other: Origin) -> bool:
        """Whether it is certain which of two hosts' events was first."""
        if one.span.is_before(other.span) or other.span.is_before(one.span):
            return True
        bounds = self.bounds[one.host, other.host]
        gap = other.event.time - one.event.time
        # By one's clock other was between gap - most and gap - least from one.
        after = bounds.most is not None and gap - bounds.most > 0
        before = bounds.least is not None and gap - bounds.least < 0
        return after or before


def _changes(step: Step) -> bool:
    """Whether the step is a command that may have changed registrations or the reservation."""
    changed = (Outcome.DONE, Outcome.UNKNOWN)
    return any(
        isinstance(seen, PrOut | UnreadablePrOut | LegacyReserve) and seen.outcome in changed
        for seen in step.seen
    )


def host_of_nexus(nexus: Nexus) -> tuple[Nexus, str]:
    """The address and the host of a path as the history names it; "" for no host."""
    address, _, host = nexus.partition(_OF)
    return address, host


def join(recordings: Sequence[tuple[str, Sequence[Step]]], lu: str) -> Joined:
    """Join what hosts recorded of unit lu: (host, its own steps), no host twice.

    The order in which they are given makes no difference.
    """
    ordered = sorted(recordings, key=lambda each: each[0])
    bounds = {
        (one, other): apart(steps, others)
        for one, steps in ordered
        for other, others in ordered
        if one != other
    }
    ahead = _clocks([host for host, _ in ordered], bounds)
    events: list[Event] = []
    origins: list[Origin] = []
    paths: dict[str, tuple[LocalNexus, ...]] = {}
    quiet = {count for _, steps in ordered for count in quiet_counts(steps)}
    for origin in _in_order(ordered, ahead, quiet):
        host, event = origin.host, origin.event
        origins.append(origin)
        if event.command is Command.PATHS:
            paths[host] = tuple(_path(path, host) for path in event.paths)
        elif event.command is Command.FORGOTTEN:
            paths[host] = ()
        every = tuple(path for each in paths.values() for path in each)
        events.append(_event(event, host, len(origins), ahead[host], every))
    joined = timeline(events, lu)
    made = [step for step in joined if _changes(step)]
    return Joined(joined, made, origins, ahead, bounds, ordered[0][0])


def _clocks(hosts: Sequence[str], bounds: dict[tuple[str, str], Bounds]) -> dict[str, int]:
    """By how much each host's clock is taken to be ahead of the first's, as its bounds allow."""
    ahead: dict[str, int] = {}
    for host in hosts:
        least: int | None = None
        most: int | None = None
        for other, known in ahead.items():
            between = bounds[other, host]
            if between.least is not None:
                least = max(known + between.least, -(1 << 62) if least is None else least)
            if between.most is not None:
                most = min(known + between.most, 1 << 62 if most is None else most)
        ahead[host] = _nearest_to_none(least, most)
    return ahead


def _nearest_to_none(least: int | None, most: int | None) -> int:
    room = _CAUSE_FIRST_NS
    if least is not None and most is not None:
        room = min(room, max(most - least, 0) // 2)
    if least is not None and least + room > 0:
        return least + room
    if most is not None and most - room < 0:
        return most - room
    return 0


def _in_order(
    recordings: Iterable[tuple[str, Sequence[Step]]], ahead: dict[str, int], quiet: Set[int]
) -> Iterator[Origin]:
    """The hosts' events by the reference's clock; one host's in the order of its recording."""
    keyed: list[tuple[tuple[int, str, int], Origin]] = []
    for host, steps in recordings:
        newest = -(1 << 62)
        for number, origin in enumerate(_told(host, steps, quiet)):
            # What is counted is told up to some seconds late.
            newest = max(newest, origin.event.time - ahead[host])
            keyed.append(((newest, host, number), origin))
    for _, origin in sorted(keyed, key=lambda each: each[0]):
        yield origin


def _told(host: str, steps: Sequence[Step], quiet: Set[int]) -> Iterator[Origin]:
    """A host's events, behind one for the paths that it had all the time (timeline.begun)."""
    if steps and (had := steps[0].before.paths):
        first = steps[0].event
        paths = Event(
            command=Command.PATHS,
            time=first.time,
            lu=first.lu,
            target=first.target,
            paths=tuple(path.local for path in had.values()),
        )
        yield Origin(host, paths, Span(None, None))
    begun = False
    for step, span in zip(steps, spans(steps, quiet), strict=True):
        # What a host did before its recording is no less known than what hosts did that recorded
        # nothing: the others' unit attentions and readings tell of it.
        begun = begun or bool(step.event.nexus)
        if begun or not any(isinstance(seen, NotWatched) for seen in step.seen):
            yield Origin(host, step.event, span)


def _path(path: LocalNexus, host: str) -> LocalNexus:
    return replace(path, nexus=f"{path.nexus}{_OF}{host}")


def _event(event: Event, host: str, seq: int, ahead: int, paths: tuple[LocalNexus, ...]) -> Event:
    """The event with its number, its time, its path and everybody's paths in the history."""
    done = event.time - ahead
    start = event.start_ns
    if start not in (0, LONG_AGO):
        start = done - max(event.done_ns - start, 0)
    moved = event._replace(
        seq=seq,
        record=seq,
        epoch="",
        time=done,
        start_ns=start,
        done_ns=done,
        nexus=f"{event.nexus}{_OF}{host}" if event.nexus else "",
    )
    if event.command in (Command.PATHS, Command.FORGOTTEN):
        return moved._replace(command=Command.PATHS, paths=paths)
    return moved
