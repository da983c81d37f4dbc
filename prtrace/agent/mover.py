"""The process that moves reservations for the agent, which may not: it alone sends PR OUT.

It alone has the listening socket, too.  What the kernel says of who is at the other end of a
connection (SO_PEERCRED) holds for an end that accept() gave: at an end that called connect() it
names whoever listens.  So the mover believes no end but those that it accepted itself, takes no
descriptor from the agent, and keeps the connections of those who may change things (uid 0, or a
member of the admin group).  Calls that move are carried out here, whatever has become of the
agent; others are passed on to it, and its replies back (prtrace.agent.conversation).  Connections
of others are the agent's from their first byte.

For others the agent asks for Check and Moves, which send nothing and change nothing, and for which
the journals and the guests' processes have to be read.  For that it gets a connection that the
mover made, and that may do no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import os
import resource
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from prtrace.agent.conversation import Conversation
from prtrace.agent.parser import Parsers
from prtrace.api.calls import Call, Calls, Refusal
from prtrace.api.client import Client
from prtrace.api.interface import Fault
from prtrace.api.room import ConnectionLimits, Room, send_away
from prtrace.errors import PrtraceError
from prtrace.linux.capabilities import Capability
from prtrace.linux.closer import Closer
from prtrace.linux.journal import SystemJournal
from prtrace.linux.peer import Peer

if TYPE_CHECKING:
    from prtrace.agent.moves import AgentMoves
    from prtrace.api.server import ApiServer
    from prtrace.api.source import MoveCalls, Observed, Step

KEPT: Final = (Capability.DAC_READ_SEARCH, Capability.SYS_PTRACE, Capability.SYS_RAWIO)
"""To send commands, and to see which guest a process is and whether its QEMU moves by itself."""

_SETTLED: Final = b"S"
"""The first message to the agent, with the agent's end of a second socket.

On that one nothing comes but connections on which the mover calls, each with whom it calls for:
however many strangers wait to be taken from the first one, these do not wait behind them."""
_ACCEPTED: Final = b"A"
"""The message with a socket in whose queue an accepted connection is, and who is at its other end.

The mover puts it there, closes its own copy, and only then gives the agent the socket: so whoever
closes the connection last, and with it what the client has sent, is never the mover."""
_ASKED_FOR: Final = b"R"
"""What a message begins with that has the number of a request, and its connection or none."""
_PEER: Final = struct.Struct("=iII")
"""pid, uid, gid; each supplementary group follows in 4 bytes."""
_GROUP: Final = struct.Struct("=I")
_FD: Final = struct.Struct("=i")
_NUMBER: Final = struct.Struct("=Q")
"""The agent's only request: a connection for what readers may, with a number to know it by."""
_LONGEST: Final = 4096
_NOBODY: Final = Peer(0, 0xFFFF_FFFF, 0xFFFF_FFFF)
"""Who may read, and do nothing else."""
_MOST_READERS: Final = 8
"""Connections that the agent asked for; it has 2 threads that do."""
_READER_S: Final = 10.0
_SCARCE_RETRY: Final = 1.0
"""Seconds for which nothing is accepted where there was no descriptor for a connection, and for
which the agent takes nothing from a link for that reason."""
_DROP_LOOK: Final = 0.05
"""Seconds between two looks whether the agent's message with a descriptor is dropped."""
_LINK_LOOK: Final = 0.01
"""Seconds between two tries to give the agent an answer: poll() tells of room only where three
quarters of the link are free (net/unix/af_unix.c, unix_writable)."""
_RESERVED: Final = 4
"""One in so many descriptors of the agent's is for what is not a stranger's connection."""
_STACK: Final = 512 << 10

_log = logging.getLogger("prtrace.mover")


# ---- In the mover ----


def serve(
    link: socket.socket,
    listening: socket.socket,
    state_dir: Path,
    admin_gid: int | None,
    to_parsers: socket.socket,
) -> None:
    """Settle what is in question, then serve connections until the agent is gone.

    to_parsers: to the process that forks parsers (prtrace.agent.parser).
    """
    threading.stack_size(_STACK)
    parsers = Parsers(to_parsers)
    settle(state_dir, parsers)
    journal = SystemJournal.of_service()
    serve_connections(link, listening, lambda: _moves(state_dir, parsers), admin_gid, journal)


