"""What happened to a unit as lanes over time: a lane for each I_T nexus (pure).

Bands are what lasts (a registration, holding the reservation, doubt, a time that nobody watched),
marks are what happens at a moment.  Times are microseconds since the chart's start.  Hosts name a
nexus of their own by its address and the others' by its ports; a nexus whose ports are known has
one lane, whoever saw it, and its bands are told by its own host where that host's recording is
there.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from prtrace.explain.links import who
from prtrace.explain.timeline import Step
from prtrace.model import LocalNexus, Nexus, NotWatched
from prtrace.state.event import Command, Event, key_text, rfc3339
from prtrace.state.unit import Fact, LuState, Path

_MICROSECOND: Final = 1000
_MILLISECOND: Final = 1_000_000
"""A page's times have no smaller part."""
EVERY_LANE: Final = -1
"""The lane of what concerns the whole unit."""


class Lasting(enum.Enum):
    """What a band is."""

    REGISTERED = "registered"
    HOLDER = "holder"
    DOUBT = "in doubt"
    NOT_WATCHED = "not watched"


class Sort(enum.Enum):
    """What a mark is."""

    CHANGED = "PERSISTENT RESERVE OUT"
    REFUSED = "refused"
    UNCERTAIN = "unknown effect"
    READ = "PERSISTENT RESERVE IN"
    CONFLICT = "reservation conflict"
    ATTENTION = "unit attention"
    PATHS = "paths changed"
    LOST = "records lost"


@dataclass(frozen=True, slots=True)
class Band:
    """Something that lasted from begin to end."""

    lane: int
    what: Lasting
    begin: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened."""

    at: int
    lane: int
    sort: Sort
    what: str
    who: str
    result: str
    count: int
    host: str


@dataclass(slots=True)
class Chart:
    """One unit's lanes, bands and marks."""

    lu: str
    start: int
    """Nanoseconds since the epoch, whole milliseconds."""
    clock: str = ""
    """The host by whose clock all times are, where there are several."""
    ahead: dict[str, int] = field(default_factory=dict)
    """By how much each host's clock is taken to be ahead of that, nanoseconds."""
    lanes: list[str] = field(default_factory=list)
    bands: list[Band] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The chart as the page reads it: words once, marks and bands as rows of numbers.

        band: lane, kind, begin, end, text.  mark: time, lane, kind, what, who, result, host,
        count.  Kinds are numbers of Lasting's and Sort's members, words are numbers in words.
        """
        words: dict[str, int] = {}

        def word(text: str) -> int:
            return words.setdefault(text, len(words))

        sorts, lasting = list(Sort), list(Lasting)
        bands = [
            [each.lane, lasting.index(each.what), each.begin, each.end, word(each.text)]
            # What concerns every lane lies below what concerns one.
            for each in sorted(self.bands, key=lambda each: each.lane != EVERY_LANE)
        ]
        marks = [
            [
                each.at,
                each.lane,
                sorts.index(each.sort),
                *(word(text) for text in (each.what, each.who, each.result, each.host)),
                each.count,
            ]
            for each in sorted(self.marks, key=lambda each: each.at)
        ]
        return {
            "lu": self.lu,
            "start": rfc3339(self.start),
            "clock": self.clock,
            "ahead": {host: by // _MICROSECOND for host, by in self.ahead.items()},
            "lanes": self.lanes,
            "bands": bands,
            "marks": marks,
            "words": list(words),
            "sorts": [each.value for each in sorts],
            "lasting": [each.value for each in lasting],
        }


def chart(
    lu: str,
    recordings: Sequence[tuple[str, Sequence[Step]]],
    ahead: Mapping[str, int] | None = None,
    clock: str = "",
) -> Chart:
    """The chart of unit lu from every host's recording of it.

    ahead: by how much each host's clock is ahead of the one that the chart is drawn by,
    nanoseconds.  clock: the host that has this one.
    """
    recordings = [
        (host, [_earlier(step, (ahead or {}).get(host, 0)) for step in steps])
        for host, steps in recordings
    ]
    times = [step.event.time for _, steps in recordings for step in steps]
    start = min(times, default=0) // _MILLISECOND * _MILLISECOND
    made = Chart(lu, start, clock=clock, ahead=dict(ahead or {}))
    lanes = _Lanes(recordings)
    for host, steps in recordings:
        _Telling(made, lanes, host, steps).tell()
    made.lanes = lanes.names
    return made


def _earlier(step: Step, by: int) -> Step:
    """The step as a clock has it that is so much behind the host's."""
    event = step.event._replace(time=step.event.time - by)
    return replace(step, event=event) if by else step


class _Lanes:
    """Which lane a nexus has, as a host names it."""

    def __init__(self, recordings: Sequence[tuple[str, Sequence[Step]]]) -> None:
        self.names: list[str] = []
        self._lanes: dict[str, int] = {}
        self._ports: dict[tuple[str, Nexus], str] = {}
        self.owners: dict[int, str] = {}
        """The host that a lane is local to."""
        for host, steps in recordings:
            seen: Mapping[Nexus, object] = {}
            for step in steps:
                if step.after.paths is seen:
                    continue
                seen = step.after.paths
                for nexus, path in step.after.paths.items():
                    ports = _ports(host, path.local)
                    self._ports.setdefault((host, nexus), ports)
                    name = " ".join(filter(None, (host, path.local.device, nexus)))
                    self.owners.setdefault(self._lane(ports, name), host)

    def of(self, host: str, nexus: Nexus, paths: Mapping[Nexus, Path]) -> int:
        """The lane of a nexus, made where it is new.

        paths: the host's, then: an address becomes that of another nexus.
        """
        if not nexus:
            return EVERY_LANE
        if nexus in paths:
            self._ports[host, nexus] = _ports(host, paths[nexus].local)
        return self._lane(self._ports.get((host, nexus), nexus), nexus)

    def _lane(self, ports: str, name: str) -> int:
        if ports not in self._lanes:
            self._lanes[ports] = len(self.names)
            self.names.append(name)
        return self._lanes[ports]


