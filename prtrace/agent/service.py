"""`prtrace agent`: put the parts together and run them.

Order matters.  The state directory is locked before anything else is touched.  Programs are
attached while the process may still do so; the processes that keep privileges are forked; then
this one gives all of its own up, before the first thread is started and the first byte from
anybody is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from prtrace.agent import confinement, helper, keeper, mover
from prtrace.agent import parser as parsers
from prtrace.agent.answers import Answers
from prtrace.agent.arrivals import Arrivals, Mover
from prtrace.agent.backlog import Backlog
from prtrace.agent.child import Child
from prtrace.agent.confinement import AgentUser
from prtrace.agent.counters import CounterReading, Counters, Told
from prtrace.agent.entries import Entries
from prtrace.agent.freshness import Freshness, Now
from prtrace.agent.helper import Helper
from prtrace.agent.keeper import Keeper, KeeperGoneError
from prtrace.agent.longreply import LongReply
from prtrace.agent.options import AgentOptions
from prtrace.agent.readersmoves import ReadersMoves
from prtrace.agent.resolver import Resolver
from prtrace.agent.surroundings import Surroundings
from prtrace.agent.tracker import Proposal, Tracker
from prtrace.agent.watch import Watch
from prtrace.api.address import roots_door
from prtrace.api.server import ApiServer
from prtrace.errors import PrtraceError, StoreError, UsageError
from prtrace.linux import capabilities, libc, logs, systemd
from prtrace.linux.devnode import stat_below_dev
from prtrace.linux.journal import SystemJournal
from prtrace.linux.uevents import UeventSocket
from prtrace.linux.unixsocket import Listener
from prtrace.probe import libbpf, pins, selftest
from prtrace.probe.attach import Attached, attach
from prtrace.probe.programs import Engine
from prtrace.probe.record import Stat
from prtrace.probe.ring import Ring
from prtrace.scsi.codes import Status, status_title
from prtrace.state.decode import NOT_WATCHED, OTHER_UNIT, UNPROVEN
from prtrace.state.event import Command, Event
from prtrace.store.database import FILE, Store
from prtrace.store.lock import StateDirLock
from prtrace.store.written import Written

_TICK: Final = 1.0
_SWITCH: Final = 0.001
"""Seconds that another thread may keep the interpreter while the loop wants it: it wants it after
every system call."""
_WELL_EVERY_S: Final = 1.0
_SAMPLES_APART: Final = 0.1
"""Seconds between two looks at the counters while samples pour in."""
_RESCAN_AFTER: Final = 0.2
"""Seconds of quiet after a device event: a new device brings a burst of them."""
_VERIFY_LOOKS: Final = 4
"""How often, in the interval that --verify gives, the agent looks which units are due."""
_FOLLOW_EVERY_S: Final = 5.0
"""Seconds between two looks whether what was written has reached the disk."""
_DISK_PATIENCE_NS: Final = 5_000_000_000
"""Nanoseconds that the disk may take for what was written; then nothing more is given to it."""
_CHECK_EVERY_S: Final = 60.0
_CHECK_BYTES_A_S: Final = 2 << 20
_PRUNE_EVERY: Final = 10
"""Ticks between two looks for counters of nexuses that are gone."""
_ENDS_EVERY: Final = 5
"""Ticks between two looks for ends that were lost."""
_FORGET_EVERY: Final = 60
"""Ticks between two looks for units that are gone for long."""
_NOT_TESTED: Final = selftest.SelfTestResult("not run", "no command is sent (--read-in-doubt no)")
_SELF_TEST_LIMIT: Final = 5.0
_KEPT_ELSEWHERE: Final = -1
"""In the place of a descriptor that the keeper has."""
_NO_RELOAD: Final = (
    "SIGHUP changes nothing: options are read at the start; restart the agent to change them, and "
    "what happens meanwhile is not missed"
)
_ANSWERS: Final = frozenset(map(status_title, (Status.GOOD, Status.CHECK_CONDITION)))
_NAME: Final = "store"
"""The meta entry with the name by which a store claims records."""

_log = logging.getLogger("prtrace.agent")


class _Staff(NamedTuple):
    """The processes that do for the agent what it may not (docs/security.md)."""

    keeper: Child
    helper: Child
    mover: Child
    parser: Child

    def require_alive(self) -> None:
        """Raise PrtraceError where one of them has ended."""
        for each in (self.mover, self.parser, self.helper, self.keeper):
            each.require_alive()

    def end(self) -> None:
        """Tell the processes to end, the mover once its moves are over, and wait for them."""
        self.mover.end(patience=None)
        self.parser.end()
        self.helper.end()
        self.keeper.end()


def run(options: AgentOptions) -> None:
    """Run until SIGTERM or SIGINT.  Raises PrtraceError where it cannot start."""
    logs.set_up(options.log_level, options.log_format)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the loop says that it changes nothing
    capabilities.name_process("prtrace")
    admin_gid = _gid(options.admin_group)
    with contextlib.ExitStack() as stack:
        lock = StateDirLock(options.state_dir)
        stack.callback(lock.close)
        user = AgentUser.named(options.user)
        if admin_gid == user.gid:
            raise UsageError(
                f"{options.admin_group} is the group of {user.name}, whom no right is given",
                hint="name another group: --admin-group",
            )
        confinement.prepare(options.state_dir, user)
        # Before the history is open, whose index is memory that a fork would have, too.
        parser = Child.start("parser", parsers.serve, kept=(), user=(user.uid, user.gid))
        stack.callback(parser.end)
        with user.acting():
            store = stack.enter_context(
                Store.open(
                    options.state_dir / FILE,
                    keep_events=options.keep_events,
                    keep_bytes=options.keep_bytes,
                )
            )
        listener = Listener.handed_over() or Listener.bind(
            options.socket, mode=options.socket_mode, group=options.socket_group
        )
        listener.refuse_descriptors()
        stack.callback(listener.socket.close)
        engine = None if options.engine == "auto" else Engine(options.engine)
        pins.require_bpffs()
        attached = attach(engine, options.ring_size, stack.enter_context(pins.Lock()))
        libbpf.trim()
        tested = _NOT_TESTED if options.read_in_doubt is False else selftest.run(attached.programs)
        libc.load_unwinder()
        # Not before what can fail: who waits at everybody's is answered by the next start.
        sockets = (listener, *roots_own(listener.path))
        staff = _hire(options, admin_gid, attached, sockets, parser)
        stack.callback(staff.end)
        # The mover accepts on its own descriptors of the sockets; the keeper removes the paths.
        for each in sockets:
            each.socket.close()
        _let_go(attached)
        stack.callback(attached.programs.close)
        devices = stack.enter_context(UeventSocket())
        _import_the_rest()
        confinement.enter(user, options.state_dir)
        sys.setswitchinterval(_SWITCH)
        with _rings(attached) as (events, samples):
            agent = Agent(options, attached, tested, events, samples, store, devices, staff)
            asyncio.run(agent.run())


def roots_own(everybodys: Path) -> tuple[Listener, ...]:
    """The socket on which root alone is let in, beside everybody's path, if there can be one."""
    path = Path(roots_door(str(everybodys)))
    try:
        # Whoever listens there is an agent of before that hangs: who asked it would wait for ever.
        made = Listener.bind(path, mode=0o600, replace=True)
    except PrtraceError as error:
        _log.warning("root is let in where everybody is: %s", error.message)
        return ()
    made.refuse_descriptors()
    return (made,)


