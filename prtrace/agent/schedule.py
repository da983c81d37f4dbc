"""Which unit is asked next, when, and over which path (pure).

Every unit in doubt waits in the lane of one target port.  A lane has a rate and a number of
readings that may be under way; one that takes longer than `slow_s` no longer counts, so that what
hangs delays nobody but itself.  After a failure the path with the fewest failures is next; when
all have failed alike the unit pauses, longer each time, and for ever, because a path may come
back.  A unit that answers and stays in doubt is asked a few times more, and then not until
something new was seen of it: what the target does not tell is not asked again and again.  A unit
that refuses PR IN over every path has no reservations and is asked again after a day.
"""

from __future__ import annotations

import enum
import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from zlib import crc32

from prtrace.model import Nexus

_DUE_AT_ONCE = 64
"""Units that one call of begin looks at: looking at paths reads files."""


class ReadingLimits(NamedTuple):
    """Times in seconds, rates in readings a second; a reading is three or four commands."""

    rate: float = 100.0
    """Of the whole agent: at a start with 4,000 units in doubt the last is asked after 40 s."""
    target_rate: float = 50.0
    """Of one target port."""
    target_busy: int = 2
    """Readings under way at one target port, those left out that take longer than slow_s."""
    host_busy: int = 8
    """The same for one SCSI host."""
    slow_s: float = 0.04
    under_way: int = 128
    """Readings under way in all, slow ones too; of one lane at most as many as are still free, so
    that those that hang in some lanes leave room for others.  Each is a thread here and one in the
    helper, of the 512 that the unit may have."""
    spread_s: float = 0.2
    """Something new is followed after a random part of this: a cluster's hosts see it at once."""
    first_pause_s: float = 0.5
    longest_pause_s: float = 300.0
    growth: float = 2.0
    jitter: float = 0.25
    """The part of a pause by which it varies."""
    futile: int = 4
    """Answers in a row that may leave a unit in doubt before it is left alone."""
    refused_pause_s: float = 86_400.0
    look_every_s: float = 5.0
    """How long it counts who had what open."""
    look_takes_s: float = 5.0
    """How long readings wait for a look at who has what open."""
    just_s: float = 2.0
    """How long after a command was answered on a nexus reading disturbs nobody there."""


class Result(enum.Enum):
    """What came of a reading."""

    ANSWERED = "answered"
    PATH_FAILED = "path failed"
    """Transport, time-out, not ready: another path may do."""
    UNIT_FAILED = "unit failed"
    """An SPC-2 reservation, busy, nonsense: another path would say the same."""
    REFUSED = "refused"
    """ILLEGAL REQUEST to READ KEYS."""


class Candidate(NamedTuple):
    """A path that takes commands, as it is now."""

    nexus: Nexus
    target: str
    """Names the target port."""
    host: str
    """The SCSI host's number."""
    reluctance: tuple[int, ...] = ()
    """What speaks against reading over this path.  Of the paths that have failed equally often,
    the one with the least is taken."""


class ReadOrder(NamedTuple):
    """Read unit lu over a path, now."""

    number: int
    lu: str
    path: Candidate


@dataclass(slots=True)
class _Unit:
    """What is known of a unit that has been in doubt."""

    pause: float
    ticket: int = 0
    """Of its one valid entry in the heap of due times."""
    lane: str = ""
    """Where it waits, "" where it does not."""
    reading: int = 0
    """The number of the order under way, 0 for none."""
    futile: int = 0
    renewed: bool = False
    """Something new was seen while it was being read."""
    first: bool = False
    """Whether it goes before others of its lane: something new was seen."""
    refused: bool = False
    """Every path refused; news of commands do not change that."""
    failures: dict[Nexus, int] = field(default_factory=dict)
    refusals: set[Nexus] = field(default_factory=set)


@dataclass(slots=True)
class _Lane:
    host: str
    waiting: deque[str] = field(default_factory=deque)
    ready_at: float = 0.0
    begun: dict[int, float] = field(default_factory=dict)


