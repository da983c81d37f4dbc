"""The process that moves reservations for the agent, which may not: it alone sends PR OUT.

It alone has the listening sockets, too: everybody's, and one for root alone, before which nobody
else waits.  What the kernel says of who is at the other end of a connection (SO_PEERCRED) holds
for an end that accept() gave: at an end that called connect() it names whoever listens.  So the
mover believes no end but those that it accepted itself, takes no descriptor from the agent, and
keeps the connections of those who may change things (uid 0, or a member of the admin group).
Calls that move are carried out here, whatever has become of the agent; others are passed on to
it, and its replies back (prtrace.agent.conversation).  Connections of others are the agent's from
their first byte.

For others the agent asks for Check and Moves, which send nothing and change nothing, and for which
the journals and the guests' processes have to be read.  For that it gets a connection that the
mover made, and that may do no more.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from prtrace.agent.conversation import Conversation
from prtrace.agent.moverlink import (
    ACCEPTED,
    ASKED_FOR,
    NUMBER,
    READER_S,
    SCARCE_RETRY,
    SETTLED,
    NoDescriptorError,
    give,
    most_for_strangers,
    packed,
    taken,
)
from prtrace.agent.parser import Parsers
from prtrace.api.calls import Call, Calls, Refusal
from prtrace.api.interface import Fault
from prtrace.api.room import ConnectionLimits, Room, send_away
from prtrace.errors import PrtraceError
from prtrace.linux.capabilities import Capability
from prtrace.linux.closer import Closer
from prtrace.linux.journal import SystemJournal
from prtrace.linux.peer import Peer

if TYPE_CHECKING:
    from prtrace.agent.moves import AgentMoves
    from prtrace.api.source import MoveCalls

KEPT: Final = (Capability.DAC_READ_SEARCH, Capability.SYS_PTRACE, Capability.SYS_RAWIO)
"""To send commands, and to see which guest a process is and whether its QEMU moves by itself."""

_NOBODY: Final = Peer(0, 0xFFFF_FFFF, 0xFFFF_FFFF)
"""Who may read, and do nothing else."""
_MOST_READERS: Final = 8
"""Connections that the agent asked for; it has 2 threads that do."""
_DROP_LOOK: Final = 0.05
"""Seconds between two looks whether the agent's message with a descriptor is dropped."""
_LINK_LOOK: Final = 0.01
"""Seconds between two tries to give the agent an answer: poll() tells of room only where three
quarters of the link are free (net/unix/af_unix.c, unix_writable)."""
_STACK: Final = 512 << 10

_log = logging.getLogger("prtrace.mover")


class Doors(NamedTuple):
    """Non-blocking listening sockets; whoever serves on them lets them go in the end."""

    everybodys: socket.socket
    roots: socket.socket | None
    """Root's alone.  Where there is one, the other leaves it descriptors."""


def serve(
    link: socket.socket,
    doors: Doors,
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
    serve_connections(link, doors, lambda: _moves(state_dir, parsers), admin_gid, journal)


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
    doors: Doors,
    moves: Callable[[], MoveCalls],
    admin_gid: int | None,
    journal: SystemJournal,
    limits: ConnectionLimits | None = None,
) -> None:
    """Accept, and serve or pass on, until the other end of link is closed.

    limits: of those who may change things, and of the others until the agent has taken them, which
    limits them then.  Whatever ends it, moves under way come to their end first.
    """
    mover = _Mover(link, doors, moves, admin_gid, journal, limits or ConnectionLimits())
    try:
        mover.run()
    finally:
        mover.close()
        mover.wait()


@dataclass(slots=True)
class _Door:
    """A listening socket.

    spares: whether whoever comes through it leaves some descriptors to others.  opens_at: until
    then, on the monotonic clock, nothing is accepted from it.
    """

    listening: socket.socket
    spares: bool
    opens_at: float = 0.0

    def accept(self) -> socket.socket:
        """OSError where nobody can be accepted here; BlockingIOError where nobody waits."""
        if self.spares:
            # A new descriptor has the lowest number that is free.
            with self.listening.dup() as another:
                if another.fileno() >= most_for_strangers():
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        client, _ = self.listening.accept()
        return client