def _let_go(attached: Attached) -> None:
    """Close the descriptors of links and programs: the keeper has its own."""
    attached.misses.close()
    programs = attached.programs
    for fd in programs.links.values():
        os.close(fd)
    attached.programs = programs._replace(links=dict.fromkeys(programs.links, _KEPT_ELSEWHERE))


def _import_the_rest() -> None:
    """Import what is otherwise imported at its first use: this process may not read files then."""
    import concurrent.futures.thread

    import psutil

    from prtrace.api.interface import definitions

    definitions()
    del concurrent, psutil


def _hire(
    options: AgentOptions,
    admin_gid: int | None,
    attached: Attached,
    sockets: tuple[Listener, ...],
    parser: Child,
) -> _Staff:
    """Fork the processes that keep privileges, each with what it needs and nothing else."""
    needed = keeper.descriptors(attached)
    everybodys, *roots = (listener.socket for listener in sockets)
    doors = mover.Doors(everybodys, roots[0] if roots else None)
    staff = _Staff(
        Child.start(
            "keeper",
            lambda link: keeper.serve(link, attached, sockets),
            kept=keeper.KEPT,
            descriptors=needed,
        ),
        Child.start("helper", lambda link: helper.serve(link, options.claims), kept=helper.KEPT),
        Child.start(
            "mover",
            lambda link: mover.serve(link, doors, options.state_dir, admin_gid, parser.link),
            kept=mover.KEPT,
            descriptors={*(door.fileno() for door in (everybodys, *roots)), parser.link.fileno()},
        ),
        parser,
    )
    # It is the mover's alone: what ends the mover ends the parsers, and nothing else does.
    parser.link.close()
    return staff