def _moves(state_dir: Path, parsers: Parsers) -> AgentMoves:
    # Most agents are never asked to move anything: what that takes is loaded when one is.
    from prtrace.agent.moves import AgentMoves

    return AgentMoves(state_dir, parsers)


def settle(state_dir: Path, parsers: Parsers) -> None:
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
        _moves(state_dir, parsers).settle()
    except PrtraceError as error:
        _log.warning("what is in question of a move could not be settled: %s", error.message)


def serve_connections(
    link: socket.socket,
    listening: socket.socket,
    moves: Callable[[], MoveCalls],
    admin_gid: int | None,
    journal: SystemJournal,
    limits: ConnectionLimits | None = None,
) -> None:
    """Accept, and serve or pass on, until the other end of link is closed.

    listening: non-blocking; it is let go in the end.  limits: of those who may change things, and
    of the others as long as they wait to be passed on; then the agent limits them.  Whatever ends
    it, moves under way come to their end first.
    """
    mover = _Mover(link, listening, moves, admin_gid, journal, limits or ConnectionLimits())
    try:
        mover.run()
    finally:
        mover.close()
        mover.wait()


class _Mover:
    """prtrace.agent.conversation.Switchboard."""

    def __init__(
        self,
        link: socket.socket,
        listening: socket.socket,
        moves: Callable[[], MoveCalls],
        admin_gid: int | None,
        journal: SystemJournal,
        limits: ConnectionLimits,
    ) -> None:
        self.calls = Calls(admin_gid)
        self.moves = moves
        self.journal = journal
        self.path = str(listening.getsockname())
        self._calling, self._called = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # An agent that reads nothing must not hold up anybody but itself.
        link.setblocking(False)
        self._calling.setblocking(False)
        self._link = link
        self._listening = listening
        self._room = Room(limits)
        self._passing = Room(limits)
        """Has those who may change nothing: who waits to be passed on, or to be closed."""
        self._readers = threading.BoundedSemaphore(_MOST_READERS)
        self._lock = threading.Lock()
        self._moving: set[threading.Thread] = set()
        self._ending = False
        self._accepts_at = 0.0
        self._hears = True
        """Whether requests of the agent's are taken."""
        self._closer = Closer()

    def close(self) -> None:
        """Accept nothing more, begin no move more, and give the agent nothing more."""
        with self._lock:
            self._ending = True
        # Who waits to be accepted may have sent descriptors already.
        self._closer.let_go(self._listening, None)
        self._closer.let_go(self._calling, None)

    def run(self) -> None:
        """Until the agent is gone."""
        with self._called:
            _give(self._link, _SETTLED, self._called)
        poll = select.poll()
        while True:
            rest = max(0.0, self._accepts_at - time.monotonic())
            # Who waits to be accepted keeps the socket readable, accepted or not.
            poll.register(self._listening, 0 if rest else select.POLLIN)
            # Without POLLIN it still tells when the agent is gone.
            hears = self._hears
            poll.register(self._link, select.POLLIN if hears else 0)
            waits = rest or None if hears else _DROP_LOOK
            for fd, _ in poll.poll(None if waits is None else waits * 1000):
                if fd == self._listening.fileno():
                    self._accept()
                elif not (hears and self._asked()):
                    return

    def _accept(self) -> None:
        try:
            client, _ = self._listening.accept()
        except BlockingIOError:
            return  # the client has gone again
        except OSError as error:
            _log.warning("no connection can be accepted: %s", error.strerror)
            self._accepts_at = time.monotonic() + _SCARCE_RETRY
            return
        try:
            peer = Peer.of(client)
        except OSError:
            self._closer.close(client, None)
            return
        if not self.calls.may_change(peer):
            if self._passing.is_left_for(peer):
                self._passing.enter(peer)
                self._closer.have_done(peer.uid, partial(self._pass_on, client, peer))
            else:
                send_away(client, peer, self._passing, self._closer)
            return
        if not self._room.is_left_for(peer):
            send_away(client, peer, self._room, self._closer)
            return
        self._room.enter(peer)
        # The conversation closes the connection before the place is left.
        left = partial(self._room.leave, peer)
        if not self._begin(Conversation(self, client, peer), left):
            send_away(client, peer, self._room, self._closer)

    def _pass_on(self, client: socket.socket, peer: Peer) -> None:
        """Give the agent a connection that has a place, and keep nothing of it."""
        try:
            left = self._given(client, peer)
            if left is not None:
                send_away(left, peer, self._passing, self._closer)
        finally:
            self._passing.leave(peer)

    def _given(self, client: socket.socket, peer: Peer) -> socket.socket | None:
        """Give the agent a connection; what is left of it where the agent takes no more."""
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            return client
        with ours, theirs:
            try:
                _give(ours, _packed(peer), client)
                client.close()
                _give(self._link, _ACCEPTED, theirs)
            except OSError:  # so many wait for the agent
                if client.fileno() >= 0:
                    return client
                # Without a descriptor for it, it is closed along with theirs.
                with contextlib.suppress(NoDescriptorError):
                    return _taken(theirs)[1]
        return None

    def _asked(self) -> bool:
        """Take a request of the agent's; False once it is gone."""
        size = _NUMBER.size + 1
        try:
            _, _, got, _ = self._link.recvmsg(size, 0, socket.MSG_PEEK)
            if got & socket.MSG_CTRUNC:
                # An agent that has become something else: it may take long to close.
                self._hears = False
                self._closer.have_done(None, self._drop)
                return True
            request = self._link.recv(size)
        except BlockingIOError:
            return True
        except ConnectionResetError:  # it is gone, and has not read what was sent to it
            return False
        if len(request) == _NUMBER.size:
            answer, theirs = _ASKED_FOR + request, self._reader()
            if not self._answered(answer, theirs) and theirs is not None:
                self._closer.have_done(None, partial(self._answer_in_time, answer, theirs))
        return bool(request)

    def _answered(self, answer: bytes, theirs: socket.socket | None) -> bool:
        """Give the agent what it asked for; False where its link has no room."""
        try:
            _give(self._link, answer, theirs)
        except BlockingIOError:
            return False
        except OSError:
            pass  # the agent is gone
        if theirs is not None:
            theirs.close()
        return True

    def _answer_in_time(self, answer: bytes, theirs: socket.socket) -> None:
        """Give the agent a reader's connection as long as it waits: strangers' fill the link.

        There are few readers at once, so that an agent that takes nothing makes few wait here.
        """
        end = time.monotonic() + _READER_S
        while not self._answered(answer, theirs):
            if time.monotonic() > end:
                theirs.close()
                return
            time.sleep(_LINK_LOOK)

    def _drop(self) -> None:
        """Close what came along with the agent's message; then the agent is heard again."""
        with contextlib.suppress(OSError):
            self._link.recv(1)
        self._hears = True

    def _reader(self) -> socket.socket | None:
        """The agent's end of a new connection for what readers may; None where there are many."""
        if not self._readers.acquire(blocking=False):
            return None
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:
            self._readers.release()
            return None
        if self._begin(Conversation(self, ours, _NOBODY, of_agent=True), self._readers.release):
            return theirs
        ours.close()
        theirs.close()
        return None

    def _begin(self, conversation: Conversation, left: Callable[[], None]) -> bool:
        """Serve a connection on a thread of its own; whether it can be.  left: called after it."""

        def run() -> None:
            try:
                conversation.run()
            finally:
                left()

        try:
            threading.Thread(target=run, name="prtrace", daemon=True).start()
        except RuntimeError as error:
            _log.warning("a client is sent away: %s", error)
            left()
            return False
        return True

    def to_agent(self, peer: Peer, call: bytes, patience: float) -> socket.socket:
        """See Switchboard."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with theirs:
                # The agent finds the call when it is given the connection, and need not come back
                # for it; of a long one, as much as the kernel takes.
                ours.setblocking(False)
                sent = ours.send(call) if call else 0
                _give(self._calling, _packed(peer), theirs)
            ours.settimeout(patience)
            # Not of nothing: an agent that has answered already may have closed its end.
            if rest := call[sent:]:
                ours.sendall(rest)
        except OSError:
            ours.close()
            raise
        return ours

    @contextlib.contextmanager
    def under_way(self, call: Call) -> Iterator[None]:
        """See Switchboard."""
        thread = threading.current_thread()
        with self._lock:
            if self._ending:
                text = {"message": "the agent ends", "hint": "wait, and call its successor"}
                raise Refusal(Fault.BUSY, text, oneway=call.oneway)
            self._moving.add(thread)
        try:
            yield
        finally:
            with self._lock:
                self._moving.discard(thread)

    def wait(self) -> None:
        """Until every move has come to its end, after close(): commands have a time limit."""
        with self._lock:
            moving = tuple(self._moving)
        for thread in moving:
            while thread in self._moving and thread.is_alive():
                thread.join(0.1)


def _give(link: socket.socket, message: bytes, connection: socket.socket | None) -> None:
    """Send the agent a message, with a connection or without; for any thread.

    OSError where the agent has not taken many before.
    """
    if connection is None:
        link.send(message)
    else:
        socket.send_fds(link, [message], [connection.fileno()])


def _packed(peer: Peer) -> bytes:
    groups = b"".join(_GROUP.pack(group) for group in peer.groups)
    return _PEER.pack(peer.pid, peer.uid, peer.gid) + groups


def _unpacked(packed: bytes) -> Peer:
    groups = (group for (group,) in _GROUP.iter_unpack(packed[_PEER.size :]))
    pid, uid, gid = _PEER.unpack_from(packed)
    return Peer(pid, uid, gid, frozenset(groups))


# ---- In the agent ----


class Arrival(NamedTuple):
    """A connection to answer on.  accepted: from outside, so that limits hold for it."""

    connection: socket.socket
    peer: Peer
    accepted: bool


class NoDescriptorError(Exception):
    """This process can have no more descriptors."""


class Mover:
    """The agent's side.  path: of the socket, for messages."""

    def __init__(self, link: socket.socket, path: str) -> None:
        self.path = path
        self._link = link
        self._called: socket.socket | None = None
        self._closer = Closer()
        self._numbers = itertools.count()
        self._wanted: dict[int, Future[socket.socket | None]] = {}

    @property
    def links(self) -> tuple[socket.socket, ...]:
        """What is readable when something arrives: first the one with the mover's own calls."""
        return (self._link,) if self._called is None else (self._called, self._link)

    def close(self) -> None:
        """Have nothing more accepted, and no move begun."""
        # What is on its way here is closed along.
        for link in self.links:
            self._closer.close(link, None)

    def await_settled(self) -> None:
        """Until what was in question has been settled; PrtraceError where the mover ends."""
        message, self._called = _taken(self._link)
        if message != _SETTLED or self._called is None:
            raise _gone()

    def arrived(self, link: socket.socket) -> Arrival | None:
        """Take what the mover sent on one of links; None where it is nothing to answer on.

        Raises PrtraceError where the mover has ended, NoDescriptorError where it is left there
        because this process has no descriptor for it.  Strangers leave some to the mover's calls:
        each connection that was refused, and is not closed yet, has one.
        """
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if link is not self._called:
            most -= most // _RESERVED
        try:
            message, connection = _taken(link, socket.MSG_DONTWAIT, most)
        except BlockingIOError:
            return None
        except OSError as error:
            raise _gone() from error
        if not message:
            raise _gone()
        if link is self._called:
            return None if connection is None else Arrival(connection, _unpacked(message), False)
        kind, rest = message[:1], message[1:]
        if kind == _ACCEPTED:
            return None if connection is None else self._unwrapped(connection)
        if kind == _ASKED_FOR:
            (number,) = _NUMBER.unpack(rest)
            wanted = self._wanted.pop(number, None)
            if wanted is not None:
                wanted.set_result(connection)
            elif connection is not None:
                connection.close()  # nobody waits for it any more
        return None

    def _unwrapped(self, wrapping: socket.socket) -> Arrival | None:
        try:
            packed, connection = _taken(wrapping, socket.MSG_DONTWAIT)
        except (OSError, NoDescriptorError):
            # Whoever connected sees it closed.
            self._closer.let_go(wrapping, None)
            return None
        wrapping.close()  # there is nothing in it any more
        return None if connection is None else Arrival(connection, _unpacked(packed), True)

    def reader(self) -> socket.socket:
        """A connection to the mover for Check and Moves.

        For any thread but the loop's, which calls arrived().  OSError where there is none now.
        """
        number = next(self._numbers)
        wanted = self._wanted[number] = Future()
        try:
            self._link.send(_NUMBER.pack(number))
            connection = wanted.result(_READER_S)
        finally:
            self._wanted.pop(number, None)
        if connection is None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return connection


