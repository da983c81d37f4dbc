"""One client's conversation: its bytes in, requests to the device's lane, replies out.

The event loop reads; the lane's thread executes and sends the reply itself.  In the ordinary case
the loop does nothing more for a request: it looks at the connection again when the client's next
bytes arrive.  Only what did not go as ordinary is handed back to it: a reply that found no room,
a command without an answer, bytes that came before the reply was out.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from typing import TYPE_CHECKING, Final

from prtrace.errors import DeviceError, MalformedError
from prtrace.prhelper.answer import INVALID_OPCODE, IO_ERROR, check
from prtrace.prhelper.descriptor import Node, node_of, read_only
from prtrace.prhelper.fds import OwnedFd, receive
from prtrace.prhelper.wire import CLEANUP, FEATURE_CLEANUP, Request, Response, ServerSession
from prtrace.scsi.codes import Opcode, Status

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable
    from typing import Protocol

    from prtrace.prhelper.anteroom import Anteroom
    from prtrace.prhelper.deadlines import Deadlines
    from prtrace.prhelper.lanes import Lanes
    from prtrace.prhelper.passage import Client, Passage

    class Server(Protocol):
        """What a connection needs of the service; stopping: it is to end when all are calm."""

        passage: Passage
        lanes: Lanes
        anteroom: Anteroom
        deadlines: Deadlines
        stopping: bool

        def close(self, client: Client, fd: OwnedFd) -> None: ...
        def overdrawn(self, client: Client) -> bool: ...
        def calmed(self) -> None: ...
        def farewell(self, connection: Connection, fds: Iterable[OwnedFd]) -> None: ...


log = logging.getLogger("prtrace.prhelper")

GREETING_SECONDS: Final = 30.0
MESSAGE_SECONDS: Final = 5.0
"""From the first byte of a request to its last, and for the client to take a reply."""


class _GoneError(Exception):
    """The client closed, or did what ends a connection; the text is for the log."""


class Connection:
    """Everything but _carry_out and _tell runs on the event loop's thread."""

    __slots__ = (
        "_fds", "_loop", "_paused", "_seconds", "_server", "_session", "_slow", "_sock",
        "_unsent", "_work", "_writing", "client",
    )  # fmt: skip

    def __init__(
        self, server: Server, loop: asyncio.AbstractEventLoop, sock: socket.socket, client: Client
    ) -> None:
        self._server = server
        self._loop = loop
        self._sock = sock
        self.client = client
        self._session = ServerSession(FEATURE_CLEANUP)
        self._fds: list[OwnedFd] = []
        # Of the deadline that is set, 0 for none.
        self._seconds = 0.0
        # In the anteroom: before the greeting, and while half of something is here.
        self._slow = True
        # Not listening; and a reply waits for room.
        self._paused = self._writing = False
        # The request that is on its lane; None again when its reply is out.
        self._work: tuple[Request, OwnedFd, Node] | None = None
        # What of its reply found no room.
        self._unsent = b""

    @property
    def busy(self) -> bool:
        """Whether a command is under way."""
        return self._work is not None

    def start(self) -> None:
        """Greet the client and listen to it."""
        self._server.anteroom.add(self._sock.fileno(), self._readable)
        self._expire_in(GREETING_SECONDS)
        try:
            self._sock.send(self._session.greeting, socket.MSG_NOSIGNAL)
        except OSError as error:
            self.end(error)

    def end(self, why: Exception) -> None:
        """Close the connection; a second call does nothing."""
        number = self._sock.fileno()
        if number < 0:
            return
        log.debug("pid %d: %s %s", self.client.pid, type(why).__name__, why)
        if self._slow:
            self._server.anteroom.remove(number)
        else:
            self._loop.remove_reader(number)
        self._loop.remove_writer(number)
        self._in_time()
        self._sock.close()
        self.client.execution.close()
        self._server.farewell(self, self._fds)

    def expire(self) -> None:
        """The client took too long."""
        self._seconds = 0.0
        self.end(TimeoutError("too slow"))

    def _readable(self) -> None:
        if self.busy:
            # Bytes before the reply, or the end: look again when the reply is out.
            self._loop.remove_reader(self._sock.fileno())
            self._paused = True
            # The lane looks at _paused after it has cleared _work; now one of both has seen it.
            if self._work is None:
                self._resume()
            return
        session = self._session
        try:
            while True:
                request = self._take()
                if request is not None:
                    self._in_time()
                    self._sort(slow=False)
                    self._answer(request)
                    return
                if session.greeted and session.idle:
                    self._in_time()
        except BlockingIOError:
            self._sort(slow=session.split or not session.greeted)
            # Between two requests the client may be silent as long as it likes.
            if not self._seconds and not session.idle:
                self._expire_in(MESSAGE_SECONDS)
        except (_GoneError, MalformedError, OSError) as error:
            self.end(error)

    def _sort(self, *, slow: bool) -> None:
        """Listen to the client where it belongs now."""
        if slow is self._slow:
            return
        self._slow = slow
        number = self._sock.fileno()
        if slow:
            self._loop.remove_reader(number)
            self._server.anteroom.add(number, self._readable)
        else:
            self._server.anteroom.remove(number)
            self._loop.add_reader(number, self._readable)

    def _take(self) -> Request | None:
        session = self._session
        if not session.takes_descriptor:
            # Without a control buffer the kernel drops descriptors, as it does for the helper.
            data = self._sock.recv(session.wanted)
            if not data:
                raise _GoneError("closed")
            return session.feed(data)
        data, fds, surplus = receive(self._sock, session.wanted)
        self._fds += fds
        if not data:
            raise _GoneError("closed")
        return session.feed(data, len(fds) + surplus)

    def _answer(self, request: Request) -> None:
        fd = self._fds.pop()
        try:
            node = _device(request, fd.fd)
        except OSError as error:
            self._server.close(self.client, fd)
            raise _GoneError(str(error)) from error
        if isinstance(node, Response):
            self._server.close(self.client, fd)
            if self._server.overdrawn(self.client):
                raise _GoneError("its descriptors do not let themselves be closed")
            self._send(self._session.reply(node))
            return
        self._work = request, fd, node
        if not self._server.lanes.submit((node.block, node.number), self._carry_out):
            self._work = None
            self._server.close(self.client, fd)
            self._send(self._session.reply(Response(Status.BUSY)))

    def _carry_out(self) -> None:
        """On the lane's thread: the whole way of one request."""
        if self._work is None:
            return
        request, fd, node = self._work
        answered = False
        try:
            with fd:
                answered = self._server.passage.carry_out(
                    self.client, request, fd.fd, node, self._tell
                )
        except OSError as error:
            log.debug("a reply found no taker: %s", error)
        finally:
            # Once it is answered, the next request may be on its way already.
            if not answered:
                self._hand_back(self._fail)

    def _tell(self, response: Response) -> None:
        """On the lane's thread: send the reply.  Raises OSError where nobody takes it."""
        if self._work is None:
            return
        self._work[1].close()
        data = self._session.reply(response)
        try:
            rest = data[self._sock.send(data, socket.MSG_NOSIGNAL) :]
        except BlockingIOError:
            rest = data
        if rest:
            self._unsent = rest
            self._hand_back(self._resume)
            return
        self._work = None
        if self._paused or self._server.stopping:
            self._hand_back(self._resume)

    def _hand_back(self, what: Callable[[], None]) -> None:
        # The loop is closed where the program ends with a device that does not answer.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(what)

    def _fail(self) -> None:
        """The lane is done, and has no answer."""
        self._work = None
        self.end(_GoneError("no answer for it"))
        self._server.calmed()

    def _resume(self) -> None:
        """The lane is done, and something is left to do."""
        if self._unsent:
            rest, self._unsent, self._work = self._unsent, b"", None
            self._send(rest)
        elif self._paused and not self._writing and self._work is None:
            self._listen()
        self._server.calmed()

    def _send(self, data: bytes) -> None:
        """Send a reply, now or when the client has room for it; no reading meanwhile."""
        if self._sock.fileno() < 0:
            return
        try:
            data = data[self._sock.send(data, socket.MSG_NOSIGNAL) :]
        except BlockingIOError:
            pass
        except OSError as error:
            self.end(error)
            return
        number = self._sock.fileno()
        if data:
            self._loop.remove_reader(number)
            self._paused = self._writing = True
            self._loop.add_writer(number, self._send, data)
            if not self._seconds:
                self._expire_in(MESSAGE_SECONDS)
            return
        self._in_time()
        if self._writing:
            self._writing = False
            self._loop.remove_writer(number)
        if self._paused:
            self._listen()

    def _listen(self) -> None:
        if self._sock.fileno() < 0:
            return
        self._paused = False
        self._loop.add_reader(self._sock.fileno(), self._readable)

    def _expire_in(self, seconds: float) -> None:
        self._seconds = seconds
        self._server.deadlines.set(self, seconds)

    def _in_time(self) -> None:
        if self._seconds:
            self._server.deadlines.drop(self, self._seconds)
            self._seconds = 0.0


def _device(request: Request, fd: int) -> Node | Response:
    """The device, or what the helper says of a descriptor that no command can go through."""
    if request.cdb[0] in (Opcode.PR_OUT, CLEANUP) and read_only(fd):
        return check(INVALID_OPCODE)
    try:
        return node_of(fd)
    except (MalformedError, DeviceError):
        return check(IO_ERROR)
