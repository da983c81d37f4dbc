"""Somebody else executes: a qemu-pr-helper behind the proxy, one connection for each client.

What was sent and not answered has an unknown outcome.  It is never sent again, and the client is
told nothing: its connection closes, as it does when its own helper dies.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from pathlib import Path
from typing import Final

from prtrace.errors import MalformedError, UsageError
from prtrace.linux.peer import Peer
from prtrace.prhelper import fds
from prtrace.prhelper.descriptor import Node
from prtrace.prhelper.execution import NotSentError, OutcomeUnknownError
from prtrace.prhelper.protocol import (
    CLEANUP,
    FEATURE_CLEANUP,
    REPLY_HEADER,
    ClientSession,
    Request,
    Response,
)
from prtrace.scsi.codes import Status
from prtrace.scsi.sense import UNIT_ATTENTION, Sense

CONNECT_SECONDS: Final = 5.0
REPLY_SECONDS: Final = 120.0
"""Longer than the helper's command takes, error handling included."""
_TIMEVAL: Final = struct.Struct("@ll")
_RESET: Final = 0x29
"""The additional sense code of every reset."""


class UpstreamExecution:
    """A client's connection to the helper, made when the first command needs it."""

    own = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sock: socket.socket | None = None
        self._session = ClientSession()
        self._poll = select.poll()
        self._pid = 0

    def execute(self, request: Request, fd: int, node: Node) -> Response:
        """Pass it on, and the descriptor with it; wait for the answer."""
        sock = self._sock
        if sock is None:
            raise UsageError("a command that was not prepared for")
        if request.opcode == CLEANUP and not (self._session.features or 0) & FEATURE_CLEANUP:
            return Response(Status.GOOD)
        try:
            response = self._exchange(sock, request, fd)
            return response if response.status == Status.GOOD else told_by_helper(response)
        except (OSError, MalformedError) as error:
            self.close()
            raise OutcomeUnknownError(
                f"the helper at {self._path} did not answer a command on {node.number}: {error}"
            ) from error

    def prepare(self) -> int:
        """Make sure that there is a connection; NotSentError where none can be had.

        The helper's process; with socket activation it is whoever made the socket.
        """
        self._connection()
        return self._pid

    def close(self) -> None:
        """End the connection."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _connection(self) -> socket.socket:
        # The end, or bytes that nobody asked for: it was restarted, say.
        if self._sock is not None and self._poll.poll(0):
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
        self._pid = Peer.of(sock).pid
        # From now on the kernel keeps the time, without a poll(2) before each call.
        sock.settimeout(None)
        for option, seconds in (
            (socket.SO_SNDTIMEO, CONNECT_SECONDS),
            (socket.SO_RCVTIMEO, REPLY_SECONDS),
        ):
            sock.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(int(seconds), 0))
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def _exchange(self, sock: socket.socket, request: Request, fd: int) -> Response:
        deadline = time.monotonic() + REPLY_SECONDS
        message = self._session.send(request)
        # The helper reads the CDB and the list in two steps, and takes descriptors in the first
        # one only, so the list must not be in the same message.
        sent = fds.send(sock, request.cdb, fd)
        if sent < len(message):
            sock.sendall(message[sent:])
        while True:
            # Nothing but this one reply can come.
            data = sock.recv(REPLY_HEADER + request.allocation_length)
            if not data:
                raise ConnectionResetError("it closed the connection")
            while data:
                wanted = self._session.wanted
                response = self._session.feed(data[:wanted])
                data = data[wanted:]
                if response is not None:
                    if data:
                        raise MalformedError("pr-helper reply", "is longer than it says")
                    return response
            if time.monotonic() > deadline:
                raise TimeoutError("no answer in time")


def told_by_helper(response: Response) -> Response:
    """The helper's answer, unsure where it may be what it makes of a fault of the transport.

    scsi/utils.c of QEMU, scsi_sense_from_host_status and scsi_sense_from_errno: BUSY for
    DID_BUS_BUSY and timeouts, TASK SET FULL for EDOM, a unit attention of a reset for DID_RESET.
    """
    unsure = response.status in (Status.BUSY, Status.TASK_SET_FULL)
    if response.status == Status.CHECK_CONDITION:
        with contextlib.suppress(MalformedError):
            sense = Sense.parse(response.sense)
            unsure = (sense.key, sense.asc) == (UNIT_ATTENTION, _RESET)
    return response._replace(unsure=unsure)


def _receive(sock: socket.socket, size: int, deadline: float) -> bytes:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer in time")
    sock.settimeout(left)
    data = sock.recv(size)
    if not data:
        raise ConnectionResetError("it closed the connection")
    return data
