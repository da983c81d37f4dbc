"""The process that moves reservations for the agent, which may not: it alone sends PR OUT.

A connection of somebody who may change things (uid 0, or a member of the admin group) is the
mover's from its first byte: the agent, which accepts it, reads nothing of it, and the mover asks
the kernel itself who is at the other end.  Calls that move are carried out here; others are passed
on to the agent, and its replies back.  The agent hands the connections over, so the mover takes
only those that the service's own socket has accepted: of the end that connects, SO_PEERCRED names
who listens, and root listens at many a socket.

For others the agent asks for Check and Moves, which send nothing and change nothing, and for which
the journals and the guests' processes have to be read.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from prtrace.agent.child import receive, sockets
from prtrace.agent.entries import moved
from prtrace.api.address import INTERFACE, MAX_CHANGE_CALL
from prtrace.api.calls import Call, Calls, Refusal, refusal, reply, steps_reply
from prtrace.api.client import Client
from prtrace.api.jobs import FAULT
from prtrace.api.moving import MOVING, NAMING, work_of
from prtrace.api.rights import Right, may
from prtrace.errors import PrtraceError
from prtrace.linux.capabilities import Capability
from prtrace.linux.devnode import stat_below_dev
from prtrace.linux.journal import SystemJournal
from prtrace.linux.peer import Peer
from prtrace.state.event import Event

if TYPE_CHECKING:
    from prtrace.agent.moves import AgentMoves
    from prtrace.api.source import MoveCalls, Observed, Step

KEPT: Final = (Capability.DAC_READ_SEARCH, Capability.SYS_PTRACE, Capability.SYS_RAWIO)
"""To send commands, and to see which guest a process is and whether its QEMU moves by itself."""

_CHANGER, _READER = b"C", b"R"
_READY: Final = b"settled"
_NOBODY: Final = Peer(0, 0xFFFF_FFFF, 0xFFFF_FFFF)
"""Who may read, and do nothing else."""
_GOES_ON: Final = b'{"continues":true'
"""What the agent's replies begin with, but the last one to a call."""
_CHUNK: Final = 64 << 10
_STACK: Final = 512 << 10

_log = logging.getLogger("prtrace.mover")


# ---- In the mover ----


def serve(link: socket.socket, state_dir: Path, admin_gid: int | None, name: str) -> None:
    """Settle what is in question, then serve connections until the agent is gone.

    name: of the service's listening socket.
    """
    threading.stack_size(_STACK)
    settle(state_dir)
    journal = SystemJournal.of_service()
    serve_connections(link, lambda: _moves(state_dir), admin_gid, journal, name)


def _moves(state_dir: Path) -> AgentMoves:
    # Most agents are never asked to move anything: what that takes is loaded when one is.
    from prtrace.agent.moves import AgentMoves

    return AgentMoves(state_dir)


def settle(state_dir: Path) -> None:
    """Finish what a move left in question when it was killed, before anybody is answered."""
    try:
        # Path.glob() takes a folder that may not be read for an empty one.
        if not any(name.endswith(".journal") for name in os.listdir(state_dir / "move")):
            return
    except FileNotFoundError:
        return
    except OSError as error:
        _log.warning("whether a move left anything in question is not known: %s", error)
        return
    try:
        _moves(state_dir).settle()
    except PrtraceError as error:
        _log.warning("what is in question of a move could not be settled: %s", error.message)


def serve_connections(
    link: socket.socket,
    moves: Callable[[], MoveCalls],
    admin_gid: int | None,
    journal: SystemJournal,
    name: str,
) -> None:
    """Serve what comes over link, until the other end is closed."""
    mover = _Mover(moves, admin_gid, journal, name)
    try:
        link.send(_READY)
        _take_connections(link, mover)
    finally:
        mover.wait()


def _take_connections(link: socket.socket, mover: _Mover) -> None:
    while True:
        kind, descriptors = receive(link, 2, 4)
        if not kind:
            return
        connections = sockets(descriptors)
        if kind == _CHANGER and len(connections) == 2:
            mover.begin(*connections)
        elif kind == _READER and len(connections) == 2:
            mover.begin(*connections, reads=True)
        else:
            for connection in connections:
                connection.close()


