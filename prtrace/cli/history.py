"""The history of logical units, from recordings of one host or several, or from the agent."""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from prtrace.api.client import Client
from prtrace.cli.rebuild import Rebuilt
from prtrace.errors import NoSuchDeviceError, UsageError
from prtrace.explain.joined import Joined, join
from prtrace.explain.recording import Recording
from prtrace.explain.timeline import Step, begun, timeline
from prtrace.model import LocalNexus
from prtrace.state.event import Event, nanoseconds, path_from_json, rfc3339
from prtrace.state.view import unit_view

_FROM_DESIGNATOR: Final = re.compile(
    r"(?:/dev/disk/by-id/|/dev/mapper/)?(?:wwn-0x|scsi-3|dm-uuid-mpath-3|3)"
    r"(?P<naa>[0-9a-f]{16}|[0-9a-f]{32})"
)
"""The names that udev and multipath give a unit with an NAA designator."""


def stored(client: Client, unit: Mapping[str, Any], newest: int) -> Recording:
    """The newest events of a unit that the agent has.  unit: what Show says of it."""
    lu = str(unit["lu"])
    events = (
        Event.from_json(each)
        for reply in client.stream("Events", devices=[lu], last=newest)
        for each in reply.get("events", ())
    )
    return Recording("", tuple(events), paths=paths_of(unit))


def paths_of(unit: Mapping[str, Any]) -> tuple[LocalNexus, ...]:
    """The paths of a unit that Show told."""
    return tuple(path_from_json(str(unit["lu"]), each) for each in unit["nexuses"])


def find_unit(device: str, recordings: Sequence[Recording]) -> str:
    """The unit that device names; NoSuchDeviceError names those that are there.

    A designator, and what udev and multipath make of it, is the same everywhere; a node, an
    address or a map is the first recording's.  Raises UsageError where it named several units
    there, one after the other: which one is meant is not known.
    """
    made = _FROM_DESIGNATOR.fullmatch(device)
    if made is not None:
        device = f"naa.{made['naa']}"
    if recordings:
        known = recordings[0].names
        device = known.get(device) or known.get(device.removeprefix("/dev/mapper/")) or device
    units = units_of(recordings)
    if device in units:
        return device
    named = {
        event.lu: event.time
        for event in (recordings[0].events if recordings else ())
        if event.lu and device in _names(event)
    }
    if len(named) > 1:
        until = "; ".join(f"{lu} until {rfc3339(time)[:19]}Z" for lu, time in named.items())
        raise UsageError(
            f"{device} named {len(named)} logical units one after the other: {until}",
            hint="name the unit by its designator",
        )
    if named:
        return next(iter(named))
    there = ", ".join(units[:4]) or "none"
    raise NoSuchDeviceError(
        f"{device} names no logical unit of these recordings", hint=f"they have: {there}"
    )


def _names(event: Event) -> Iterator[str]:
    """The nodes and addresses that an event has for its unit; nodes without /dev/, too.

    The kernel's log has them so.
    """
    for nexus, node in (
        (event.nexus, event.device),
        *((path.nexus, path.device) for path in event.paths),
    ):
        yield from filter(None, (nexus, node, node.removeprefix("/dev/")))


def rebuilt_unit(recording: Recording, lu: str, until: int | None = None) -> dict[str, Any]:
    """The unit as a recording leaves it, an element of prtrace.show/1's units."""
    rebuilt = Rebuilt()
    for event in before(recording.events, until):
        if event.lu == lu:
            if not rebuilt.events and (paths := recording.paths_of(lu)):
                rebuilt.states[lu] = begun(event, paths)
            rebuilt.add(event)
    if lu not in rebuilt.states:
        raise NoSuchDeviceError(
            f"{recording.host or 'the first recording'} has nothing of {lu} up to then",
            hint="name the recording first whose host is asked about",
        )
    state = rebuilt.states[lu]
    return unit_view(state, rebuilt.unit(state), rebuilt.newest)


@dataclass(frozen=True, slots=True)
class Looked:
    """What recordings have of one unit, as account() takes it."""

    unit: dict[str, Any]
    """As they leave it, an element of prtrace.show/1's units."""
    steps: list[tuple[str, list[Step]]]
    """Each host's own; what an event changed, and why it was refused, is the common history's."""
    joined: Joined | None
    """The common history, where there are several hosts."""


def look(
    recordings: Sequence[Recording], lu: str, until: int | None = None, newest: int | None = None
) -> Looked:
    """What recordings have of a unit, up to a time of the first one's clock that has it.

    newest: how many events of each are looked at, the newest; all where it is None.
    NoSuchDeviceError where nothing of it is there up to then.
    """
    steps: dict[str, list[Step]] = {}
    each_host = by_host(recordings)
    for host, recording in each_host.items():
        events = [event for event in recording.events if event.lu == lu]
        found = timeline(events[-newest:] if newest else events, lu, recording.paths_of(lu))
        if found:
            steps[host] = found
    first = next(iter(steps or each_host))
    if len(steps) <= 1:
        kept = [step for step in steps.get(first, ()) if until is None or step.event.time <= until]
        return Looked(rebuilt_unit(each_host[first], lu, until), [(first, kept)], None)
    joined = join(list(steps.items()), lu)
    if until is not None:
        at = until - joined.ahead[first]
        steps = {
            host: [step for step in each if step.event.time - joined.ahead[host] <= at]
            for host, each in steps.items()
        }
        joined = joined.up_to(at)
    if not joined.steps:
        raise NoSuchDeviceError(f"{first} has nothing of {lu} up to then")
    rebuilt = Rebuilt()
    for step in joined.steps:
        rebuilt.add(step.event)
    state = rebuilt.states[lu]
    unit = unit_view(state, rebuilt.unit(state), rebuilt.newest)
    common = _worded(joined)
    return Looked(
        unit,
        [
            (
                host,
                [
                    replace(step, event=common.get((host, step.event.seq), step.event))
                    for step in each
                ],
            )
            for host, each in steps.items()
        ],
        joined,
    )


