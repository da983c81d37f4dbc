"""The proxy's server: one process, one event loop, a thread for each device that has work.

The loop reads requests and never waits for a device, a descriptor's sender or the helper; what
may wait runs on the device's lane, which also sends the reply, so that the loop's next turn is
not part of a command's round trip (see prtrace.prhelper.connection).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prtrace.prhelper.closer import Closer
from prtrace.prhelper.connection import Connection
from prtrace.prhelper.deadlines import Deadlines
from prtrace.prhelper.guests import peer, start_of_client
from prtrace.prhelper.lanes import Lanes
from prtrace.prhelper.passage import Client, Passage

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from prtrace.prhelper.anteroom import Anteroom
    from prtrace.prhelper.fds import OwnedFd

log = logging.getLogger("prtrace.prhelper")

_ACCEPT_PAUSE: Final = 0.2


@dataclass(frozen=True, slots=True)
class Limits:
    """connections: in all; of_user: of one user id; threads: devices with work at a time."""

    connections: int = 1024
    of_user: int = 512
    threads: int = 256


class Service:
    """Serves the connections of a listening socket until it is told to stop.

    Make it where the anteroom's event loop runs.
    """

    def __init__(self, passage: Passage, limits: Limits, anteroom: Anteroom) -> None:
        self._loop = asyncio.get_running_loop()
        self.passage = passage
        self.anteroom = anteroom
        self.deadlines = Deadlines(self._loop)
        self.lanes = Lanes(limits.threads)
        self.stopping = False
        self._limits = limits
        self._listener: socket.socket | None = None
        # Until the next look at the listener, where accepting went wrong.
        self._pause: asyncio.TimerHandle | None = None
        self._closer = Closer()
        self._users: Counter[int] = Counter()
        self._refused: set[int] = set()
        self._connections: set[Connection] = set()
        self._calm = asyncio.Event()

    def serve(self, listener: socket.socket) -> None:
        """Accept from now on, at most one connection in a turn of the loop."""
        listener.setblocking(False)
        self._listener = listener
        self._listen()

    def _listen(self) -> None:
        if self._listener is not None:
            self.anteroom.add(self._listener.fileno(), self._accept)
            self._pause = None

    def _accept(self) -> None:
        listener = self._listener
        if listener is None:
            return
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            # Out of descriptors, or the client is gone already: the next one may do better.
            log.warning("a connection could not be accepted: %s", error)
            self.anteroom.remove(listener.fileno())
            self._pause = self._loop.call_later(_ACCEPT_PAUSE, self._listen)
            return
        self._welcome(sock)

    def _refuse(self) -> None:
        """Accept nobody any more."""
        if self._listener is None:
            return
        if self._pause is None:
            self.anteroom.remove(self._listener.fileno())
        else:
            self._pause.cancel()
        self._listener.close()
        self._listener = None

    async def stop(self, grace: float) -> None:
        """Accept nobody, let commands under way finish for at most grace seconds, end the rest."""
        self._refuse()
        self.stopping = True
        self.calmed()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._calm.wait()
        for connection in tuple(self._connections):
            connection.end(ConnectionAbortedError("the proxy stops"))

    def _welcome(self, sock: socket.socket) -> None:
        try:
            pid, uid = peer(sock)
        except OSError as error:
            sock.close()
            log.warning("a client without credentials: %s", error)
            return
        full = len(self._connections) >= self._limits.connections
        if full or self._users[uid] >= self._limits.of_user or self._closer.overdrawn(uid):
            sock.close()
            if uid not in self._refused:
                log.warning("uid %d has too much at a time: pid %d and others refused", uid, pid)
                self._refused.add(uid)
            return
        sock.setblocking(False)
        client = Client(pid, uid, start_of_client(pid), self.passage.connect())
        self._users[uid] += 1
        connection = Connection(self, self._loop, sock, client)
        self._connections.add(connection)
        connection.start()

    def farewell(self, connection: Connection, fds: Iterable[OwnedFd]) -> None:
        """A connection ended; fds are what it left behind."""
        client = connection.client
        self._connections.discard(connection)
        self._users[client.uid] -= 1
        if not self._users[client.uid]:
            del self._users[client.uid]
            self._refused.discard(client.uid)
        self._closer.close(client.uid, fds)

    def close(self, client: Client, fd: OwnedFd) -> None:
        """Close a descriptor that is no device's, on a thread that may block."""
        self._closer.close(client.uid, (fd,))

    def overdrawn(self, client: Client) -> bool:
        """Whether too many of the user's descriptors do not let themselves be closed."""
        return self._closer.overdrawn(client.uid)

    def calmed(self) -> None:
        """A command may have been the last one that stop() waits for."""
        if self.stopping and not any(connection.busy for connection in self._connections):
            self._calm.set()
