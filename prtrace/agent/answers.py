"""What the agent answers: the API's Source, over the tracker, the store and the host."""

from __future__ import annotations

import asyncio
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from prtrace import __version__
from prtrace.agent.backlog import Backlog
from prtrace.agent.counters import Counters
from prtrace.agent.freshness import Freshness, Now
from prtrace.agent.resolver import Resolver
from prtrace.agent.surroundings import Surroundings
from prtrace.agent.tracker import Tracker, target_of
from prtrace.agent.watch import Watch
from prtrace.api.source import Resolution, Wanted
from prtrace.errors import NoSuchDeviceError, StoreError
from prtrace.linux.devnode import stat_below_dev
from prtrace.linux.directory import Resolved
from prtrace.linux.pathstate import path_state
from prtrace.model import LogicalUnit
from prtrace.probe.attach import Attached
from prtrace.probe.record import ABI
from prtrace.probe.ring import Ring
from prtrace.state.apply import in_doubt
from prtrace.state.event import Event, rfc3339
from prtrace.state.unit import LuState
from prtrace.state.view import show_view, unit_view
from prtrace.store.database import Store
from prtrace.store.history import EventQuery

BEHIND: Final = "not current: records of what happened since wait to be taken"
"""The doubt about every unit while the agent is behind."""
UNVOUCHED: Final = "it is being read: the device has not said again which unit it is"
"""The doubt about a unit of which a reading under way has changed what is known."""
_LOOKED_LATELY_NS: Final = 5_000_000_000
STATUS_SCHEMA: Final = "prtrace.status/1"


