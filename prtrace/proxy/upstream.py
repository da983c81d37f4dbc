"""Somebody else executes: a qemu-pr-helper behind the proxy, one connection for each client.

What was sent and not answered has an unknown outcome.  It is never sent again, and the client is
told nothing: its connection closes, as it does when its own helper dies.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Final

from prtrace.errors import MalformedError
from prtrace.prhelper import fds
from prtrace.prhelper.wire import CLEANUP, FEATURE_CLEANUP, ClientSession, Request, Response
from prtrace.proxy.descriptor import Node
from prtrace.proxy.execution import NotSentError, OutcomeUnknownError
from prtrace.proxy.guests import peer
from prtrace.scsi.codes import Status

CONNECT_SECONDS: Final = 5.0
REPLY_SECONDS: Final = 120.0
"""Longer than the helper's command takes, error handling included."""


class UpstreamExecution:
    """A client's connection to the helper, made when the first command needs it."""

    own = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sock: socket.socket | None = None
        self._session = ClientSession()
        self._pid = 0

    def execute(self, request: Request, fd: int, node: Node) -> Response:
        """Pass it on, and the descriptor with it; wait for the answer."""
        sock = self._connection()
        if request.opcode == CLEANUP and not (self._session.features or 0) & FEATURE_CLEANUP:
            return Response(Status.GOOD)
        try:
            return self._exchange(sock, request, fd)
        except (OSError, MalformedError) as error:
            self.close()
            raise OutcomeUnknownError(
                f"the helper at {self._path} did not answer a command on {node.number}: {error}"
            ) from error

    def issuer(self) -> int:
        """The helper's process; with socket activation it is whoever made the socket."""
        return self._pid

    def close(self) -> None:
        """End the connection."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def connect(self) -> None:
        """Make sure that there is a connection; NotSentError where none can be had."""
        self._connection()

    def _connection(self) -> socket.socket:
        if self._sock is not None and _ended(self._sock):
            self.close()
        if self._sock is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self._greet(sock)
            except (OSError, MalformedError) as error:
                sock.close()
                raise NotSentError(f"no helper answers at {self._path}: {error}") from error
            self._sock = sock
        return self._sock

    def _greet(self, sock: socket.socket) -> None:
        deadline = time.monotonic() + CONNECT_SECONDS
        sock.settimeout(CONNECT_SECONDS)
        sock.connect(str(self._path))
        self._session = ClientSession()
        while self._session.wanted:
            self._session.feed(_receive(sock, self._session.wanted, deadline))
        sock.sendall(self._session.greet(FEATURE_CLEANUP))
        self._pid, _ = peer(sock)

    def _exchange(self, sock: socket.socket, request: Request, fd: int) -> Response:
        deadline = time.monotonic() + REPLY_SECONDS
        message = self._session.send(request)
        sock.settimeout(CONNECT_SECONDS)
        # The helper reads the CDB and the list in two steps, and takes descriptors in the first
        # one only, so the list must not be in the same message.
        sent = fds.send(sock, request.cdb, fd)
        sock.sendall(message[sent:])
        while True:
            response = self._session.feed(_receive(sock, self._session.wanted, deadline))
            if response is not None:
                return response


def _receive(sock: socket.socket, size: int, deadline: float) -> bytes:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer in time")
    sock.settimeout(left)
    data = sock.recv(size)
    if not data:
        raise ConnectionResetError("it closed the connection")
    return data


def _ended(sock: socket.socket) -> bool:
    """Whether the helper closed while nothing was owed: it was restarted, say."""
    # MSG_DONTWAIT would not do: with a timeout, Python waits that long after EAGAIN.
    sock.setblocking(False)
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True  # the end, or bytes that nobody asked for
