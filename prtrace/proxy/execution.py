"""A request becomes a command: by SG_IO on the client's own descriptor.

The CDB goes down as the client sent it, 16 bytes, and a reply gets a buffer of 8 KiB whatever
the CDB says, as with QEMU's helper: LIO writes past a short allocation length (see sgio).  The
timeout is longer than the helper's, which asks for
1 ms and gets the kernel's minimum of 7 s: a PREEMPT AND ABORT may wait for the commands that it
aborts, and a timeout makes the kernel abort it and reset the unit.
"""

from __future__ import annotations

import os
from typing import Final, Protocol

from prtrace.errors import PrtraceError
from prtrace.prhelper.wire import CLEANUP, DATA_SIZE, Request, Response
from prtrace.proxy.answer import COMMUNICATION_FAILURE, check, of_errno, of_reply
from prtrace.proxy.descriptor import Node
from prtrace.proxy.multipath import MapExecution
from prtrace.scsi.codes import Opcode, Status
from prtrace.sgio import Reply, SgDevice

TIMEOUT_MS: Final = 30_000


class OutcomeUnknownError(PrtraceError):
    """A command was sent, or may have been, and nobody will ever say what became of it."""


class NotSentError(PrtraceError):
    """There is nobody to send the command to; nothing happened."""


class Execution(Protocol):
    """What executes the requests of one client; not used by two threads at a time.

    own: the proxy's threads issue the commands themselves.
    """

    own: bool

    def execute(self, request: Request, fd: int, node: Node) -> Response:
        """Raises OutcomeUnknownError and NotSentError: the client's connection ends then."""
        ...

    def issuer(self) -> int:
        """The pid of the process that issues the commands, 0 where unknown."""
        ...

    def close(self) -> None:
        """The client is gone."""
        ...


def send(fd: int, request: Request, name: str) -> Reply | int:
    """Send the request's command through an open node; an errno where SG_IO failed."""
    device = SgDevice.adopt(fd, name)
    try:
        if request.opcode == Opcode.PR_IN:
            return device.pr_in(request.cdb, DATA_SIZE, TIMEOUT_MS)
        return device.pr_out(request.cdb, request.parameter, TIMEOUT_MS)
    except PrtraceError as error:
        cause = error.__cause__
        return (cause.errno or 0) if isinstance(cause, OSError) else 0


class DirectExecution:
    """Without a helper: prtrace sends the commands.  One object serves all clients."""

    own = True

    def __init__(self) -> None:
        self._maps = MapExecution(send)

    def execute(self, request: Request, fd: int, node: Node) -> Response:
        """Send it and translate what comes back; a multipath map has its own rules."""
        if node.multipath:
            return self._maps.execute(request, fd, node)
        if request.opcode == CLEANUP:
            return Response(Status.GOOD)
        reply = send(fd, request, node.number)
        if isinstance(reply, int):
            return of_errno(reply) if reply else check(COMMUNICATION_FAILURE)
        return of_reply(reply)

    def issuer(self) -> int:
        """This process."""
        return os.getpid()

    def close(self) -> None:
        """Nothing belongs to one client."""