class Schedule:
    """Units in doubt and the readings under way.

    candidates: gives the paths of a unit that take commands now.  chance: gives numbers from 0
    to 1.  Every time is what the caller calls now, in seconds.
    """

    def __init__(
        self,
        candidates: Callable[[str], Sequence[Candidate]],
        limits: ReadingLimits | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._candidates = candidates
        self._limits = ReadingLimits() if limits is None else limits
        self._chance = chance
        self._units: dict[str, _Unit] = {}
        self._lanes: dict[str, _Lane] = {}
        self._hosts: dict[str, dict[int, float]] = {}
        self._due: list[tuple[float, int, str]] = []
        self._orders: dict[int, ReadOrder] = {}
        self._numbers = 0
        self._ready_at = 0.0

    def __contains__(self, lu: str) -> bool:
        return lu in self._units

    def __len__(self) -> int:
        return len(self._units)

    @property
    def under_way(self) -> int:
        """Readings that have begun and not ended."""
        return len(self._orders)

    def want(self, lu: str, now: float, *, fresh: bool, wanted: bool = False) -> None:
        """A unit is in doubt.  fresh: something new was seen of it.

        wanted: it is to be read even if it refused.
        """
        unit = self._units.get(lu)
        if unit is not None and wanted:
            unit.refused = False
        if unit is None:
            unit = self._units[lu] = _Unit(self._limits.first_pause_s)
            self._at(lu, unit, now + self._limits.spread_s * self._chance())
            unit.first = fresh
        elif fresh and not unit.refused:
            unit.futile, unit.pause, unit.first = 0, self._limits.first_pause_s, True
            if unit.reading:
                unit.renewed = True
            elif unit.lane:
                waiting = self._lanes[unit.lane].waiting
                waiting.remove(lu)
                waiting.appendleft(lu)
            else:
                self._at(lu, unit, now + self._limits.spread_s * self._chance())

    def drop(self, lu: str) -> None:
        """A unit is not in doubt any more, or not here."""
        unit = self._units.pop(lu, None)
        if unit is not None and unit.lane:
            self._lanes[unit.lane].waiting.remove(lu)

    def begin(self, now: float) -> list[ReadOrder]:
        """The readings that are to begin now."""
        for _ in range(_DUE_AT_ONCE):
            if not self._due or self._due[0][0] > now:
                break
            _, ticket, lu = heapq.heappop(self._due)
            unit = self._units.get(lu)
            if unit is not None and unit.ticket == ticket and not unit.reading and not unit.lane:
                self._queue(lu, unit, now)
        orders: list[ReadOrder] = []
        progress = True
        while progress:
            progress = False
            # One from each lane in turn: a target with many units does not keep others waiting.
            for target, lane in list(self._lanes.items()):
                if not lane.waiting and not lane.begun and lane.ready_at < now:
                    del self._lanes[target]
                    continue
                order = self._next_of(target, lane, now)
                if order is not None:
                    orders.append(order)
                    progress = True
        return orders

    def end(self, order: ReadOrder, result: Result, now: float) -> None:
        """A reading has ended."""
        del self._orders[order.number]
        self._hosts[order.path.host].pop(order.number)
        self._lanes[order.path.target].begun.pop(order.number, None)
        unit = self._units.get(order.lu)
        if unit is None or unit.reading != order.number:
            return
        unit.reading = 0
        renewed, unit.renewed = unit.renewed, False
        match result:
            case Result.ANSWERED:
                unit.failures.clear()
                unit.refusals.clear()
                unit.refused = False
                unit.futile = 0 if renewed else unit.futile + 1
                if unit.futile < self._limits.futile:
                    self._pause(order.lu, unit, now)
            case Result.UNIT_FAILED:
                self._pause(order.lu, unit, now)
            case Result.PATH_FAILED | Result.REFUSED:
                self._failed(order, unit, result, now)

    def next_at(self, now: float) -> float | None:
        """When begin has something to do at the latest, None where only news can bring it."""
        times = [self._due[0][0]] if self._due else []
        times += [
            max(lane.ready_at, self._ready_at, self._room_at(lane, now))
            for lane in self._lanes.values()
            if lane.waiting and not self._is_full(lane)
        ]
        return max(min(times), now) if times else None

    def _failed(self, order: ReadOrder, unit: _Unit, result: Result, now: float) -> None:
        nexus = order.path.nexus
        unit.failures[nexus] = unit.failures.get(nexus, 0) + 1
        if result is Result.REFUSED:
            unit.refusals.add(nexus)
        here = {path.nexus for path in self._candidates(order.lu)}
        if here and unit.refusals >= here:
            unit.refused = True
            self._at(order.lu, unit, now + self._limits.refused_pause_s)
        elif any(unit.failures.get(other, 0) < unit.failures[nexus] for other in here):
            self._at(order.lu, unit, now)
        else:
            self._pause(order.lu, unit, now)

    def _at(self, lu: str, unit: _Unit, when: float) -> None:
        self._numbers += 1
        unit.ticket = self._numbers
        heapq.heappush(self._due, (when, unit.ticket, lu))

    def _pause(self, lu: str, unit: _Unit, now: float) -> None:
        vary = 1 + self._limits.jitter * (2 * self._chance() - 1)
        self._at(lu, unit, now + unit.pause * vary)
        unit.pause = min(unit.pause * self._limits.growth, self._limits.longest_pause_s)

    def _queue(self, lu: str, unit: _Unit, now: float) -> None:
        path = self._best(lu, unit)
        if path is None:
            # None takes commands now.  No uevent tells when one does again.
            self._pause(lu, unit, now)
            return
        unit.lane = path.target
        lane = self._lanes.setdefault(path.target, _Lane(path.host))
        lane.host = path.host
        if unit.first:
            lane.waiting.appendleft(lu)
        else:
            lane.waiting.append(lu)

    def _best(self, lu: str, unit: _Unit) -> Candidate | None:
        return min(
            self._candidates(lu),
            # Of equals one that is another's for each unit: not all are asked at one target port.
            key=lambda path: (
                unit.failures.get(path.nexus, 0),
                path.reluctance,
                crc32(f"{lu} {path.nexus}".encode()),
            ),
            default=None,
        )

    def _next_of(self, target: str, lane: _Lane, now: float) -> ReadOrder | None:
        """The next reading of a lane, None where nothing waits or a limit stands against it."""
        limits = self._limits
        if self._is_full(lane) or now < max(lane.ready_at, self._ready_at):
            return None
        while lane.waiting:
            lu = lane.waiting[0]
            unit = self._units[lu]
            # Looked for again: the unit may have waited for long.
            path = self._best(lu, unit)
            if path is None or path.target != target:
                lane.waiting.popleft()
                unit.lane = ""
                self._queue(lu, unit, now)
                continue
            lane.host = path.host
            if self._room_at(lane, now) > now:
                return None
            lane.waiting.popleft()
            unit.lane = ""
            unit.first = False
            self._numbers += 1
            unit.reading = self._numbers
            order = self._orders[self._numbers] = ReadOrder(self._numbers, lu, path)
            lane.begun[order.number] = now
            self._hosts.setdefault(path.host, {})[order.number] = now
            lane.ready_at = now + 1 / limits.target_rate
            self._ready_at = now + 1 / limits.rate
            # Behind the other lanes.
            self._lanes[target] = self._lanes.pop(target)
            return order
        return None

    def _is_full(self, lane: _Lane) -> bool:
        """Whether no more of a lane may be under way before something ends."""
        return len(lane.begun) >= self._limits.under_way - len(self._orders)

    def _room_at(self, lane: _Lane, now: float) -> float:
        """When lane and host have room for a reading: now, or when enough of them are slow."""
        begun = self._hosts.get(lane.host, {})
        return max(
            self._below(lane.begun, self._limits.target_busy, now),
            self._below(begun, self._limits.host_busy, now),
        )

    def _below(self, begun: dict[int, float], limit: int, now: float) -> float:
        """When fewer than limit readings are under way that do not count as slow."""
        slow = self._limits.slow_s
        young = sorted(since for since in begun.values() if now < since + slow)
        return now if len(young) < limit else young[len(young) - limit] + slow
