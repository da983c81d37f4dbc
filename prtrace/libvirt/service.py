"""prtrace-libvirt: carries out what the machine says, for each guest of this host.

Threads: one for each call of hook and plugin; one that looks at guests (after libvirt's events,
and from time to time, for an event may be lost); one that writes notes, which can wait half a
minute; one that listens to the agent's events; libvirt's own.  A guest's lock keeps its steps in
one order.
"""

from __future__ import annotations

import logging
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from prtrace.errors import PrtraceError, UnavailableError
from prtrace.libvirt import domain as domains
from prtrace.libvirt import note as notes
from prtrace.libvirt.agent import AgentCalls, Move
from prtrace.libvirt.guests import Guest, Guests
from prtrace.libvirt.hypervisor import GuestNews, GuestState, Hypervisor, HypervisorError
from prtrace.libvirt.machine import (
    Acquires,
    Act,
    AgentSaid,
    Announced,
    Answer,
    Ask,
    Ended,
    Given,
    GuestRecord,
    Input,
    MovePolicy,
    Output,
    Permission,
    Phase,
    Runs,
    Started,
    Waits,
    step,
)
from prtrace.libvirt.server import MoveServer
from prtrace.libvirt.server import Reply as ReplyTo
from prtrace.linux import systemd
from prtrace.linux.libc import load_unwinder
from prtrace.linux.lockfile import record_lock_holder
from prtrace.linux.process import boot_id
from prtrace.linux.unixsocket import Listener

RUN_DIR: Final = Path("/run/prtrace-libvirt")
STATE_DIR: Final = Path("/var/lib/prtrace-libvirt")
SOCKET: Final = "io.prtrace.libvirt"
PLUGIN: Final = "plugin"
"""The file in RUN_DIR on which a libvirtd that has loaded the plugin holds a lock."""
_PAUSED, _POSTCOPY = 0x20, 0x8000  # VIR_MIGRATE_PAUSED, VIR_MIGRATE_POSTCOPY
_ROUND_S: Final = 1.0
_AGENT_S: Final = 5.0
_NOTES_APART_S: Final = 2.0
"""Between two notes of a guest: each of its commands may want another one, and each is saved."""
_LONGEST_WAIT_S: Final = 60.0
_CENSUS_S: Final = 300.0
"""How long libvirt must not have known a guest before it is forgotten: `migrate begin` comes
before libvirt knows it, and the event that it left may come after."""
_UNANSWERED: Final = "prtrace-libvirt has no file of the move"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """deadline: seconds that a call of the agent may take."""

    agent: str
    run_dir: Path = RUN_DIR
    state_dir: Path = STATE_DIR
    deadline: float = 4.0
    policy: MovePolicy = field(default_factory=MovePolicy)