class _Mover:
    def __init__(
        self,
        moves: Callable[[], MoveCalls],
        admin_gid: int | None,
        journal: SystemJournal,
        name: str,
    ) -> None:
        self._name = name
        self.moves = moves
        self.journal = journal
        self._admin_gid = admin_gid
        self.calls = Calls(admin_gid)
        self._moving: set[threading.Thread] = set()

    def begin(self, client: socket.socket, agent: socket.socket, *, reads: bool = False) -> None:
        """Serve a connection on a thread of its own."""
        peer = _NOBODY if reads else self._peer(client)
        if not reads and not may(peer, Right.CHANGE, self._admin_gid):
            client.close()
            agent.close()
            return
        conversation = _Conversation(self, client, agent, peer)
        try:
            threading.Thread(target=conversation.run, name="prtrace", daemon=True).start()
        except RuntimeError as error:
            _log.warning("a client is sent away: %s", error)
            client.close()
            agent.close()

    def _peer(self, client: socket.socket) -> Peer:
        """Who has connected to the service; nobody, of a socket that the service did not accept.

        What was accepted has the listening socket's name.  The agent can give it to no other: the
        name is taken, in a folder that is not the agent's.
        """
        try:
            client.getpeername()  # a listening socket has the name, too
            return Peer.of(client) if client.getsockname() == self._name else _NOBODY
        except OSError:
            return _NOBODY

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        """A call that moves: the mover does not end before it has."""
        self._moving.add(threading.current_thread())
        try:
            yield
        finally:
            self._moving.discard(threading.current_thread())

    def wait(self) -> None:
        """Until every move has come to its end: its commands have a time limit."""
        for thread in tuple(self._moving):
            while thread in self._moving and thread.is_alive():
                thread.join(0.1)


@dataclass(slots=True)
class _Conversation:
    """One client's connection.  agent: that of the agent, for this client."""

    mover: _Mover
    client: socket.socket
    agent: socket.socket
    peer: Peer
    _received: bytearray = field(default_factory=bytearray)

    def run(self) -> None:
        with self.client, self.agent, contextlib.suppress(OSError):
            for message in self._messages():
                document = _document(message)
                if document.get("method") in MOVING:
                    self._answer(message)
                elif document.get("oneway") is True:
                    continue  # it wants no answer, and changes nothing
                elif not self._pass_on(message):
                    return

    def _messages(self) -> Iterator[bytes]:
        """What the client sends, message by message."""
        scanned = 0
        while True:
            end = self._received.find(0, scanned)
            if end >= 0:
                message = bytes(self._received[:end])
                del self._received[: end + 1]
                scanned = 0
                yield message
                continue
            scanned = len(self._received)
            if scanned > MAX_CHANGE_CALL:
                # The agent says so.
                self._pass_on(bytes(self._received))
                return
            chunk = self._chunk()
            if not chunk:
                return
            self._received += chunk

    def _chunk(self) -> bytes:
        """What the client sends next; b"" where it has left, or the agent waits no longer."""
        poll = select.poll()
        for connection in (self.client, self.agent):
            poll.register(connection, select.POLLIN)
        ready = dict(poll.poll())
        return b"" if self.agent.fileno() in ready else self.client.recv(_CHUNK)

    def _pass_on(self, message: bytes) -> bool:
        """Have the agent answer; returns whether the conversation goes on."""
        poll = select.poll()
        poll.register(self.agent, select.POLLIN)
        if poll.poll(0):
            # Between two calls it has nothing to say but that it has closed its end.  An answer
            # that nobody waited for would pass for that of the next call.
            return False
        self.agent.sendall(message + b"\0")
        wanted = True
        answers = bytearray()
        poll = select.poll()
        poll.register(self.client, 0)
        poll.register(self.agent, select.POLLIN)
        while wanted:
            ready = dict(poll.poll())
            if self.client.fileno() in ready:
                return False
            chunk = self.agent.recv(_CHUNK)
            if not chunk:
                self.client.sendall(answers)
                return False
            answers += chunk
            *whole, rest = answers.split(b"\0")
            for each in whole:
                self.client.sendall(each + b"\0")
                wanted = each.startswith(_GOES_ON)
            answers = rest
        return True

    def _answer(self, message: bytes) -> None:
        try:
            call = self.mover.calls.parse(message, self.peer)
        except Refusal as refused:
            self.client.sendall(refused.reply)
            return
        with self.mover.under_way():
            last = self._carried_out(call)
            if not call.oneway:
                # Whoever has gone does not hear how it ended.
                with contextlib.suppress(OSError):
                    self.client.sendall(last)

    def _carried_out(self, call: Call) -> bytes:
        try:
            return reply(self._result(call))
        except Refusal as refused:
            return refused.reply
        except PrtraceError as error:
            return refusal(error).reply
        except Exception:
            _log.exception("a call failed: %s", call.method)
            return FAULT

    def _result(self, call: Call) -> Mapping[str, Any]:
        if call.method in NAMING:
            for name in call.parameters["devices"]:
                if name.startswith("/"):
                    # A name that leads out of /dev may lead to where nobody ever answers.
                    stat_below_dev(name)
        work = work_of(call, self.mover.moves, _Known(_Inner(self.agent)))
        if work is None:
            raise LookupError(call.method)
        done = work(self._teller(call))
        if self.mover.journal and (report := done.get("report")) is not None:
            for entry in moved(report):
                self.mover.journal.send(entry)
        return done

    def _teller(self, call: Call) -> Step:
        def step(lu: str, what: str) -> None:
            if call.more:
                with contextlib.suppress(OSError):
                    self.client.sendall(steps_reply(lu, what))

        return step


