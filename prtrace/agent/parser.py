"""The processes that look into bytes of devices for the mover, which has root's rights.

The agent forks one process before it opens anything: the user prtrace, without a capability.  It
looks into nothing itself.  For each logical unit of a verb, and for each SCSI target whose VPD
pages are read, the mover asks it for a parser, which is a fork of it that may do next to nothing
more: no descriptor but its end of a socket, no system call but those to receive, to send and to
have memory (_CALLS), no memory without limit.  The mover sends a parser what a device answered,
and gets facts (prtrace.scsi.facts).

A parser may become anything by what it parses.  It then can lie about its own unit, of which
whoever answers over one of its paths is believed anyway, or about names in its own target's
pages.  It can do nothing to another one.  Where it does not answer, or answers what is no answer,
the mover has it ended, and knows of the nexus in question what it knows of one that does not
answer; the unit's other paths have a new parser.

A fork takes some milliseconds, and a guest is paused while Load runs: what Prepare had begun is
kept for it.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import resource
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

from prtrace.agent.child import close_all_but
from prtrace.errors import DeviceError, MalformedError
from prtrace.linux import seccomp
from prtrace.scsi import facts
from prtrace.scsi.designator import PageNames
from prtrace.scsi.facts import Parser, Question

if TYPE_CHECKING:
    from prtrace.linux.units import NamesIn
    from prtrace.model import Nexus
    from prtrace.move.device import ParserOf

Fact = TypeVar("Fact")

_log = logging.getLogger("prtrace.mover")

_BEGIN: Final = struct.Struct("=cI")
"""What the mover asks for a parser by: "+" and a number, with the parser's end of a socket."""
_BEGUN: Final = struct.Struct("=Ii")
"""The answer: the number, and the parser's pid, 0 for none."""
_END: Final = struct.Struct("=ci")
"""From the mover: "-", and the pid of a parser that is to end.  It is not answered."""
_LONGEST: Final = 16
_MOST: Final = 24
"""Parsers at once.  Each has 2.2 to 3.4 MiB that it shares with nobody; MemoryMax= has room."""
_MEMORY: Final = 8 << 20
"""Bytes that a parser may have beside what it has at first; the longest reply takes 2 MiB."""
_PROCESSOR_S: Final = 60
"""Seconds of processor time that a parser may take: the mover ends it, but may end itself."""
_FULL_RETRY: Final = 0.02
"""Seconds after which a parser is asked for again where there are too many."""
_KEPT_S: Final = 3600.0
"""Seconds for which parsers wait for Load after Prepare: a guest's memory takes its time."""
_MOST_PAGES: Final = 16_384
"""VPD pages whose names are kept: some hundred bytes each, 2 KiB at most."""
_SUSPECT_S: Final = 600.0
"""Seconds for which no page of a target is looked into after one did harm to its parser."""
_PATIENCE: Final = 5.0
"""Seconds for an answer.  The longest reply takes some hundredths."""

_CALLS: Final = (
    "brk", "clock_gettime", "close", "exit", "exit_group", "futex", "getrandom", "madvise",
    "mmap", "mprotect", "mremap", "munmap", "recvfrom", "restart_syscall", "rt_sigreturn",
    "sched_yield", "sendto",
)  # fmt: skip


# ---- In the process that is forked for each unit, and in a parser ----


