"""The proxy's server: a thread for each connection, and this module hands the threads out.

The accepting thread finds out who a client is and whether there is a place for it.  A client that
comes too often waits, without a thread, and has its place meanwhile.  A thread whose client
has left waits a while for the next one, so that not each connection starts one; where enough
threads wait already, it ends.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import queue
import select
import signal
import socket
import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from prtrace.linux.closer import Closer
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
_UNIT_FASTER: Final = 2
"""How much more often a unit may come than one process; it has as many at once as connections."""


@dataclass(frozen=True, slots=True)
class _Guest:
    """A client that has a place."""

    connection: HelperConnection
    client: HelperClient


@dataclass(frozen=True, slots=True, order=True)
class _Early:
    """A client that came too often, and has a place until it is due (time.monotonic())."""

    due: float
    number: int
    sock: socket.socket = field(compare=False)
    client: HelperClient = field(compare=False)


def _owner(client: HelperClient) -> Hashable:
    return client.uid, client.counted_as


class Server:
    """Serves accepted connections until it is told to stop; used by one thread, beside its own."""

    def __init__(self, broker: Broker, limits: Limits, sparing: SparingLog) -> None:
        self._broker = broker
        self._log = sparing
        self._lock = threading.Lock()
        self._places = Places(limits)
        self._paces = (
            Pace(limits.of_process, limits.arrivals),
            Pace(limits.of_unit, limits.arrivals * _UNIT_FASTER),
        )
        self._numbers = itertools.count()
        self._early: list[_Early] = []
        self._changed = threading.Condition(self._lock)
        self._usher: threading.Thread | None = None
        self.closer = Closer()
        """Closes what was never served, each client's on threads of its user and unit."""
        self._waiting: queue.SimpleQueue[_Guest] = queue.SimpleQueue()
        # Threads without a client, less the clients without a thread.
        self._idle = 0
        self._connections: set[HelperConnection] = set()
        self._stop = Stop()

    def welcome(self, sock: socket.socket, socket_name: str = "") -> None:
        """Serve an accepted connection, or close it where there is no place for its client.

        socket_name: of the listening socket, "" for the one that all guests share.
        """
        try:
            client = client_of(sock, socket_name)
        except OSError as error:
            self.closer.close(sock, None)
            self._log.say(logging.WARNING, "credentials", f"a client without credentials: {error}")
            return
        now = time.monotonic()
        with self._lock:
            full = self._places.take(client.uid, client.counted_as, client.pid)
            due = now if full else self._due(client, now)
            if due > now:
                heapq.heappush(self._early, _Early(due, next(self._numbers), sock, client))
                self._changed.notify()
        if full:
            self.closer.close(sock, _owner(client))
            self._log.say(
                logging.WARNING, f"places {client.uid} {client.counted_as}",
                f"{client.title} is refused: {full}",
            )  # fmt: skip
        elif due <= now:
            self._admit(sock, client)
            return
        elif self._usher is None:
            self._employ_usher()
        # Who comes again and again leaves others time.
        time.sleep(_REFUSED_PAUSE)

    def _due(self, client: HelperClient, now: float) -> float:
        """When the client is served, now or later.

        pid 0 and the unit "" stand for all of which nothing is known: they do not wait for each
        other.
        """
        of_process, of_unit = self._paces
        due = now
        if client.pid:
            due = of_process.due((client.pid, client.start_ns), now)
        if client.counted_as:
            due = max(due, of_unit.due(client.counted_as, now))
        return due

    def _employ_usher(self) -> None:
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
            gone: list[_Early] = []
            early = None
            with self._changed:
                if not self._early:
                    self._changed.wait()
                    continue
                now = time.monotonic()
                if now >= look:
                    gone = self._dismiss_gone()
                    look = now + _LOOKS_EACH
                elif self._early[0].due <= now:
                    early = heapq.heappop(self._early)
                else:
                    self._changed.wait(min(self._early[0].due, look) - now)
            for each in gone:
                self.closer.close(
                    each.sock, _owner(each.client), partial(self._give_back, each.client)
                )
            if early is not None:
                self._admit(early.sock, early.client)

    def _dismiss_gone(self) -> list[_Early]:
        """Take those out who have left while they waited; they have their places until closed."""
        poll = select.poll()
        for early in self._early:
            poll.register(early.sock, 0)
        left = {number for number, events in poll.poll(0) if events & select.POLLHUP}
        gone = [early for early in self._early if early.sock.fileno() in left]
        if gone:
            self._early = [early for early in self._early if early.sock.fileno() not in left]
            heapq.heapify(self._early)
        return gone

    def _give_back(self, client: HelperClient) -> None:
        with self._lock:
            self._places.give_back(client.uid, client.counted_as, client.pid)

    def _admit(self, sock: socket.socket, client: HelperClient) -> None:
        """Serve a client that has a place."""
        connection = HelperConnection(self._broker, sock, client, self._stop, self._log)
        with self._lock:
            self._connections.add(connection)
            enough = self._idle > 0
            self._idle -= 1
            # A thread that ends looks at both.
            self._waiting.put(_Guest(connection, client))
        if not enough:
            self._start()

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
                    self._places.give_back(client.uid, client.counted_as, client.pid)
                    enough = self._idle >= _SPARE_THREADS
                    self._idle += not enough
            if enough:
                return