class MoveService:
    """prtrace.libvirt.server.Answerer, and everything else that the service does."""

    def __init__(self, options: ServiceOptions) -> None:
        self.deadline = options.deadline * 2
        """Two calls at most before an answer: an old move's end, and the new one's beginning."""
        self._options = options
        self._agent = AgentCalls(options.agent, options.deadline)
        self._guests = Guests(options.state_dir, options.run_dir)
        self._hypervisor: Hypervisor | None = None
        self._heard: queue.SimpleQueue[tuple[str, GuestNews]] = queue.SimpleQueue()
        self._unnoted: set[str] = set()
        self._wake_notes = threading.Event()
        self._units: dict[str, set[str]] = {}
        self._said = ""
        self._census_due = 0.0
        self._unknown: set[str] = set()

    # Hook and plugin

    def hook(self, call: Mapping[str, Any], reply: ReplyTo) -> None:
        """See prtrace.libvirt.server.Answerer."""
        there = domains.parse(str(call.get("xml")))
        guest = self._guests.get(there.uuid)
        operation, reason = call.get("operation"), call.get("reason")
        with guest.lock:
            guest.epoch += 1
            if operation in ("stopped", "release"):
                # The domain's lock is held; nobody waits for what is done now.
                reply(True, "")
                left = operation == "release" and reason == "migrated" and guest.move is not None
                self._give(guest, Ended(left), None)
                return
            # An ordinary start takes nothing from a note, and an old or damaged one stops nobody.
            comes = operation != "started" or call.get("incoming") is not False
            note = notes.parse(there) if comes else None
            if note is None:
                given, why = Given.NO_NOTE, ""
            else:
                unspoken = note.unspoken(there)
                given, why = (Given.BLOCKED if unspoken else note.given), note.why or unspoken
            if note is not None and note.file is not None:
                newest = self._agent.newest_order(note.disks.values())
                guest.coming = Move(note.fresh(time.time_ns(), newest), note.devices(there))
            _log.info("guest %s: hook %s, %s", guest.uuid, operation, given.value)
            if operation == "migrate":
                self._give(guest, Announced(given), _with(reply, why))
                return
            flags = call.get("flags") or 0
            asks = self._plugin()
            suspended = bool(flags & _PAUSED)
            guest.late = not (asks or suspended)
            started = Started(
                given,
                incoming=call.get("incoming"),
                suspended=suspended,
                postcopy=bool(flags & _POSTCOPY),
                asks=asks,
                holds=note is not None and note.holds,
            )
            self._give(guest, started, _with(reply, why))

    def acquire(self, uuid: str, reply: ReplyTo) -> None:
        """See prtrace.libvirt.server.Answerer."""
        guest = self._guests.get(uuid)
        with guest.lock:
            guest.epoch += 1
            outgoing = self._guests.outgoing(uuid) and guest.move is not None
            _log.info("guest %s: the plugin asks, %s", uuid, guest.record.phase.value)
            self._give(guest, Acquires(outgoing), reply)

    def _plugin(self) -> bool:
        """Whether the libvirtd that runs has loaded the plugin."""
        try:
            return record_lock_holder(self._options.run_dir / PLUGIN) is not None
        except OSError:
            return False

    # The machine

    def _give(self, guest: Guest, given: Input, reply: ReplyTo | None) -> None:
        """Take a step, and all that follow from it; guest.lock is held.

        Where a step cannot be carried out, nobody waits any more, and what was asked for counts
        as not answered, as after a restart.
        """
        if guest.broken:
            if reply is not None:
                reply(False, guest.broken)
            return
        if isinstance(given, Ended):
            self._guests.stays(guest.uuid)
        try:
            self._steps(guest, given, reply)
        except BaseException:
            guest.record = guest.record.restarted
            raise

    def _steps(self, guest: Guest, given: Input, reply: ReplyTo | None) -> None:
        following: Input | None = given
        while following is not None:
            before = guest.record
            record, outputs = step(before, following, self._options.policy)
            move, coming = guest.move, guest.coming
            self._take_file(guest, outputs)
            guest.record = record
            try:
                self._guests.store(guest)
            except PrtraceError:
                # As after a restart: what is not on disk was not done.
                guest.record, guest.move, guest.coming = before.restarted, move, coming
                if Act.PAUSE in outputs:
                    # A guest that may not run does not wait for room on the disk.
                    self._libvirt_does(guest, "pause")
                raise
            if record.phase is not before.phase:
                _log.info("guest %s: %s", guest.uuid, record.phase.value)
                guest.wait = guest.due = 0.0
            following = None
            for output in outputs:
                following = self._carry_out(guest, output, reply)

    def _take_file(self, guest: Guest, outputs: tuple[Output, ...]) -> None:
        """What the outputs say of the move's file; it is stored with the record."""
        if Act.ADOPT in outputs:
            guest.move, guest.coming = guest.coming, None
        if Act.FORGET in outputs:
            guest.move = None
        if Act.RENEW in outputs and guest.move is not None:
            old = guest.move
            newest = self._agent.newest_order(unit["lu"] for unit in old.file["units"])
            guest.move = Move(notes.renewed(old.file, time.time_ns(), newest), old.devices)

    def _carry_out(self, guest: Guest, output: Output, reply: ReplyTo | None) -> Input | None:
        match output:
            case Permission(allow, why):
                if allow:
                    self._guests.stays(guest.uuid)
                if reply is not None:
                    reply(allow, why)
            case Ask(call, new):
                move = guest.coming if new else guest.move
                if move is None:
                    guest.record = guest.record.restarted
                    raise PrtraceError(f"guest {guest.uuid}: {_UNANSWERED}")
                try:
                    told = self._agent.carry_out(call, move, late=guest.late)
                except Exception as error:
                    # The call may have been carried out all the same.
                    _log.exception("guest %s: %s", guest.uuid, call.value)
                    told = AgentSaid(
                        call, Answer.SILENT, f"the answer was not understood: {error}"
                    )
                _log.info(
                    "guest %s: %s: %s %s", guest.uuid, call.value, told.answer.value, told.why
                )
                return told
            case Act.PAUSE:
                self._libvirt_does(guest, "pause")
            case Act.RESUME:
                self._libvirt_does(guest, "resume")
            case Act.NOTE:
                self._wants_note(guest.uuid)
            case Act.ADOPT | Act.FORGET | Act.RENEW:
                pass  # see _take_file()
        return None

    def _libvirt_does(self, guest: Guest, what: str) -> None:
        hypervisor = self._hypervisor
        if hypervisor is None:
            _log.error("guest %s: %s: libvirt cannot be reached", guest.uuid, what)
            return
        try:
            getattr(hypervisor, what)(guest.uuid)
        except HypervisorError as error:
            _log.error("%s", error.message)

    # What libvirt says

    def heard(self, uuid: str, news: GuestNews) -> None:
        """An event of libvirt's, on its thread."""
        self._heard.put((uuid, news))

    def look(self, uuid: str, *, migrated: bool = False) -> None:
        """See how the guest is, and take the step that follows."""
        guest = self._guests.get(uuid)
        epoch, hypervisor = guest.epoch, self._hypervisor
        if hypervisor is None:
            raise HypervisorError(f"guest {uuid}: libvirt cannot be reached")
        sight = hypervisor.sight(uuid)
        with guest.lock:
            if guest.epoch != epoch:
                # Hook or plugin came meanwhile: what was seen may be older.
                self._heard.put((uuid, GuestNews.LEFT if migrated else GuestNews.CHANGED))
                return
            migrated = (migrated or sight is GuestState.LEFT) and guest.move is not None
            given = _input(guest.record, sight, migrated=migrated)
            if given is not None:
                self._give(guest, given, None)
            if guest.record.phase is Phase.HOME and sight in (GuestState.RUNS, GuestState.WAITS):
                self._wants_note(uuid)

    def _transfers(self, uuid: str) -> None:
        """The guest's memory is on its way from here to somewhere.

        libvirt calls the plugin's inquire() when a migration begins, but not where the guest is
        paused (qemuMigrationCookieAddLockstate() in src/qemu/qemu_migration_cookie.c): it would
        ask nobody before that guest goes on here again.
        """
        guest, hypervisor = self._guests.get(uuid), self._hypervisor
        leaves = guest.record.phase in (Phase.HOME, Phase.RECLAIMING) and guest.move is not None
        if not leaves or self._guests.outgoing(uuid):
            return
        try:
            paused = hypervisor is None or hypervisor.paused_before(uuid)
        except HypervisorError:
            # To be asked is the safe side.
            paused = True
        if paused:
            _log.info("guest %s: is paused, and its memory is being sent", uuid)
            self._guests.leaves(uuid)

    def _round(self) -> None:
        """What is due: guests that were heard of, and what could not be done before."""
        hypervisor = self._hypervisor
        if hypervisor is None or not hypervisor.alive():
            self._connect()
        now = time.monotonic()
        for guest in self._guests.all():
            unfinished = guest.missed or guest.record.phase is not Phase.HOME
            if unfinished and now >= guest.due:
                guest.wait = min(_LONGEST_WAIT_S, guest.wait * 2 or _ROUND_S)
                guest.due = now + guest.wait
                self._look_safely(guest.uuid)
        if self._unnoted:
            self._wake_notes.set()
        if now >= self._census_due and self._hypervisor is not None:
            self._census_due = now + _CENSUS_S
            self._forget_unknown(self._hypervisor)

    def _look_safely(self, uuid: str, *, migrated: bool = False) -> None:
        """Look at a guest; what could not be seen or done now is not lost, and stops no other."""
        guest = self._guests.get(uuid)
        guest.left = guest.left or migrated
        guest.missed = True

        def work() -> None:
            self.look(uuid, migrated=guest.left)
            guest.missed = guest.left = False
            if guest.record.phase is Phase.HOME:
                guest.wait = guest.due = 0.0

        self._safely(work, f"guest {uuid}: it could not be looked at")

    def _safely(self, work: Callable[[], None], what: str) -> None:
        """Do work; an error that does not end the service is said.  what: for one that nobody
        foresaw."""
        try:
            work()
        except UnavailableError:
            raise
        except PrtraceError as error:
            self._warn(error)
        except Exception:
            _log.exception("%s", what)

    def _warn(self, error: PrtraceError) -> None:
        """Say an error; once, where it is the same again and again."""
        if error.message != self._said:
            _log.warning("%s", error.message)
        self._said = error.message

    def _forget_unknown(self, hypervisor: Hypervisor) -> None:
        """Forget guests that libvirt knows neither now nor knew the last time."""
        known = set(hypervisor.known())
        unknown = {guest.uuid for guest in self._guests.all()} - known
        for uuid in unknown & self._unknown:
            guest = self._guests.get(uuid)
            with guest.lock:
                if self._guests.forget(guest):
                    self._unnoted.discard(uuid)
                    self._units.pop(uuid, None)
        self._unknown = unknown

    def _connect(self) -> None:
        if self._hypervisor is not None:
            self._hypervisor.close()
            self._hypervisor = None
        self._hypervisor = Hypervisor(self.heard)
        _log.info("connected to libvirt")
        known = {guest.uuid for guest in self._guests.all()}
        for uuid in known | set(self._hypervisor.active()):
            self._look_safely(uuid)
            self._safely(partial(self._met, uuid), f"guest {uuid}: its job was not seen")

    def _met(self, uuid: str) -> None:
        """The first look at the guest over this connection: its transfer may have begun before."""
        hypervisor = self._hypervisor
        if hypervisor is not None and hypervisor.under_job(uuid):
            self._transfers(uuid)

    def watch(self) -> None:
        """Look at guests, for ever."""
        while True:
            try:
                uuid, news = self._heard.get(timeout=_ROUND_S)
            except queue.Empty:
                self._safely(self._round, "a round was cut short")
                continue
            if news is GuestNews.TRANSFERS:
                said = f"guest {uuid}: its job was not seen"
                self._safely(partial(self._transfers, uuid), said)
            else:
                self._look_safely(uuid, migrated=news is GuestNews.LEFT)

    # Notes

    def _wants_note(self, uuid: str) -> None:
        self._unnoted.add(uuid)
        self._wake_notes.set()

    def write_notes(self) -> None:
        """Write notes where they are wanted, for ever."""
        while True:
            self._wake_notes.wait()
            self._wake_notes.clear()
            for uuid in self._due_notes(time.monotonic()):
                # First: a change that comes while the note is written wants another one.
                self._unnoted.discard(uuid)
                if not self._is_noted(uuid):
                    self._unnoted.add(uuid)

    def _is_noted(self, uuid: str) -> bool:
        """Write a note; False where it is to be tried again."""
        try:
            return self._write_note(uuid)
        except PrtraceError as error:
            _log.warning("%s", error.message)
        except Exception:
            _log.exception("guest %s: no note was written", uuid)
        return False

    def _due_notes(self, now: float) -> list[str]:
        """Whose note may be written now; the others' turn comes in a later round."""
        return [uuid for uuid in list(self._unnoted) if now >= self._guests.get(uuid).note_due]

    def _write_note(self, uuid: str) -> bool:
        """Whether nothing is left to do; else it is tried again in the next round."""
        guest, hypervisor = self._guests.get(uuid), self._hypervisor
        if hypervisor is None:
            return False
        if hypervisor.sight(uuid) not in (GuestState.RUNS, GuestState.WAITS):
            return True
        here = hypervisor.domain(uuid)
        if not here.nodes:
            return True
        with guest.lock:
            # A new file makes older ones of this unit void: not while one of them may travel.
            if guest.record != GuestRecord() or hypervisor.under_job(uuid):
                return False
            guest.note_due = time.monotonic() + _NOTES_APART_S
            note = self._note(guest, here)
            guest.count += 1
            guest.move = None if note.file is None else Move(note.file, {})
            self._guests.store(guest)
        hypervisor.write_note(uuid, note.element())
        _log.info("guest %s: note %d, %s", uuid, note.count, note.why or "a file")
        return True

    def _note(self, guest: Guest, here: domains.Domain) -> notes.Note:
        file, why, disks = None, "", {}
        self._units[guest.uuid] = set()
        try:
            why = here.without_node
            if not why:
                file = self._agent.save(here.nodes, guest.uuid)
        except PrtraceError as error:
            why = f"{error.message}; {error.hint}" if error.hint else error.message
        if file is not None:
            units = {unit["device"]: unit["lu"] for unit in file["units"]}
            disks = {name: units[node] for name, node in here.luns.items() if node in units}
            self._units[guest.uuid] = set(disks.values())
        return notes.Note(
            guest.uuid,
            socket.gethostname(),
            boot_id(),
            guest.count + 1,
            disks,
            file,
            why,
        )

    def follow_agent(self) -> None:
        """Have notes written anew after each change of a reservation, for ever."""
        said = ""
        while True:
            try:
                for lu in self._agent.changes():
                    said = ""
                    for uuid, units in list(self._units.items()):
                        # Without units nothing could be saved for the guest: any unit may be one
                        # of its own.
                        if lu in units or not units:
                            self._wants_note(uuid)
            except PrtraceError as error:
                if error.message != said:
                    _log.warning("%s", error.message)
                said = error.message
            # Until the next call nobody hears what changes.
            for uuid in list(self._units):
                self._wants_note(uuid)
            time.sleep(_AGENT_S)