class Arrivals:
    """Has a server answer on what the mover hands over; on the event loop's thread.

    watched: calls what it is given, and ends the agent where that raises.
    """

    def __init__(
        self,
        mover: Mover,
        server: ApiServer,
        watched: Callable[[Callable[[], None]], None],
    ) -> None:
        self._mover = mover
        self._server = server
        self._watched = watched
        self._loop = asyncio.get_running_loop()
        for link in mover.links:
            self._look_at(link)

    def close(self) -> None:
        """Take nothing more; then close the mover's links."""
        for link in self._mover.links:
            self._loop.remove_reader(link)
        self._mover.close()

    def _look_at(self, link: socket.socket) -> None:
        if link.fileno() >= 0:
            self._loop.add_reader(link, self._watched, partial(self._arrived, link))

    def _arrived(self, link: socket.socket) -> None:
        try:
            arrival = self._mover.arrived(link)
        except PrtraceError:
            self._loop.remove_reader(link)
            raise
        except NoDescriptorError:
            self._loop.remove_reader(link)
            self._loop.call_later(_SCARCE_RETRY, self._look_at, link)
            return
        if arrival is not None:
            take = self._server.admit if arrival.accepted else self._server.adopt
            take(arrival.connection, arrival.peer)


def _taken(
    link: socket.socket, flags: int = 0, most: int | None = None
) -> tuple[bytes, socket.socket | None]:
    """A message of the mover's, with the connection that came along.

    most: how many descriptors there may be with it, None for as many as the kernel gives.
    NoDescriptorError leaves the message where it is.
    """
    # Not socket.recv_fds(), which leaves its flags out (Python 3.11).  MSG_PEEK leaves everything
    # in the queue, also a descriptor for which there is no place here.  Of one that is here, the
    # queue's reference is not the last when the message is dropped.
    room = socket.CMSG_SPACE(_FD.size)
    message, ancillary, got, _ = link.recvmsg(_LONGEST, room, flags | socket.MSG_PEEK)
    connection = None
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS) and len(content) == _FD.size:
            connection = socket.socket(fileno=_FD.unpack(content)[0])
    # A new descriptor has the lowest number that is free.
    scarce = connection is not None and most is not None and connection.fileno() >= most
    if got & socket.MSG_CTRUNC or scarce:
        if connection is not None:
            connection.close()  # the one in the queue is left
        raise NoDescriptorError
    link.recv(_LONGEST, flags)
    return message, connection


def _gone() -> PrtraceError:
    return PrtraceError(
        "the agent's mover has ended",
        hint="see the log for why; an agent that starts goes on where this one was",
    )


class _Reader(Client):
    """Asks the mover for what readers may know."""

    def __init__(self, mover: Mover) -> None:
        super().__init__(mover.path)
        self._mover = mover

    def _opened(self) -> socket.socket:
        return self._mover.reader()


class ReadersMoves:
    """What a reader may ask of the mover, for the API's server: MoveCalls.

    It is asked as nobody in particular, so the mover carries out nothing else.
    """

    def __init__(self, mover: Mover) -> None:
        self._mover = _Reader(mover)

    def check(
        self, _: Observed, devices: Sequence[str], guest: str | None, pid: int | None
    ) -> dict[str, Any]:
        """See Moves.check."""
        return self._mover.call("Check", devices=list(devices), guest=guest, pid=pid)

    def unfinished(self) -> dict[str, Any]:
        """See Moves.unfinished."""
        return self._mover.call("Moves")

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


def _not_for_readers() -> PrtraceError:
    return PrtraceError("this connection may only read")
