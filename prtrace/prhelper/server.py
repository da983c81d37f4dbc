"""The proxy's server: a thread for each connection, and this module hands the threads out.

The accepting thread finds out who a client is and whether there is a place for it.  A thread
whose client has left waits a while for the next one, so that a storm of connections does not
start a thread for each.
"""

from __future__ import annotations

import logging
import queue
import signal
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prtrace.prhelper.client import HelperClient, client_of
from prtrace.prhelper.connection import HelperConnection, Stop
from prtrace.prhelper.places import Limits, Places

if TYPE_CHECKING:
    from prtrace.prhelper.broker import Broker
    from prtrace.prhelper.sparing_log import SparingLog

STACK_BYTES: Final = 512 << 10
_IDLE_SECONDS: Final = 10.0
_STOP_STEP: Final = 0.02


@dataclass(frozen=True, slots=True)
class _Guest:
    """A client that has a place."""

    connection: HelperConnection
    client: HelperClient


class Server:
    """Serves accepted connections until it is told to stop; used by one thread, beside its own."""

    def __init__(self, broker: Broker, limits: Limits, sparing: SparingLog) -> None:
        self._broker = broker
        self._log = sparing
        self._lock = threading.Lock()
        self._places = Places(limits)
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
            sock.close()
            self._log.say(logging.WARNING, "credentials", f"a client without credentials: {error}")
            return
        with self._lock:
            full = self._places.take(client.uid, client.unit, client.pid)
        if full:
            sock.close()
            self._log.say(
                logging.WARNING, f"places {client.uid} {client.unit}",
                f"{client.title} is refused: {full}",
            )  # fmt: skip
            return
        connection = HelperConnection(self._broker, sock, client, self._stop, self._log)
        guest = _Guest(connection, client)
        with self._lock:
            self._connections.add(connection)
            enough = self._idle > 0
            self._idle -= 1
        self._waiting.put(guest)
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
                    self._places.give_back(client.uid, client.unit, client.pid)
                    self._idle += 1