def serve(link: socket.socket) -> None:
    """Fork a parser whenever the mover asks for one, until the mover is gone."""
    # Of itself: what it has is what each of its forks has at first.
    had = re.search(r"^VmData:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    most = int(had[1]) * 1024 + _MEMORY if had else resource.RLIM_INFINITY
    living: set[int] = set()
    gc.disable()
    try:
        while True:
            try:
                message, given, _, _ = socket.recv_fds(link, _LONGEST, 1)
            except ConnectionResetError:
                return
            if not message:
                return
            if message[:1] == b"+":
                _, number = _BEGIN.unpack(message)
                if len(living) >= _MOST:
                    living = {each for each in living if not os.waitpid(each, os.WNOHANG)[0]}
                # Without the descriptor the kernel had none left for it.
                pid = _forked(given[0], most) if given and len(living) < _MOST else 0
                for end in given:
                    os.close(end)
                if pid:
                    living.add(pid)
                link.send(_BEGUN.pack(number, pid))
            else:
                _, pid = _END.unpack(message)
                if pid in living:
                    living.discard(pid)
                    _ended(pid)
    finally:
        for pid in living:
            _ended(pid)


def _ended(pid: int) -> None:
    """End a parser, whose pid stays its own until it is waited for."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _forked(end: int, most: int) -> int:
    """The pid of a new parser, 0 where there can be none."""
    try:
        pid = os.fork()
    except OSError:
        return 0
    if not pid:
        _parse(end, most)
    return pid


def _parse(end: int, most: int) -> NoReturn:
    """Answer what comes on a descriptor, until its other end is closed; then the process is over.

    most: bytes of data that it may have.
    """
    status = 1
    try:
        close_all_but({end})
        for limit, value in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_CPU, _PROCESSOR_S),
            (resource.RLIMIT_DATA, most),
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_NOFILE, 0),
        ):
            resource.setrlimit(limit, (value, value))
        with socket.socket(fileno=end) as connection:
            seccomp.allow(_CALLS, {})
            answer_all(connection)
        status = 0
    finally:
        os._exit(status)


def answer_all(connection: socket.socket) -> None:
    """Answer questions of prtrace.scsi.facts, until the other end is closed."""
    while header := connection.recv(facts.HEADER.size, socket.MSG_WAITALL):
        number, size = facts.HEADER.unpack(header)
        raw = connection.recv(size, socket.MSG_WAITALL) if size else b""
        connection.sendall(facts.answer_to(number, raw))


# ---- In the mover ----


def _not_known(why: str) -> DeviceError:
    return DeviceError(
        f"what the device answered is not known: the process that parses it {why}",
        hint="what the device sends may be meant to do harm: look after it, and try again",
    )


class Parsers:
    """The mover's side of the process that forks parsers; for any of its threads.

    patience: seconds for an answer of that process, and of a parser.
    """

    def __init__(self, link: socket.socket, patience: float = _PATIENCE) -> None:
        self._link = link
        self._patience = patience
        self._asking = threading.Lock()
        self._number = 0
        self._lock = threading.Lock()
        self._believed: dict[str, _Believed] = {}
        self._names: dict[tuple[str, bytes], PageNames] = {}
        self._suspect: dict[str, float] = {}

    @contextmanager
    def of_verb(self, kept: bool | None = None) -> Iterator[ParserOf]:
        """Who gives a parser for each nexus of a verb; those of one unit are one process.

        kept: whether those processes wait for the next verb of their units, None for what an
        earlier verb said of them.  Other processes end with the verb.
        """
        with self._asked_of(kept) as asked:
            yield lambda nexus: asked.parser(nexus.lu, nexus.nexus)

    @contextmanager
    def of_scan(self) -> Iterator[NamesIn]:
        """Who says, for one look at sysfs, which names are in a VPD page 83h of a nexus.

        See prtrace.scsi.designator.page_names.  Each target has a parser of its own, so that no
        array can lie about another one.  What is known of a page is kept: a scan in a guest's
        pause forks for pages that are new.  Raises DeviceError where nobody parses; a page whose
        parser gives no answer has no names, nor have the pages of its target that are new, until
        _SUSPECT_S later.
        """
        with self._asked_of(None) as asked:

            def names_in(nexus: Nexus, page: bytes) -> PageNames:
                return self._names_in(asked, nexus.rpartition(":")[0], page)

            yield names_in

    def _names_in(self, asked: _Asked, target: str, page: bytes) -> PageNames:
        # The page itself may have 64 KiB.
        known_by = (target, blake2b(page, digest_size=32).digest())
        with self._lock:
            if (known := self._names.get(known_by)) is not None:
                return known
            if self._suspect.get(target, 0.0) > time.monotonic():
                return PageNames()
        try:
            names = asked.ask(f"target {target}", target, facts.PAGE_NAMES, page)
        except (DeviceError, MalformedError) as error:
            if isinstance(error, DeviceError) and not asked.has_failed(target):
                raise  # nobody parses
            # A page that lacks names is not malformed: page_names() says so.
            _log.warning("the devices of target %s have no name: %s", target, error.message)
            with self._lock:
                self._suspect[target] = time.monotonic() + _SUSPECT_S
            return PageNames()
        with self._lock:
            if len(self._names) >= _MOST_PAGES:
                self._names.clear()
                self._suspect.clear()
            self._names[known_by] = names
        return names

    @contextmanager
    def _asked_of(self, kept: bool | None) -> Iterator[_Asked]:
        self._end_old()
        asked = _Asked(self)
        try:
            yield asked
        finally:
            for name in asked.used:
                self._leave(name, kept)

    def enter(self, name: str) -> _Believed:
        """Whoever is asked about what is called so, until _leave()."""
        with self._lock:
            found = self._believed.setdefault(name, _Believed(self))
            found.users += 1
        return found

    def _leave(self, name: str, kept: bool | None) -> None:
        with self._lock:
            found = self._believed[name]
            found.users -= 1
            if kept is not None:
                found.kept = kept
            if found.users or found.kept:
                return
            del self._believed[name]
        found.end()

    def _end_old(self) -> None:
        """End those that waited in vain for another verb."""
        before = time.monotonic() - _KEPT_S
        with self._lock:
            old = [
                name
                for name, each in self._believed.items()
                if not each.users and each.used < before
            ]
            ended = [self._believed.pop(name) for name in old]
        for each in ended:
            each.end()

    def begun(self) -> _ParserProcess:
        """A new parser, in the place of one that has nothing to do where there are many.

        DeviceError where there can be none now.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        end_by = time.monotonic() + self._patience
        why = f"has {_MOST} of them to look after already"
        pid = 0
        with theirs:
            while time.monotonic() < end_by:
                try:
                    pid = self._forked(theirs, end_by)
                except OSError as error:
                    why = f"does not answer: {error}"
                    break
                if pid:
                    return _ParserProcess(ours, pid, self._patience)
                if not self._made_room():
                    time.sleep(_FULL_RETRY)
        ours.close()
        raise DeviceError(
            f"nobody reads replies of devices: the process that forks parsers {why}",
            hint="see the agent's log, and try again",
        )

    def _forked(self, end: socket.socket, end_by: float) -> int:
        """The pid of a new parser, 0 where there can be none now; OSError without an answer."""
        # Where nobody answers, all the threads that ask give up at about the same time.
        if not self._asking.acquire(timeout=_left(end_by)):
            raise TimeoutError("timed out")
        try:
            self._number = (self._number + 1) & 0xFFFF_FFFF
            self._link.settimeout(_left(end_by))
            socket.send_fds(self._link, [_BEGIN.pack(b"+", self._number)], [end.fileno()])
            while True:
                self._link.settimeout(_left(end_by))
                answer = self._link.recv(_LONGEST)
                if len(answer) != _BEGUN.size:
                    raise ConnectionResetError("it has ended")
                number, pid = _BEGUN.unpack(answer)
                if number == self._number:
                    return int(pid)
                # It came too late for whoever asked.
                self._link.send(_END.pack(b"-", pid))
        finally:
            self._asking.release()

    def _made_room(self) -> bool:
        """End the process that has had nothing to do for longest; False where all are busy."""
        with self._lock:
            idle = sorted(self._believed.values(), key=lambda each: each.used)
        return any(each.end_idle() for each in idle)

    def end(self, process: _ParserProcess) -> None:
        """Have a parser ended."""
        process.close()
        with self._asking, suppress(OSError):
            self._link.settimeout(self._patience)
            self._link.send(_END.pack(b"-", process.pid))


def _left(end_by: float) -> float:
    """Seconds until then, or next to none: with 0 a socket waits for nothing, and says so."""
    return max(0.001, end_by - time.monotonic())


class _Asked:
    """Whom a verb, or a scan, has asked; for any of its threads."""

    def __init__(self, parsers: Parsers) -> None:
        self._parsers = parsers
        self._lock = threading.Lock()
        self._failed: dict[str, str] = {}
        self.used: dict[str, _Believed] = {}

    def parser(self, name: str, blamed: str) -> Parser:
        """What is asked about the bytes of one device; see ask()."""

        def of(question: Question[Fact]) -> Callable[[bytes], Fact]:
            return lambda raw: self.ask(name, blamed, question, raw)

        return Parser(
            keys=of(facts.KEYS),
            reservation=of(facts.RESERVATION),
            capabilities=of(facts.CAPABILITIES),
            full_status=of(facts.FULL_STATUS),
            sense=of(facts.SENSE),
            lu_name=of(facts.LU_NAME),
        )

    def has_failed(self, blamed: str) -> bool:
        """Whether bytes of blamed's were given no answer."""
        with self._lock:
            return blamed in self._failed

    def ask(self, name: str, blamed: str, question: Question[Fact], raw: bytes) -> Fact:
        """The facts in raw.  name: of whose process is asked.  blamed: whose bytes raw is.

        Raises MalformedError where raw has none; DeviceError where nobody can be asked, and where
        no answer came, or none that is one: then, and for that verb from then on.
        """
        with self._lock:
            if name not in self.used:
                self.used[name] = self._parsers.enter(name)
            failed = self._failed.get(blamed)
        if failed:
            raise _not_known(failed)
        try:
            return self.used[name].ask(question, raw)
        except (OSError, ValueError) as error:
            late = isinstance(error, TimeoutError)
            why = "has not answered within the time limit" if late else f"gave no answer: {error}"
        with self._lock:
            self._failed[blamed] = why
        raise _not_known(why)


class _Believed:
    """A logical unit or a target, which one process after the other parses for."""

    def __init__(self, parsers: Parsers) -> None:
        self.users = 0
        """Verbs and scans that have it now."""
        self.kept = False
        """Whether it waits for another verb when there are none."""
        self.used = time.monotonic()
        """When it was asked last, by time.monotonic()."""
        self._parsers = parsers
        self._lock = threading.Lock()
        self._process: _ParserProcess | None = None

    def ask(self, question: Question[Fact], raw: bytes) -> Fact:
        """The facts in raw; MalformedError, DeviceError without a process, OSError, ValueError.

        After the last two the process is over, whatever is left of it.
        """
        with self._lock:
            self.used = time.monotonic()
            if self._process is not None and self._process.speaks_unasked:
                # It was not this question that made it do so.
                _log.warning("a process that parses has ended, or says what it was not asked")
                self._end()
            if self._process is None:
                self._process = self._parsers.begun()
            try:
                return facts.facts_in(question, *self._process.answer(question.message(raw)))
            except (OSError, ValueError):
                self._end()
                raise

    def end(self) -> None:
        """Have its process ended."""
        with self._lock:
            self._end()

    def end_idle(self) -> bool:
        """The same, where it has one and nothing is being asked; whether that was so."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            had = self._process is not None
            self._end()
            return had
        finally:
            self._lock.release()

    def _end(self) -> None:
        if self._process is not None:
            self._parsers.end(self._process)
            self._process = None


class _ParserProcess:
    """A parser, as the mover has it."""

    def __init__(self, connection: socket.socket, pid: int, patience: float) -> None:
        self.pid = pid
        self._connection = connection
        self._patience = patience

    def close(self) -> None:
        """Ask nothing more."""
        self._connection.close()

    @property
    def speaks_unasked(self) -> bool:
        """Whether it has ended, or sent something, although nothing is asked."""
        waiting = select.poll()
        waiting.register(self._connection, select.POLLIN)
        return bool(waiting.poll(0))

    def answer(self, message: bytes) -> tuple[int, bytes]:
        """The kind of the answer to message, and its bytes; OSError and ValueError without one."""
        end_by = time.monotonic() + self._patience
        self._connection.settimeout(self._patience)
        self._connection.sendall(message)
        kind, size = facts.HEADER.unpack(self._received(facts.HEADER.size, end_by))
        if size > facts.LONGEST_ANSWER:
            raise ValueError(f"it announces {size} bytes")
        return kind, self._received(size, end_by)

    def _received(self, size: int, end_by: float) -> bytes:
        received = bytearray()
        while len(received) < size:
            if end_by <= time.monotonic():
                raise TimeoutError
            self._connection.settimeout(_left(end_by))
            chunk = self._connection.recv(size - len(received))
            if not chunk:
                raise ValueError("it has ended")
            received += chunk
        return bytes(received)
