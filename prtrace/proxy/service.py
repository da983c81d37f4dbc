"""The proxy's server: one process, one event loop, a thread for each device that has work.

The loop reads requests and never waits for a device, a descriptor's sender or the helper; what
may wait runs on the device's lane, which also sends the reply, so that the loop's next turn is
not part of a command's round trip.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prtrace.errors import DeviceError, MalformedError
from prtrace.prhelper.fds import OwnedFd, receive
from prtrace.prhelper.wire import CLEANUP, FEATURE_CLEANUP, Request, Response, ServerSession
from prtrace.proxy.answer import INVALID_OPCODE, IO_ERROR, check
from prtrace.proxy.closer import Closer
from prtrace.proxy.descriptor import Node, node_of, read_only
from prtrace.proxy.guests import peer, start_of_client
from prtrace.proxy.lanes import Lanes
from prtrace.proxy.passage import Client, Passage
from prtrace.scsi.codes import Opcode, Status

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger("prtrace.proxy")

GREETING_SECONDS: Final = 30.0
MESSAGE_SECONDS: Final = 5.0
"""From the first byte of a request to its last, and for the client to take a reply."""
BACKLOG: Final = 128
_ACCEPT_PAUSE: Final = 0.2


@dataclass(frozen=True, slots=True)
class Limits:
    """connections: in all; of_user: of one user id; threads: devices with work at a time."""

    connections: int = 1024
    of_user: int = 512
    threads: int = 256


class _GoneError(Exception):
    """The client closed, or did what ends a connection; the text is for the log."""


class Service:
    """Serves the connections of a listening socket until it is told to stop."""

    def __init__(self, passage: Passage, limits: Limits) -> None:
        self._passage = passage
        self._limits = limits
        self._lanes = Lanes(limits.threads)
        self._closer = Closer()
        self._users: Counter[int] = Counter()
        self._refused: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy = 0
        self._calm = asyncio.Event()
        self._calm.set()

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._tasks)

    async def serve(self, listener: socket.socket) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError as error:
                # Out of descriptors, or the client is gone already: the next one may do better.
                log.warning("a connection could not be accepted: %s", error)
                await asyncio.sleep(_ACCEPT_PAUSE)
                continue
            self._welcome(loop, sock)

    async def stop(self, grace: float) -> None:
        """Let commands under way finish for at most grace seconds, then end all connections."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._calm.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _welcome(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        try:
            pid, uid = peer(sock)
        except OSError as error:
            sock.close()
            log.warning("a client without credentials: %s", error)
            return
        full = len(self._tasks) >= self._limits.connections
        if full or self._users[uid] >= self._limits.of_user or self._closer.overdrawn(uid):
            sock.close()
            if uid not in self._refused:
                log.warning("uid %d has too much at a time: pid %d and others refused", uid, pid)
                self._refused.add(uid)
            return
        sock.setblocking(False)
        client = Client(pid, uid, start_of_client(pid), self._passage.connect())
        self._users[uid] += 1
        task = loop.create_task(_Connection(self, sock, client).run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def farewell(self, client: Client, fds: Iterable[OwnedFd]) -> None:
        """A connection ended; fds are what it left behind."""
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

    def begin(self) -> None:
        """A command goes to its lane."""
        self._busy += 1
        self._calm.clear()

    def end(self) -> None:
        """It is back."""
        self._busy -= 1
        if not self._busy:
            self._calm.set()

    @property
    def passage(self) -> Passage:
        """What is done with a request."""
        return self._passage

    @property
    def lanes(self) -> Lanes:
        """Where that happens."""
        return self._lanes


class _Connection:
    """One client's conversation."""

    def __init__(self, service: Service, sock: socket.socket, client: Client) -> None:
        self._service = service
        self._sock = sock
        self._client = client
        self._session = ServerSession(FEATURE_CLEANUP)
        self._fds: list[OwnedFd] = []
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Serve the client until it or the protocol ends the connection."""
        try:
            await self._send(self._session.greeting)
            await self._next(self._loop.time() + GREETING_SECONDS)
            while True:
                request = await self._next(None)
                if request is not None:
                    await self._answer(request)
        except (_GoneError, MalformedError, TimeoutError, OSError) as error:
            log.debug("pid %d: %s %s", self._client.pid, type(error).__name__, error)
        finally:
            self._sock.close()
            self._client.execution.close()
            self._service.farewell(self._client, self._fds)

    async def _next(self, deadline: float | None) -> Request | None:
        """The next whole message: None for the greeting, else a request.

        Without a deadline the client may be silent as long as it likes before the first byte.
        """
        session = self._session
        while True:
            try:
                request = self._take()
            except BlockingIOError:
                await self._ready(deadline)
                continue
            if request is not None or (session.greeted and session.idle and deadline):
                return request
            if deadline is None:
                deadline = self._loop.time() + MESSAGE_SECONDS

    def _take(self) -> Request | None:
        session = self._session
        if not session.takes_descriptor:
            # Without a control buffer the kernel drops descriptors, as it does for the helper.
            data = self._sock.recv(session.wanted)
            if not data:
                raise _GoneError("closed")
            return session.feed(data)
        got = receive(self._sock, session.wanted)
        self._fds += got.fds
        if not got.data:
            raise _GoneError("closed")
        return session.feed(got.data, len(got.fds) + got.surplus)

    async def _answer(self, request: Request) -> None:
        fd = self._fds.pop()
        try:
            node = _device(request, fd.fd)
        except OSError as error:
            self._service.close(self._client, fd)
            raise _GoneError(str(error)) from error
        if isinstance(node, Response):
            self._service.close(self._client, fd)
            if self._service.overdrawn(self._client):
                raise _GoneError("its descriptors do not let themselves be closed")
            await self._send(self._session.reply(node))
            return
        done: asyncio.Future[bytes | None] = self._loop.create_future()
        work = _Work(self, request, fd, node, done)
        self._service.begin()
        try:
            if not self._service.lanes.submit((node.block, node.number), work.run):
                self._service.close(self._client, fd)
                await self._send(self._session.reply(Response(Status.BUSY)))
                return
            rest = await done
        finally:
            self._service.end()
        if rest is None:
            raise _GoneError("no answer for it")
        if rest:
            await self._send(rest)

    async def _send(self, data: bytes) -> None:
        deadline = self._loop.time() + MESSAGE_SECONDS
        while data:
            try:
                data = data[self._sock.send(data, socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                await self._ready(deadline, writing=True)

    async def _ready(self, deadline: float | None, *, writing: bool = False) -> None:
        """Wait for the socket; TimeoutError at the deadline."""
        loop, fd = self._loop, self._sock.fileno()
        waiter: asyncio.Future[None] = loop.create_future()
        (loop.add_writer if writing else loop.add_reader)(fd, _settle, waiter)
        timer = None if deadline is None else loop.call_at(deadline, _expire, waiter)
        try:
            await waiter
        finally:
            (loop.remove_writer if writing else loop.remove_reader)(fd)
            if timer is not None:
                timer.cancel()

    def carry_out(self, request: Request, fd: int, node: Node) -> Response | None:
        """On the lane's thread: the answer, None where there is none to give."""
        return self._service.passage.carry_out(self._client, request, fd, node)

    def reply_now(self, response: Response) -> bytes:
        """On the lane's thread: send the reply; the bytes that found no room."""
        data = self._session.reply(response)
        try:
            return data[self._sock.send(data, socket.MSG_NOSIGNAL) :]
        except BlockingIOError:
            return data

    def settle(self, done: asyncio.Future[bytes | None], rest: bytes | None) -> None:
        """On the lane's thread: let the loop go on with this connection."""
        # The loop is closed where the program ends with a device that does not answer.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_settle, done, rest)


@dataclass(slots=True)
class _Work:
    """One request on its lane."""

    connection: _Connection
    request: Request
    fd: OwnedFd
    node: Node
    done: asyncio.Future[bytes | None]

    def run(self) -> None:
        rest: bytes | None = None
        try:
            with self.fd as owned:
                response = self.connection.carry_out(self.request, owned.fd, self.node)
            if response is not None:
                rest = self.connection.reply_now(response)
        except OSError as error:
            log.debug("a reply found no taker: %s", error)
        finally:
            self.connection.settle(self.done, rest)


def _device(request: Request, fd: int) -> Node | Response:
    """The device, or what the helper says of a descriptor that no command can go through."""
    if request.opcode in (Opcode.PR_OUT, CLEANUP) and read_only(fd):
        return check(INVALID_OPCODE)
    try:
        return node_of(fd)
    except (MalformedError, DeviceError) as error:
        log.debug("refused: %s", error)
        return check(IO_ERROR)


def _settle(
    waiter: asyncio.Future[bytes | None] | asyncio.Future[None], rest: object = None
) -> None:
    if not waiter.done():
        waiter.set_result(rest)  # type: ignore[arg-type]


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())
