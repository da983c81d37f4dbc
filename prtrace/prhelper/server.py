"""The proxy's server: a thread for each connection, and this module hands the threads out.

The accepting thread finds out who a client is and whether there is a place for it.  A client that
comes too often waits for that, without a thread, and has a place meanwhile.  A thread whose client
has left waits a while for the next one, so that not each connection starts one; where enough
threads wait already, it ends.
"""

from __future__ import annotations

import heapq
import logging
import queue
import select
import signal
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from prtrace.linux.peer import Peer
from prtrace.prhelper.client import HelperClient, client_of
from prtrace.prhelper.connection import HelperConnection, Stop
from prtrace.prhelper.pace import Pace
from prtrace.prhelper.places import Limits, Places

if TYPE_CHECKING:
    from prtrace.prhelper.broker import Broker
    from prtrace.prhelper.sparing_log import SparingLog

STACK_BYTES: Final = 512 << 10
_IDLE_SECONDS: Final = 10.0
_SPARE_THREADS: Final = 16
_STOP_STEP: Final = 0.02
_LOOKS_EACH: Final = 1.0
_REFUSED_PAUSE: Final = 0.001
"""After a connection that is not served at once: who comes again and again leaves others time."""


@dataclass(frozen=True, slots=True)
class _Guest:
    """A client that has a place."""

    connection: HelperConnection
    client: HelperClient


@dataclass(frozen=True, slots=True, order=True)
class _Early:
    """A client that came too often, and has a place until it is due (time.monotonic())."""

    due: float
    accepted_ns: int
    sock: socket.socket = field(compare=False)
    socket_name: str = field(compare=False)
    peer: Peer = field(compare=False)


class Server:
    """Serves accepted connections until it is told to stop; used by one thread, beside its own."""

    def __init__(self, broker: Broker, limits: Limits, sparing: SparingLog) -> None:
        self._broker = broker
        self._log = sparing
        self._lock = threading.Lock()
        self._places = Places(limits)
        self._pace = Pace(limits.of_process, limits.arrivals)
        self._early: list[_Early] = []
        self._changed = threading.Condition(self._lock)
        self._usher: threading.Thread | None = None
        self._waiting: queue.SimpleQueue[_Guest] = queue.SimpleQueue()
        # Threads without a client, less the clients without a thread.
        self._idle = 0
        self._connections: set[HelperConnection] = set()
        self._stop = Stop()

    def welcome(self, sock: socket.socket, socket_name: str = "") -> None:
        """Serve an accepted connection, or close it where there is no place for its client.

        socket_name: of the listening socket, "" for the one that all guests share.
        """
        accepted_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        try:
            peer = Peer.of(sock)
        except OSError as error:
            self._without_credentials(sock, error)
            return
        now = time.monotonic()
        due = self._pace.due(peer.pid, now)
        if due > now:
            self._delay(_Early(due, accepted_ns, sock, socket_name, peer))
            time.sleep(_REFUSED_PAUSE)
        elif not self._admit(sock, socket_name, accepted_ns):
            time.sleep(_REFUSED_PAUSE)

    def _delay(self, early: _Early) -> None:
        """Let the client wait until it is due."""
        peer = early.peer
        with self._lock:
            # Its unit is asked for when it is due.
            full = self._places.take(peer.uid, "", peer.pid)
            if not full:
                heapq.heappush(self._early, early)
                self._changed.notify()
        if full:
            self._refuse(early.sock, f"{peer.uid}", f"pid {peer.pid}", full)
        elif self._usher is None:
            usher = threading.Thread(target=self._admit_in_time, daemon=True)
            try:
                usher.start()
            except RuntimeError as error:
                # The next one that comes too often tries again.
                self._log.say(logging.ERROR, "threads", f"clients wait for a thread: {error}")
            else:
                self._usher = usher

    def _admit_in_time(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        look = 0.0
        while True:
            with self._changed:
                if not self._early:
                    self._changed.wait()
                    continue
                now = time.monotonic()
                if now >= look:
                    self._dismiss_gone()
                    look = now + _LOOKS_EACH
                    continue
                left = min(self._early[0].due, look) - now
                if left > 0:
                    self._changed.wait(left)
                    continue
                early = heapq.heappop(self._early)
                self._places.give_back(early.peer.uid, "", early.peer.pid)
            self._admit(early.sock, early.socket_name, early.accepted_ns)

    def _dismiss_gone(self) -> None:
        """Give the places of those back who have left while they waited."""
        poll = select.poll()
        for early in self._early:
            poll.register(early.sock, 0)
        gone = {number for number, events in poll.poll(0) if events & select.POLLHUP}
        waiting = []
        for early in self._early:
            if early.sock.fileno() in gone:
                self._places.give_back(early.peer.uid, "", early.peer.pid)
                early.sock.close()
            else:
                waiting.append(early)
        heapq.heapify(waiting)
        self._early = waiting

    def _admit(self, sock: socket.socket, socket_name: str, accepted_ns: int) -> bool:
        """Serve the connection; False where it was closed."""
        try:
            client = client_of(sock, socket_name, accepted_ns)
        except OSError as error:
            self._without_credentials(sock, error)
            return False
        with self._lock:
            full = self._places.take(client.uid, client.unit, client.pid)
        if full:
            self._refuse(sock, f"{client.uid} {client.unit}", client.title, full)
            return False
        connection = HelperConnection(self._broker, sock, client, self._stop, self._log)
        guest = _Guest(connection, client)
        with self._lock:
            self._connections.add(connection)
            enough = self._idle > 0
            self._idle -= 1
        self._waiting.put(guest)
        if not enough:
            self._start()
        return True

    def _without_credentials(self, sock: socket.socket, error: OSError) -> None:
        sock.close()
        self._log.say(logging.WARNING, "credentials", f"a client without credentials: {error}")

    def _refuse(self, sock: socket.socket, whose: str, title: str, full: str) -> None:
        sock.close()
        self._log.say(logging.WARNING, f"places {whose}", f"{title} is refused: {full}")

    def stop(self) -> None:
        """Begin no command any more."""
        self._stop.stopping = True

    def wait(self, grace: float) -> None:
        """Wait at most grace seconds for the commands that are under way."""
        deadline = time.monotonic() + grace
        while self._busy() and time.monotonic() < deadline:
            time.sleep(_STOP_STEP)

    def _busy(self) -> bool:
        with self._lock:
            return any(connection.busy for connection in self._connections)

    def _start(self) -> None:
        try:
            threading.Thread(target=self._run, daemon=True).start()
        except RuntimeError as error:
            # No more threads from the system: the next one that is free serves the client.
            self._log.say(logging.ERROR, "threads", f"a client waits for a thread: {error}")
            return
        with self._lock:
            self._idle += 1

    def _run(self) -> None:
        # The sg driver's SG_IO ends on a signal and is then started again: the command is sent
        # twice.  The main thread is there for signals.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            try:
                guest = self._waiting.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if not self._waiting.empty():
                        continue
                    self._idle -= 1
                    return
            try:
                guest.connection.serve()
            finally:
                client = guest.client
                with self._lock:
                    self._connections.discard(guest.connection)
                    self._places.give_back(client.uid, client.unit, client.pid)
                    enough = self._idle >= _SPARE_THREADS
                    self._idle += not enough
            if enough:
                return