def _with(reply: ReplyTo, why: str) -> ReplyTo:
    """reply, with why as the sentence of a refusal for which the machine gives none."""
    return lambda allow, said: reply(allow, said or ("" if allow else why))


def _input(record: GuestRecord, sight: GuestState, *, migrated: bool) -> Input | None:
    match sight:
        case GuestState.RUNS:
            # A guest at home that runs is no news.
            return None if record.phase is Phase.HOME else Runs()
        case GuestState.WAITS:
            return Waits()
        case GuestState.LEFT | GuestState.ENDED:
            return Ended(migrated=migrated)
        case GuestState.BUSY:
            return None


def run(options: ServiceOptions) -> None:
    """Serve until SIGTERM; raises UnavailableError without libvirt's bindings."""
    service = MoveService(options)
    listener = Listener.bind(options.run_dir / SOCKET, mode=0o600)
    listener.refuse_descriptors()
    server = MoveServer(listener, service)
    failed: list[BaseException] = []
    stop = threading.Event()
    load_unwinder()

    def guarded(work: Any) -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)
            stop.set()

    for work in (server.run, service.watch, service.write_notes, service.follow_agent):
        threading.Thread(target=guarded, args=(work,), daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    systemd.notify("READY=1")
    stop.wait()
    systemd.notify("STOPPING=1")
    listener.close()
    if failed:
        raise failed[0]
