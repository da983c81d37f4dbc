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

import contextlib
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

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
            give(self._link, SETTLED, self._called)
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
            self._accepts_at = time.monotonic() + SCARCE_RETRY
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
                give(ours, packed(peer), client)
                client.close()
                give(self._link, ACCEPTED, theirs)
            except OSError:  # so many wait for the agent
                if client.fileno() >= 0:
                    return client
                # Without a descriptor for it, it is closed along with theirs.
                with contextlib.suppress(NoDescriptorError):
                    return taken(theirs)[1]
        return None

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