def _ports(host: str, path: LocalNexus) -> str:
    """The ports of a path, by which every host knows its nexus; its address where it has none."""
    if path.initiator_port is None or path.relative_target_port is None:
        return f"{host} {path.nexus}"
    return f"{path.initiator_port},{path.relative_target_port}"


class _Telling:
    """One host's bands and marks."""

    def __init__(self, made: Chart, lanes: _Lanes, host: str, steps: Sequence[Step]) -> None:
        self._made = made
        self._lanes = lanes
        self._host = host
        self._steps = steps
        self._open: dict[tuple[int, Lasting], tuple[int, str]] = {}

    def tell(self) -> None:
        """Add them to the chart."""
        before: LuState | None = None
        for number, step in enumerate(self._steps):
            at = self._time(step.event.time)
            if any(isinstance(seen, NotWatched) for seen in step.seen) and number:
                since = self._time(self._steps[number - 1].event.time)
                text = "nobody watched"
                self._made.bands.append(Band(EVERY_LANE, Lasting.NOT_WATCHED, since, at, text))
                # What was so before the gap is not known to have been so in it.
                self._change(since, None)
                before = None
            if before is None or _differ(before, step.after):
                self._change(at, step.after)
            before = step.after
            self._made.marks.append(self._mark(step, at))
        if self._steps:
            self._change(self._time(self._steps[-1].event.time), None)

    def _time(self, nanoseconds: int) -> int:
        return (nanoseconds - self._made.start) // _MICROSECOND

    def _change(self, at: int, state: LuState | None) -> None:
        """End what is not so any more, begin what is so now; None ends everything."""
        now = {} if state is None else dict(self._lasting(state))
        for place, (begin, text) in list(self._open.items()):
            if now.get(place) != text:
                del self._open[place]
                lane, what = place
                self._made.bands.append(Band(lane, what, begin, at, text))
        for place, text in now.items():
            self._open.setdefault(place, (at, text))

    def _lasting(self, state: LuState) -> Iterator[tuple[tuple[int, Lasting], str]]:
        for nexus, each in state.registrations.items():
            lane = self._lanes.of(self._host, nexus, state.paths)
            if self._lanes.owners.get(lane, self._host) == self._host:
                yield (lane, Lasting.REGISTERED), f"registered, key {key_text(each.key)}"
        held = state.reservation
        for nexus in state.holders:
            lane = self._lanes.of(self._host, nexus, state.paths)
            if held is not None and self._lanes.owners.get(lane, self._host) == self._host:
                yield (lane, Lasting.HOLDER), f"holds {held.type.name}"
        if state.legacy_holder is not None:
            lane = self._lanes.of(self._host, state.legacy_holder, state.paths)
            yield (lane, Lasting.HOLDER), "holds an SPC-2 reservation"
        doubted = [each for each in state.doubts if each.what is not Fact.GENERATION]
        if doubted:
            text = "; ".join(f"{each.what.value}: {each.reason}" for each in doubted)
            yield (EVERY_LANE, Lasting.DOUBT), text

    def _mark(self, step: Step, at: int) -> Mark:
        event = step.event
        told = (event.problem, event.sense, event.reason, event.effect)
        change = next((text for text in told if text and text != "none"), "")
        status = "" if event.status == "GOOD" else event.status or event.host_byte
        return Mark(
            at,
            self._lanes.of(self._host, event.nexus, step.after.paths or step.before.paths),
            _sort(event),
            " ".join(filter(None, (event.action or event.command.value, _keys(event)))),
            "" if event.issuer is None else who(event),
            ": ".join(filter(None, (status, change))),
            event.count,
            self._host,
        )


def _differ(one: LuState, other: LuState) -> bool:
    """Whether two states may differ in what lasts; most events change nothing."""
    return (
        one.registrations is not other.registrations
        or one.reservation is not other.reservation
        or one.legacy_holder != other.legacy_holder
        or one.doubts is not other.doubts
    )


def _keys(event: Event) -> str:
    if event.command is not Command.PR_OUT or event.key is None:
        return ""
    keys = f"{event.key:x}"
    if event.sa_key:
        keys += f"→{event.sa_key:x}"
    return f"{keys} {event.type.name}" if event.type is not None else keys


def _sort(event: Event) -> Sort:
    match event.command:
        case Command.CONFLICT:
            return Sort.CONFLICT
        case Command.UNIT_ATTENTION:
            return Sort.ATTENTION
        case Command.LOST:
            return Sort.LOST
        case Command.PATHS | Command.FORGOTTEN:
            return Sort.PATHS
        case Command.PR_IN:
            return Sort.READ
        case _:
            pass
    if event.status == "GOOD":
        return Sort.CHANGED
    return Sort.REFUSED if event.status == "RESERVATION CONFLICT" else Sort.UNCERTAIN