class _Inner(Client):
    """Calls over a connection that is there already, one after the other."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__("the agent")
        self.connection = connection

    def _connected(self, method: str, parameters: dict[str, Any], *, more: bool) -> socket.socket:
        """See Client: what is closed in the end is a copy."""
        given = {name: value for name, value in parameters.items() if value is not None}
        call = {"method": f"{INTERFACE}.{method}", "parameters": given, "more": more}
        connection = self.connection.dup()
        connection.sendall(json.dumps(call).encode() + b"\0")
        return connection


class _Known(NamedTuple):
    """What the agent knows: prtrace.api.source.Observed."""

    inner: _Inner

    def show(self, names: Sequence[str]) -> dict[str, Any]:
        return self.inner.call("Show", devices=list(names))

    def changes(self, lu: str, last: int) -> Iterator[Event]:
        for answer in self.inner.stream("Events", devices=[lu], last=last, changes=True):
            for event in answer.get("events", ()):
                yield Event.from_json(event)


def _document(message: bytes) -> Mapping[str, Any]:
    """The call as far as it decides who answers it; {} for what is none."""
    try:
        found = json.loads(message)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


# ---- In the agent ----


class Mover:
    """The agent's side."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link

    def await_settled(self) -> None:
        """Until what was in question has been settled; PrtraceError where the mover ends."""
        if self._link.recv(len(_READY)) != _READY:
            raise PrtraceError("the process that moves reservations has ended", hint="see the log")

    def take(self, client: socket.socket) -> socket.socket:
        """Give a connection away, unread; returns one over which the agent answers for it."""
        return self._shared(_CHANGER, client)

    def reader(self) -> tuple[_Inner, socket.socket]:
        """A client of Check and Moves, and a connection over which the agent says what it knows.

        For any thread.  Whoever closes the client ends both.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            return _Inner(ours), self._shared(_READER, theirs)

    def _shared(self, kind: bytes, client: socket.socket) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            try:
                socket.send_fds(self._link, [kind], [client.fileno(), theirs.fileno()])
            except OSError:
                ours.close()
                raise
        return ours


class ReadersMoves:
    """prtrace.api.source.MoveCalls for those who may only read.

    adopt: has the agent answer on a connection; called on a job's thread.
    """

    def __init__(self, mover: Mover, adopt: Callable[[socket.socket], None]) -> None:
        self._mover = mover
        self._adopt = adopt

    def check(
        self, _: Observed, devices: Sequence[str], guest: str | None, pid: int | None
    ) -> dict[str, Any]:
        """See Moves.check."""
        return self._ask("Check", devices=list(devices), guest=guest, pid=pid)

    def unfinished(self) -> dict[str, Any]:
        """See Moves.unfinished."""
        return self._ask("Moves")

    def save(
        self, _: Observed, devices: Sequence[str], guest: str | None, pid: int | None
    ) -> dict[str, Any]:
        """Not for readers, whose call is refused before."""
        raise _not_for_readers()

    def check_file(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Not for readers, whose call is refused before."""
        raise _not_for_readers()

    def carry_out(self, verb: str, given: Mapping[str, Any], step: Step) -> dict[str, Any]:
        """Not for readers, whose call is refused before."""
        raise _not_for_readers()

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        client, knowing = self._mover.reader()
        self._adopt(knowing)
        with client.connection:
            return client.call(method, **parameters)


def _not_for_readers() -> PrtraceError:
    return PrtraceError("this connection may only read")