@contextlib.contextmanager
def _rings(attached: Attached) -> Iterator[tuple[Ring, Ring]]:
    maps = attached.programs.maps
    sizes = [libbpf.bpf_map_get_info(maps[n]).max_entries for n in ("pr_events", "pr_samples")]
    with Ring(maps["pr_events"], sizes[0]) as events, Ring(maps["pr_samples"], sizes[1]) as sample:
        yield events, sample


@dataclass(slots=True)
class _Due:
    """Work that waits for a timer, so that bursts cost one piece of work."""

    rescan: asyncio.TimerHandle | None = None
    addresses: frozenset[str] | None = frozenset()
    """The devices to be looked at then; None: all of them."""
    maps: bool = False
    """Whether to look at device-mapper nodes then."""
    count: asyncio.TimerHandle | None = None


class Agent:
    """The running agent; everything happens on its event loop's thread, except SG_IO."""

    def __init__(
        self,
        options: AgentOptions,
        attached: Attached,
        tested: selftest.SelfTestResult,
        events: Ring,
        samples: Ring,
        store: Store,
        devices: UeventSocket,
        staff: _Staff,
    ) -> None:
        self._options = options
        self._staff = staff
        self._keeper = Keeper(staff.keeper.link)
        self._mover = Mover(staff.mover.link, str(options.socket))
        self._own = frozenset({staff.helper.pid, staff.mover.pid})
        self._attached = attached
        self._tested = tested
        self._events = events
        self._samples = samples
        self._devices = devices
        helping = Helper(staff.helper.link, options.claims)
        self._surroundings = Surroundings(options.claims, helping.records)
        epoch = attached.epoch.name
        meta = store.meta()
        self._name = meta.get(_NAME) or os.urandom(8).hex()
        self._tracker = Tracker(epoch, store.states(), self._surroundings, self._own)
        # What was counted while no agent ran may be of units that were there meanwhile.
        self._surroundings.note_former(
            path.local for state in self._tracker.states.values() for path in state.paths.values()
        )
        self._counters = Counters(
            attached.programs.maps,
            epoch,
            self._keeper,
            Told.from_meta(epoch, meta),
            self._surroundings,
        )
        self._watch = Watch(
            events,
            samples,
            self._tracker,
            self._counters,
            store,
            self._published,
            self._still_well,
        )
        self._backlog = Backlog(self._watch, self._or_end)
        self._freshness = Freshness(self._tracker.states)
        self._resolver = Resolver(
            self._surroundings,
            lambda lu: self._freshness.state(lu, time.monotonic_ns()),
            misled=self._misled,
            unproven=self._unproven,
            completed=self._completed,
            opened=helping.open,
            look=helping.users,
            # Callers that wait for the unit to be known look at its state again.
            vouched=lambda: self._server.publish(()),
        )
        self._server = ApiServer(
            Answers(
                attached=attached,
                ring=events,
                tracker=self._tracker,
                watch=self._watch,
                counters=self._counters,
                store=store,
                surroundings=self._surroundings,
                resolver=self._resolver,
                freshness=self._freshness,
                backlog=self._backlog,
                catch_up=self._catch_up,
                ask=self._ask_for_caller,
                self_test=self.self_test,
            ),
            lambda: ReadersMoves(self._mover),
            admin_gid=_gid(options.admin_group),
        )
        self._entries, self._journal = Entries(self._tracker.states), SystemJournal.of_service()
        self._due = _Due()
        self._paused = False
        self._kept: list[str] = []
        self._asked_at = 0.0
        self._verify_at = 0
        self._well_at = 0.0
        self._store, self._written = store, Written(store.path)
        self._checking, self._check_at = False, 0.0
        self._followed, self._follow_at = 0, 0.0
        self._said: set[str] = set()
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None

    async def run(self) -> None:
        """Serve until a signal says stop."""
        loop = self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, _log.warning, _NO_RELOAD)
        _log.info("%s (%s)", self._attached.note, self._attached.programs.engine.value)
        for program, why in self._attached.programs.missing.items():
            _log.warning("%s is not attached: %s", program, why)
        if self._attached.programs.fallback:
            _log.warning(
                "a program runs for every SCSI command: %s", self._attached.programs.fallback
            )
        self._claim()
        # Nobody is answered before what a killed move left in question has been settled.
        await loop.run_in_executor(None, self._mover.await_settled)
        arrivals = Arrivals(self._mover, self._server, self._or_end)
        systemd.notify("READY=1", f"STATUS={self._attached.note}")
        _log.info("listening on %s", self._options.socket)
        ticking = loop.create_task(self._work(), name="work")
        try:
            stopping = loop.create_task(self._stop.wait(), name="stop")
            # _work() never returns: a task that is done has failed, and result() raises why.
            await asyncio.wait((stopping, ticking), return_when=asyncio.FIRST_COMPLETED)
            if ticking.done():
                ticking.result()
            if self._failure is not None:
                raise self._failure
        finally:
            systemd.notify("STOPPING=1")
            for fd in (self._events.fd, self._samples.fd, self._devices.fileno()):
                loop.remove_reader(fd)
            ticking.cancel()
            self._resolver.close()
            await self._server.close()
            arrivals.close()
            if self._failure is None and not ticking.done():
                self._watch.drain_all()
            self._journal.close()

    async def _work(self) -> None:
        """Adopt what happened before, beside callers who are told so; then go on for ever."""
        await self._backlog.adopt(self._still_well)
        self._watch.count(all_nexuses=True)
        self._meet_units()
        if self._watch.look_for_gaps():
            # Nothing is told as current before it is certain that nothing is missing.
            await asyncio.sleep(_TICK)
            self._watch.drain()
            self._watch.look_for_gaps()
        self._backlog.adopted()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._events.fd, self._or_end, self._pump)
        loop.add_reader(self._samples.fd, self._or_end, self._sampled)
        loop.add_reader(self._devices.fileno(), self._or_end, self._device_event)
        await self._tick()

    def self_test(self) -> tuple[str, str]:
        """("passed" | "failed" | "not run", detail): do the programs see what this process sends?

        At the start INQUIRY commands over each issue path tell, later the agent's own readings.
        """
        sent, own = self._resolver.sent, self._watch.own
        if self._tested.result == "failed":
            return self._tested.result, self._tested.detail
        if sent > own and time.monotonic() - self._asked_at >= _SELF_TEST_LIMIT:
            if not own:
                return "failed", f"{sent} commands were sent and none was seen"
            if self._counters.stat(Stat.NOT_SUBMITTED):
                return "failed", f"of {sent} commands the submission of {sent - own} was not seen"
        if self._tested.result == "passed":
            return self._tested.result, self._tested.detail
        if own:
            return "passed", f"{own} commands of the agent's own were seen"
        return "not run", self._tested.detail

    def _published(self, stored: list[Event], proposal: Proposal) -> None:
        for event in proposal.events:
            if _is_answer(event) and self._tracker.is_own(event):
                told = event.record not in proposal.idle
                self._resolver.replied(event.lu, event.nexus, news=told)
        self._resolver.changed(proposal.states)
        self._entries.forget(proposal.forgotten)
        self._server.publish(stored)
        for entry in self._entries.of(stored, proposal.states) if self._journal else ():
            self._journal.send(entry)
        news = {
            each.lu
            for each in stored
            # That a reading of the agent's own has failed is nothing new of the unit.
            if not self._tracker.is_own(each) and each.problem != UNPROVEN
        }
        for lu, state in proposal.states.items():
            if state.doubts:
                self._ask(lu, proposal.safe.get(lu, ""), fresh=lu in news)

    def _ask(self, lu: str, safe: str = "", *, fresh: bool = False) -> bool:
        """Have the resolver ask, if this agent may; returns whether it may."""
        if self._options.read_in_doubt and lu in self._surroundings.inventory.units:
            self._asked_at = time.monotonic()
            self._resolver.resolve(lu, safe, fresh=fresh)
        return self._options.read_in_doubt

    def _ask_for_caller(self, lu: str) -> bool:
        """As _ask, for somebody who wants the unit read whatever it is."""
        if self._options.read_in_doubt:
            self._asked_at = time.monotonic()
            self._resolver.resolve(lu, fresh=True, wanted=True)
        return self._options.read_in_doubt

    def _claim(self) -> None:
        """Make sure that these programs' records are this store's, from the first one on.

        Where the programs are new, or another store had their records meanwhile, what
        happened to the units we know is unknown.  The store is told before the claim: an
        agent killed in between does it again.
        """
        readers = self._keeper.readers()
        if readers != {self._name}:
            self._tell_unwatched(begun=bool(readers))
        self._keeper.claim(self._name)

    def _tell_unwatched(self, *, begun: bool) -> None:
        """Put every unit that is known in doubt: nobody was watching.

        begun: other stores have had records of these programs, so that there is something before
        the history of this one, of the units that are here as well.
        """
        if begun:
            _log.warning(
                "another store had the records of these programs: what happened before now is not "
                "in this one"
            )
        now, at = time.time_ns(), time.monotonic_ns()
        units = self._tracker.everybody(Proposal()) if begun else self._tracker.states
        unknown = tuple(
            Event(
                time=now,
                start_ns=at,
                done_ns=at,
                lu=lu,
                command=Command.LOST,
                problem=NOT_WATCHED,
            )
            for lu in units
        )
        if not self._watch.tell(unknown, CounterReading(unknown, {_NAME: self._name})):
            raise StoreError(self._watch.stalled, hint="nothing is read before it can be stored")

    def _meet_units(self) -> None:
        """Tell the paths of every unit that is here; one that was never seen is read once."""
        self._watch.meet()
        for lu in self._surroundings.inventory.units:
            state = self._tracker.states.get(lu)
            if state is not None and state.doubts:
                self._ask(lu)

    def _misled(self, hctl: str, believed: str, found: str) -> None:
        """A device says that it is another unit than the kernel remembers: it was mapped anew."""
        _log.warning("%s leads to %s and not to %s: rescan it", hctl, found, believed)
        now, at = time.time_ns(), time.monotonic_ns()
        told = Event(
            Command.LOST,
            time=now,
            start_ns=at,
            done_ns=at,
            nexus=hctl,
            problem=f"{OTHER_UNIT}{found}",
        )
        self._or_end(lambda: self._follow(hctl, believed, found, told))

    def _follow(self, hctl: str, believed: str, found: str, told: Event) -> None:
        follows = self._surroundings.believes(hctl, found)
        units = (believed, found) if follows else (believed,)
        if not follows:
            self._say_once(f"{hctl} says that it is another unit each time it is asked")
        self._watch.owe(tuple(told._replace(lu=lu) for lu in units))
        if follows:
            self._surroundings.correct(hctl, found)
            self._meet_units()

    def _unproven(self, hctl: str, lu: str) -> None:
        """The replies to a reading may be those of another unit than the kernel remembers."""
        self._or_end(lambda: self._doubt_replies(hctl, lu))

    def _doubt_replies(self, hctl: str, lu: str) -> None:
        # The records of the replies are in the ring, or were read.
        self._watch.drain()
        waiting = self._watch.behind or self._watch.stalled
        if waiting or self._resolver.has_replied(lu, hctl):
            now, at = time.time_ns(), time.monotonic_ns()
            told = Event(Command.LOST, time=now, start_ns=at, done_ns=at, lu=lu, nexus=hctl)
            self._watch.owe((told._replace(problem=UNPROVEN),))

    def _completed(self, nexus: str, replies: Sequence[LongReply]) -> None:
        """Whole replies that no record holds: their records are in the ring, or were read."""
        self._or_end(lambda: self._complete(nexus, replies))

    def _complete(self, nexus: str, replies: Sequence[LongReply]) -> None:
        self._watch.drain()
        if events := self._tracker.complete(nexus, replies):
            self._watch.tell(events)

    def _verify(self) -> None:
        """Have units read that the device has not confirmed for as long as --verify says."""
        every, now = self._options.verify, Now(time.time_ns(), time.monotonic_ns())
        if not every or now.ns < self._verify_at:
            return
        self._verify_at = now.ns + max(every, _VERIFY_LOOKS) * 1_000_000_000 // _VERIFY_LOOKS
        for lu in self._to_verify():
            if self._freshness.want(lu, now, every):
                self._resolver.verify(lu)

    def _to_verify(self) -> list[str]:
        if not self._options.verified:
            return list(self._surroundings.inventory.units)
        found = []
        for name in self._options.verified:
            try:
                found.append(self._surroundings.inventory.resolve(name, stat_below_dev).lu.lu)
            except PrtraceError as error:
                self._say_once(f"--verify: {error.message}")
        return found

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            _log.warning("%s", text)

    def _or_end(self, work: Callable[[], None]) -> None:
        """Do work that the loop calls for; a failure ends the agent, which says why.

        asyncio would log it and go on.
        """
        try:
            work()
        except Exception as error:
            self._failure = self._failure or error
            self._stop.set()

    def _pump(self) -> None:
        self._watch.pump()
        self._backlog.look()
        if self._watch.stalled:
            # The ring stays readable: the tick tries again, and callers are answered meanwhile.
            asyncio.get_running_loop().remove_reader(self._events.fd)
            self._paused = True

    def _sampled(self) -> None:
        self._watch.sample()
        if self._due.count is None:
            self._due.count = asyncio.get_running_loop().call_later(
                _SAMPLES_APART, self._or_end, self._count
            )

    def _count(self) -> None:
        self._due.count = None
        self._watch.count()

    def _device_event(self) -> None:
        events = self._devices.read()
        if not events.rescan:
            return
        changed = events.addresses
        if changed is None or self._due.addresses is None:
            self._due.addresses = None
        else:
            self._due.addresses |= changed
        self._due.maps = self._due.maps or events.maps
        if self._due.rescan is None:
            loop = asyncio.get_running_loop()
            self._due.rescan = loop.call_later(_RESCAN_AFTER, self._or_end, self._rescan)

    def _catch_up(self) -> None:
        """Take the device events that wait: the kernel has sent them when a path is gone."""
        self._device_event()
        if self._due.rescan is not None:
            self._due.rescan.cancel()
            self._rescan()

    def _rescan(self) -> None:
        addresses, maps = self._due.addresses, self._due.maps
        self._due.rescan, self._due.addresses, self._due.maps = None, frozenset(), False
        if addresses is None:
            self._surroundings.rescan()
        else:
            self._surroundings.refresh(addresses, maps=maps)
        self._meet_units()

    def _still_well(self) -> None:
        """Tell the service manager that what takes long goes on, before READY=1 as after."""
        now = time.monotonic()
        if now - self._well_at >= _WELL_EVERY_S:
            self._well_at = now
            systemd.notify("WATCHDOG=1", "EXTEND_TIMEOUT_USEC=60000000")

    async def _tick(self) -> None:
        watchdog = systemd.watchdog_interval()
        fed = 0.0
        unseen = ticks = 0
        while True:
            await asyncio.sleep(min(_TICK, watchdog or _TICK))
            if watchdog and time.monotonic() - fed >= watchdog:
                systemd.notify("WATCHDOG=1")
                fed = time.monotonic()
            if self._watch.stalled:
                self._watch.drain()
            if self._paused and not self._watch.stalled:
                asyncio.get_running_loop().add_reader(self._events.fd, self._or_end, self._pump)
                self._paused = False
            # A sample that found no room does not say on which nexus it was: all are read.
            missed = self._counters.stat(Stat.SAMPLE_RING_FULL)
            self._watch.count(all_nexuses=missed > unseen)
            unseen = missed
            if self._tracker.unmet and not self._watch.stalled:
                self._meet_units()
            self._watch.look_for_gaps()
            self._watch.look_at_store()
            self._look_into_store()
            self._wait_for_disk()
            self._verify()
            self._staff.require_alive()
            self._keep()
            ticks += 1
            if ticks % _ENDS_EVERY == 0:
                self._watch.look_for_lost_ends()
            if ticks % _PRUNE_EVERY == 0:
                self._watch.prune_counters()
            if ticks % _FORGET_EVERY == 0:
                self._watch.forget()

    def _look_into_store(self) -> None:
        """Beside the loop: does the disk have what was written, and is it as it was written?"""
        now, changes = time.monotonic(), self._store.changes
        whole = now >= self._check_at
        # What fails to be stored has a reason that SQLite does not tell.
        due = now >= self._follow_at and (changes != self._followed or self._watch.stalled)
        if self._checking or not (whole or due):
            return
        check = threading.Thread(
            target=self._check_store,
            args=(asyncio.get_running_loop(), whole),
            name="prtrace-check",
            daemon=True,
        )
        try:
            check.start()
        except RuntimeError:
            return  # no more threads: tried again in the next tick
        self._checking = True
        self._followed, self._follow_at = changes, now + _FOLLOW_EVERY_S
        if whole:
            # Some 200 MiB a second: at most a hundredth of the time is spent on it.
            self._check_at = now + max(_CHECK_EVERY_S, self._store.bytes / _CHECK_BYTES_A_S)

    def _wait_for_disk(self) -> None:
        """Keep away from a disk that does not answer: whoever writes waits in the kernel."""
        waiting = self._written.waiting
        over = waiting is not None and time.monotonic_ns() - waiting.since_ns >= _DISK_PATIENCE_NS
        self._watch.wait_for_disk(waiting.since if waiting is not None and over else None)

    def _check_store(self, loop: asyncio.AbstractEventLoop, whole: bool) -> None:
        found = None
        try:
            found = self._written.failure() or (Store.damage(self._store.path) if whole else None)
        except Exception:
            # A fault must not keep the next look from coming.
            _log.exception("looking into the store failed")
        with contextlib.suppress(RuntimeError):  # the agent has ended meanwhile
            loop.call_soon_threadsafe(self._store_checked, found)

    def _store_checked(self, found: StoreError | None) -> None:
        self._checking = False
        if found is not None:
            self._watch.damaged(found)

    def _keep(self) -> None:
        """Have the programs looked after; a fault that lasts is logged once."""
        try:
            kept = self._keeper.look()
        except KeeperGoneError:
            raise
        except PrtraceError as error:
            said = [error.message]
        else:
            said = kept.said
            if kept.links != self._attached.programs.links.keys():
                self._attached.programs = self._attached.programs._replace(
                    generation=kept.generation,
                    links=dict.fromkeys(kept.links, _KEPT_ELSEWHERE),
                    missing=kept.missing,
                    fallback=kept.fallback,
                )
        for text in said:
            if text not in self._kept:
                _log.warning("%s", text)
        self._kept = said


def _is_answer(event: Event) -> bool:
    """Whether a device has answered a PR IN in a way that tells something of reservations."""
    return event.command is Command.PR_IN and event.status in _ANSWERS


def _gid(group: str) -> int | None:
    if not group:
        return None
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise UsageError(f"there is no group {group!r}", hint="see --admin-group") from None