class Answers:
    """Answers from memory; nothing here sends a command or changes a state."""

    def __init__(
        self,
        *,
        attached: Attached,
        ring: Ring,
        tracker: Tracker,
        watch: Watch,
        counters: Counters,
        store: Store,
        surroundings: Surroundings,
        resolver: Resolver,
        freshness: Freshness,
        backlog: Backlog,
        catch_up: Callable[[], None],
        ask: Callable[[str], bool],
        self_test: Callable[[], tuple[str, str]],
    ) -> None:
        self._attached = attached
        self._ring = ring
        self._tracker = tracker
        self._watch = watch
        self._counters = counters
        self._store = store
        self._surroundings = surroundings
        self._resolver = resolver
        self._freshness = freshness
        self._backlog = backlog
        self._catch_up = catch_up
        self._ask = ask
        self._self_test = self_test
        self._since = time.time_ns()
        self._history: Store | None = None
        self._reading = threading.Lock()

    def caught_up(self) -> asyncio.Future[bool] | None:
        """See AgentSource.caught_up."""
        return self._backlog.caught_up()

    def show(self, names: Sequence[str], *, behind: bool) -> dict[str, Any]:
        """The prtrace.show/1 object; what has happened to paths by now is in it."""
        self._catch_up()
        now = time.time_ns()
        chosen = [self.resolve(name).lu for name in names] or self._all()
        views = []
        for lu in dict.fromkeys(chosen):
            unit, alua = self._as_it_is(self._surroundings.inventory.units.get(lu))
            state = self._state(lu, now, behind=behind)
            views.append(unit_view(state, unit, now, alua))
        return show_view(views, platform.node())

    def _as_it_is(self, unit: LogicalUnit | None) -> tuple[LogicalUnit | None, dict[str, str]]:
        """The unit with its paths' states of now, which no uevent tells, and their ALUA states."""
        if unit is None:
            return None, {}
        sys = self._surroundings.inventory.directory.sys
        now = {path.nexus: path_state(path.nexus, sys) for path in unit.nexuses}
        states = {nexus: each.state or "gone" for nexus, each in now.items()}
        # Nearly always they are as they were at the scan, and nothing is made anew.
        if any(states[path.nexus] != path.state for path in unit.nexuses):
            paths = (replace(path, state=states[path.nexus]) for path in unit.nexuses)
            unit = replace(unit, nexuses=tuple(paths))
        return unit, {nexus: each.access for nexus, each in now.items()}

    def events(self, query: EventQuery) -> Iterator[list[Event]]:
        """Stored events, to be iterated on any one thread.

        A step at a time, over a connection of its own: the writer waits for no reader.
        """
        portions: Iterator[list[Event]] | None = None
        while True:
            with self._reading:
                if self._history is None:
                    self._history = Store.open(self._store.path, readonly=True)
                portions = portions or self._history.portions(query)
                portion = next(portions, None)
            if portion is None:
                return
            yield portion

    def want(self, names: Sequence[str], max_age: int) -> list[Wanted]:
        """Ask the devices of what is known for longer than max_age seconds."""
        self._watch.drain()
        now = Now(time.time_ns(), time.monotonic_ns())
        here = self._surroundings.inventory.units
        found = []
        for lu in dict.fromkeys([self.resolve(name).lu for name in names] or here):
            if lu not in here:
                found.append(Wanted(lu, asked=True, problem="the unit is not on this host"))
            elif not self._freshness.want(lu, now, max_age):
                found.append(Wanted(lu, asked=False))
            else:
                why = "" if self._ask(lu) else "the agent may not read (--read-in-doubt no)"
                found.append(Wanted(lu, asked=True, problem=why))
        return found

    def unconfirmed(self, lus: Sequence[str]) -> list[str]:
        """Those that were wanted, and that the device has not confirmed since."""
        self._watch.drain()
        return [
            lu for lu in lus if not self._freshness.is_met(lu) or self._resolver.unfinished(lu)
        ]

    def resolve(self, name: str) -> Resolution:
        """Find a name among what is here, then among what is known."""
        try:
            found = self._found(name)
        except NoSuchDeviceError:
            if name in self._tracker.states:
                return Resolution(name)
            raise
        nexus = found.nexus.nexus if found.nexus is not None else ""
        return Resolution(found.lu.lu, nexus, found.lu.devices)

    def _found(self, name: str) -> Resolved:
        try:
            return self._surroundings.inventory.resolve(name, stat_below_dev)
        except NoSuchDeviceError:
            # A name that is not here may be asked for again and again: the devices are scanned
            # once in _LOOKED_LATELY_NS for all these calls together.
            age = time.monotonic_ns() - self._surroundings.scanned_ns
            if name in self._tracker.states or age < _LOOKED_LATELY_NS:
                raise
        self._surroundings.rescan()
        return self._surroundings.inventory.resolve(name, stat_below_dev)

    def status(self) -> dict[str, Any]:
        """The prtrace.status/1 object."""
        self._watch.drain()
        programs = self._attached.programs
        counters = self._counters.stats()
        result, detail = self._self_test()
        units = self._all()
        now = time.time_ns()
        behind = self._backlog.behind
        return {
            "schema": STATUS_SCHEMA,
            "version": __version__,
            "host": platform.node(),
            "kernel": platform.release(),
            "pid": os.getpid(),
            "since": rfc3339(self._since),
            "engine": programs.engine.value,
            "digest": programs.digest,
            "abi": ABI,
            "epoch": self._attached.epoch.name,
            "generation": programs.generation,
            "note": self._attached.note,
            "fallback": programs.fallback,
            "attach": [
                {
                    "program": point.program,
                    "section": point.section,
                    "attached": point.program in programs.links,
                    "lost": point.lost,
                    "why": programs.missing.get(point.program, ""),
                }
                for point in programs.points
            ],
            "counters": {
                **counters,
                "consumed": self._watch.consumed,
                "put_aside": self._watch.aside,
                "reads_sent": self._resolver.sent,
            },
            "loss": [
                {"cause": cause, "count": counters[name]}
                for name, cause in _LOSSES.items()
                if counters[name]
            ],
            "ring": {"size": self._ring.size, "unread": self._ring.unread},
            "self_test": {"result": result, "at": rfc3339(now), "detail": detail},
            "store": self._stored(),
            "units": len(units),
            "nexuses": sum(len(self._surroundings.paths(lu)) for lu in units),
            "in_doubt": sum(bool(self._state(lu, now, behind=behind).doubts) for lu in units),
            "rss_bytes": _resident(),
            "memory_bytes": _charged(),
        }

    def _stored(self) -> dict[str, Any]:
        """The store's part of status(), which a store that cannot be read does not take away."""
        problem = self._watch.stalled
        try:
            size = self._store.size()
        except StoreError as error:
            size, problem = None, problem or error.message
        return {
            "path": str(self._store.path),
            "events": None if size is None else size.events,
            "bytes": None if size is None else size.bytes,
            "problem": problem,
        }

    def _all(self) -> list[str]:
        """Units that are here, and those that are gone with something registered on them."""
        here = list(self._surroundings.inventory.units)
        gone = (
            lu
            for lu, state in self._tracker.states.items()
            if lu not in self._surroundings.inventory.units and state.registrations
        )
        return [*here, *gone]

    def _state(self, lu: str, now: int, *, behind: bool) -> LuState:
        unit = self._surroundings.inventory.units.get(lu)
        state = self._tracker.state(lu, target_of(unit), now)
        if self._watch.stalled:
            # What happened since cannot be shown before it is stored.
            return in_doubt(state, f"events wait to be stored: {self._watch.stalled}", now)
        if behind:
            return in_doubt(state, BEHIND, now)
        if self._resolver.unvouched(lu):
            return in_doubt(state, UNVOUCHED, now)
        return state


_LOSSES: Final = {
    "ring_full": "the ring was full",
    "missed": "its end was not seen: a program was busy, or no driver took it",
    "signs_skipped": "a program was busy: conflicts and unit attentions may be uncounted",
    "lost_map_full": "nobody knows whose record was lost",
    "sample_ring_full": "samples: the ring was full",
    "count_map_full": "no room for a nexus's counters",
    "pending_full": "no room to remember a submission",
}


def _resident() -> int:
    """Resident memory of this process in bytes."""
    with open("/proc/self/statm", encoding="ascii") as figures:
        return int(figures.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _charged() -> int | None:
    """Bytes that the kernel charges the service for: all its processes, and the programs' maps.

    None where the agent has no control group to itself, or the kernel counts no memory in it.
    """
    if "INVOCATION_ID" not in os.environ:  # of systemd.exec(5): not a service
        return None
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as lines:
            groups = [line.rstrip("\n").removeprefix("0::") for line in lines if line[:3] == "0::"]
        with open(f"/sys/fs/cgroup{groups[0]}/memory.current", encoding="ascii") as figure:
            return int(figure.read())
    except (OSError, IndexError, ValueError):
        return None
