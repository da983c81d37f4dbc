"""One client's conversation, on a thread of its own: bytes in, the command out, the reply back.

Whatever may wait (the client, a device, a descriptor's close) waits on this thread, and so holds
up nobody but the client itself.  The kernel keeps the deadlines (SO_RCVTIMEO, SO_SNDTIMEO).
"""

from __future__ import annotations

import logging
import select
import socket
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prtrace.errors import MalformedError, PrtraceError
from prtrace.prhelper.answer import INVALID_OPCODE, IO_ERROR, check
from prtrace.prhelper.descriptor import Inspector, Node, read_only
from prtrace.prhelper.fds import OwnedFd, receive
from prtrace.prhelper.protocol import (
    FEATURE_CLEANUP,
    Request,
    Response,
    ServerSession,
)
from prtrace.scsi.codes import Opcode

if TYPE_CHECKING:
    from prtrace.prhelper.broker import Broker
    from prtrace.prhelper.client import HelperClient
    from prtrace.prhelper.sparing_log import SparingLog

log = logging.getLogger("prtrace.prhelper")

GREETING_SECONDS: Final = 30.0
MESSAGE_SECONDS: Final = 5.0
"""From the first byte of a request to its last, and for the client to take a reply."""
_TIMEVAL: Final = struct.Struct("@ll")


# Arithmetic with enum members takes longer than the system call.
_NOSIGNAL: Final = int(socket.MSG_NOSIGNAL)


@dataclass(slots=True)
class Stop:
    """What all connections share."""

    stopping: bool = False
    """No command begins any more."""


class _GoneError(Exception):
    """The client has left, or did what ends a connection; the text is for the log."""


class HelperConnection:
    """An accepted connection; serve() is its thread's work from beginning to end."""

    __slots__ = (
        "_broker", "_fds", "_inspector", "_log", "_requester", "_session", "_sock", "_stop",
        "busy",
    )  # fmt: skip

    def __init__(
        self,
        broker: Broker,
        sock: socket.socket,
        client: HelperClient,
        stop: Stop,
        sparing: SparingLog,
    ) -> None:
        self._broker = broker
        self._sock = sock
        self._requester = broker.requester(client, self._has_gone)
        self._session = ServerSession(FEATURE_CLEANUP)
        self._fds: list[OwnedFd] = []
        self._inspector = Inspector()
        self._stop = stop
        self._log = sparing
        self.busy = False
        """Whether a command is under way; read by the thread that stops the server."""

    def serve(self) -> None:
        """Serve the client until it leaves; raises nothing."""
        try:
            self._sock.setblocking(True)
            self._expire(socket.SO_SNDTIMEO, MESSAGE_SECONDS)
            self._send(self._session.greeting)
            self._complete(time.monotonic() + GREETING_SECONDS)
            while True:
                request = self._take() or self._complete(time.monotonic() + MESSAGE_SECONDS)
                if request is not None:
                    self._answer(request, self._fds.pop())
        except (_GoneError, MalformedError, OSError) as error:
            log.debug("%s: %s %s", self._requester.client.title, type(error).__name__, error)
        except Exception as error:
            # A fault of the proxy must not leave the client waiting for an answer for ever.
            kind = type(error).__name__
            log.debug("the fault", exc_info=error)
            self._log.say(
                logging.ERROR, f"fault {kind}",
                f"{self._requester.client.title}: its connection ends by a fault of prtrace:"
                f" {kind}: {error}",
            )  # fmt: skip
        finally:
            self.busy = False
            self._sock.close()
            self._requester.close()
            # Last: close() of a file that a hostile client made need not return.
            for fd in self._fds:
                fd.close()

    def _take(self, flags: int = 0) -> Request | None:
        """Receive once, at most to the end of the message under way."""
        session = self._session
        if not session.takes_descriptor:
            # Without a control buffer the kernel drops descriptors, as it does for the helper.
            data = self._sock.recv(session.wanted, flags)
            if not data:
                raise _GoneError("closed")
            return session.feed(data)
        data, fds, lost = receive(self._sock, session.wanted, flags)
        self._fds += fds
        if lost:
            raise _GoneError("a descriptor did not arrive")
        if not data:
            raise _GoneError("closed")
        return session.feed(data, len(fds))

    def _complete(self, deadline: float) -> Request | None:
        """Receive the rest of the message under way; the request, None after the greeting.

        Raises _GoneError where the deadline (of time.monotonic) passes first.
        """
        greeted = self._session.greeted
        try:
            while (left := deadline - time.monotonic()) > 0:
                self._expire(socket.SO_RCVTIMEO, left)
                request = self._take(socket.MSG_WAITALL)
                if request is not None or self._session.greeted is not greeted:
                    # Between two requests the client may be silent as long as it likes.
                    self._expire(socket.SO_RCVTIMEO, 0)
                    return request
        except BlockingIOError:
            pass
        raise _GoneError("too slow")

    def _answer(self, request: Request, fd: OwnedFd) -> None:
        try:
            node = self._device(request, fd.fd)
            if isinstance(node, Response):
                self._send(self._session.reply(node))
                return
            self.busy = True
            # The thread that stops the server sets stopping and then looks at busy.
            if self._stop.stopping:
                raise _GoneError("the proxy stops")

            def tell(response: Response) -> None:
                # A device is closed before its client knows, which may want to remove it.
                fd.close()
                self._send(self._session.reply(response))

            if not self._broker.carry_out(self._requester, request, fd.fd, node, tell):
                raise _GoneError("there is no answer for it")
            self.busy = False
        finally:
            fd.close()
        if self._stop.stopping:
            raise _GoneError("the proxy stops")

    def _device(self, request: Request, fd: int) -> Node | Response:
        """The device, or what the helper says of a descriptor that no command can go through."""
        if request.cdb[0] != Opcode.PR_IN and read_only(fd):
            return check(INVALID_OPCODE)
        try:
            return self._inspector.node_of(fd)
        except PrtraceError:
            return check(IO_ERROR)

    def _send(self, data: bytes) -> None:
        try:
            left = data[self._sock.send(data, _NOSIGNAL) :]
            deadline = time.monotonic() + MESSAGE_SECONDS if left else 0
            while left:
                left = left[self._sock.send(left, _NOSIGNAL) :]
                if time.monotonic() >= deadline:
                    raise _GoneError("takes no reply")
        except BlockingIOError:
            raise _GoneError("takes no reply") from None

    def _expire(self, option: int, seconds: float) -> None:
        """Have the kernel end what waits for longer; 0: it may wait for ever."""
        whole = int(seconds)
        self._sock.setsockopt(
            socket.SOL_SOCKET, option, _TIMEVAL.pack(whole, int((seconds - whole) * 1_000_000))
        )

    def _has_gone(self) -> bool:
        """Whether the client has closed its end, not only for sending."""
        poll = select.poll()
        poll.register(self._sock, 0)
        return any(events & select.POLLHUP for _, events in poll.poll(0))