def in_order(recordings: Sequence[Recording], wanted: Collection[str]) -> list[tuple[str, Event]]:
    """(host, event) of the wanted units, of all where none is: each with the words it gives.

    One host's are in the order of its recording, several hosts' as join() orders them.
    """
    found: list[tuple[int, str, int, Event]] = []
    each_host = list(by_host(recordings).items())
    # Each host is one recording now, with a name: telling them apart again changes nothing.
    hosts = [replace(each, host=host) for host, each in each_host]
    units = {each.host: set(units_of([each])) for each in hosts}
    events = {each.host: each.events for each in hosts}
    for lu in units_of(hosts):
        if wanted and lu not in wanted:
            continue
        looked = look([each for each in hosts if lu in units[each.host]], lu)
        ahead = {} if looked.joined is None else looked.joined.ahead
        for host, steps in looked.steps:
            worded = {step.event.seq: step.event for step in steps}
            newest = -(1 << 62)
            for event in events[host]:
                if event.lu == lu:
                    newest = max(newest, event.time - ahead.get(host, 0))
                    found.append((newest, host, event.seq, worded.get(event.seq, event)))
    return [(host, event) for _, host, _, event in sorted(found, key=lambda each: each[:3])]


def _worded(joined: Joined) -> dict[tuple[str, int], Event]:
    """By host and number: its events with what they changed in the common history."""
    found: dict[tuple[str, int], Event] = {}
    for step in joined.steps:
        origin = joined.origins[step.event.seq - 1]
        found[origin.host, origin.event.seq] = origin.event._replace(
            effect=step.event.effect, reason=step.event.reason
        )
    return found


def by_host(recordings: Sequence[Recording]) -> dict[str, Recording]:
    """Each host's recordings as one, in which an event that several have is once.

    A host that has no name is told by its place, or by the events that another recording has.
    """
    if len(recordings) == 1:
        return {recordings[0].host: recordings[0]}
    found: dict[str, Recording] = {}
    hosts: dict[tuple[Hashable, ...], str] = {}
    for number, each in enumerate(recordings, 1):
        recorded = {_identity(event) for event in each.events if event.record}
        known = next((hosts[identity] for identity in recorded if identity in hosts), "")
        host = each.host or known or f"recording {number}"
        hosts.update(dict.fromkeys(recorded, host))
        found[host] = _merged(found[host], each) if host in found else each
    return found


def _identity(event: Event) -> tuple[Hashable, ...]:
    """What makes an event the same one in another recording of its host."""
    if event.record:
        return event.epoch, event.record
    # What it changed, and why it was refused, was derived from what that recording began with.
    return event._replace(seq=0, effect="", reason="")


def _merged(one: Recording, other: Recording) -> Recording:
    """Two recordings of one host: each keeps its order, where the host's clock jumped, too."""
    left = Counter(map(_identity, one.events))
    more = []
    for event in other.events:
        identity = _identity(event)
        if left[identity]:
            left[identity] -= 1
        else:
            more.append(event)
    events = heapq.merge(_by_time(one.events), _by_time(more), key=lambda each: each[0])
    return replace(
        one,
        events=tuple(event._replace(seq=seq) for seq, (_, event) in enumerate(events, 1)),
        ports=tuple(dict.fromkeys((*one.ports, *other.ports))),
        paths=tuple(dict.fromkeys((*one.paths, *other.paths))),
    )


def _by_time(events: Iterable[Event]) -> Iterator[tuple[int, Event]]:
    """Each event with the latest time up to it: a clock that was set back changes no order."""
    latest = 0
    for event in events:
        latest = max(latest, event.time)
        yield latest, event


def before(events: Sequence[Event], until: int | None) -> Iterator[Event]:
    """The events that happened up to a time, all where it is None."""
    return (event for event in events if until is None or event.time <= until)


def moment(text: str) -> int:
    """--at TIME as nanoseconds since the epoch."""
    try:
        return nanoseconds(datetime.fromisoformat(text).astimezone().isoformat())
    except (ValueError, OverflowError) as error:
        raise UsageError(f"--at {text}: {error}", hint="as in 2026-01-31T12:00") from error


def units_of(recordings: Sequence[Recording]) -> list[str]:
    """The units that recordings have events of, in their order."""
    return list(
        dict.fromkeys(event.lu for each in recordings for event in each.events if event.lu)
    )