class _Mover:
    """prtrace.agent.conversation.Switchboard."""

    def __init__(
        self,
        link: socket.socket,
        doors: Doors,
        moves: Callable[[], MoveCalls],
        admin_gid: int | None,
        journal: SystemJournal,
        limits: ConnectionLimits,
    ) -> None:
        self.calls = Calls(admin_gid)
        self.moves = moves
        self.journal = journal
        self.path = str(doors.everybodys.getsockname())
        self._calling, self._called = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # An agent that reads nothing must not hold up anybody but itself.
        link.setblocking(False)
        self._calling.setblocking(False)
        self._link = link
        self._doors = {doors.everybodys.fileno(): _Door(doors.everybodys, doors.roots is not None)}
        if doors.roots is not None:
            self._doors[doors.roots.fileno()] = _Door(doors.roots, spares=False)
        self._room = Room(limits)
        self._passing = Room(limits)
        """Has those who may change nothing: who waits for the agent, or to be closed."""
        self._wrapped: dict[int, tuple[socket.socket, Peer]] = {}
        """Of each connection that waits for the agent, the other end of what it was wrapped in."""
        self._events = select.epoll()
        self._readers = threading.BoundedSemaphore(_MOST_READERS)
        self._lock = threading.Lock()
        self._moving: set[threading.Thread] = set()
        self._ending = False
        self._hears = True
        """Whether requests of the agent's are taken."""
        self._closer = Closer()

    def close(self) -> None:
        """Accept nothing more, begin no move more, and give the agent nothing more."""
        with self._lock:
            self._ending = True
        # Who waits to be accepted may have sent descriptors already.
        for door in self._doors.values():
            self._closer.let_go(door.listening, None)
        self._closer.let_go(self._calling, None)
        self._events.close()
        for fd in tuple(self._wrapped):
            self._unwrapped(fd)

    def run(self) -> None:
        """Until the agent is gone."""
        with self._called:
            give(self._link, SETTLED, self._called)
        self._events.register(self._link)
        for fd in self._doors:
            self._events.register(fd)
        while True:
            now = time.monotonic()
            waits: list[float] = []
            for fd, door in self._doors.items():
                # Who waits to be accepted keeps the socket readable, accepted or not.
                shut = door.opens_at > now
                self._events.modify(fd, 0 if shut else select.EPOLLIN)
                waits += [door.opens_at - now] if shut else ()
            # Without EPOLLIN it still tells when the agent is gone.
            hears = self._hears
            self._events.modify(self._link, select.EPOLLIN if hears else 0)
            waits += () if hears else [_DROP_LOOK]
            for fd, _ in self._events.poll(min(waits, default=None)):
                if fd in self._doors:
                    self._accept(self._doors[fd])
                elif fd in self._wrapped:
                    self._unwrapped(fd)
                elif fd == self._link.fileno() and not (hears and self._asked()):
                    return

    def _accept(self, door: _Door) -> None:
        try:
            client = door.accept()
        except BlockingIOError:
            return  # the client has gone again
        except OSError as error:
            _log.warning("no connection can be accepted: %s", error.strerror)
            door.opens_at = time.monotonic() + SCARCE_RETRY
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
        """Give the agent a connection that has a place, and keep nothing of it.

        It has its place until the agent has taken it, so that nobody has the link to himself.
        """
        waits = False
        try:
            waits = self._given(client, peer)
        finally:
            if not waits:
                self._passing.leave(peer)

    def _given(self, client: socket.socket, peer: Peer) -> bool:
        """Give the agent a connection; False where that ended it."""
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            send_away(client, peer, self._passing, self._closer)
            return False
        with theirs:
            try:
                # What the agent sent here would have to be closed here.
                ours.shutdown(socket.SHUT_RD)
                give(ours, packed(peer), client)
                client.close()
                give(self._link, ACCEPTED, theirs)
            except OSError:  # so many wait for the agent
                ours.close()
                # Without a descriptor for it, it is closed along with theirs.
                with contextlib.suppress(NoDescriptorError):
                    left = client if client.fileno() >= 0 else taken(theirs)[1]
                    if left is not None:
                        send_away(left, peer, self._passing, self._closer)
                return False
        self._wrapped[ours.fileno()] = ours, peer
        try:
            self._events.register(ours, 0)
        except (OSError, ValueError):  # above all because the mover has ended
            self._unwrapped(ours.fileno())
        return True

    def _unwrapped(self, fd: int) -> None:
        """The agent has taken a connection, and closed what it was wrapped in."""
        # A mover that ends closes all of them, and whoever has just wrapped one does it, too.
        ours, peer = self._wrapped.pop(fd, (None, None))
        if ours is not None and peer is not None:
            ours.close()
            self._passing.leave(peer)

    def _asked(self) -> bool:
        """Take a request of the agent's; False once it is gone."""
        size = NUMBER.size + 1
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
        if len(request) == NUMBER.size:
            answer, theirs = ASKED_FOR + request, self._reader()
            if not self._answered(answer, theirs) and theirs is not None:
                self._closer.have_done(None, partial(self._answer_in_time, answer, theirs))
        return bool(request)

    def _answered(self, answer: bytes, theirs: socket.socket | None) -> bool:
        """Give the agent what it asked for; False where its link has no room."""
        try:
            give(self._link, answer, theirs)
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
        end = time.monotonic() + READER_S
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
                give(self._calling, packed(peer), theirs)
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
