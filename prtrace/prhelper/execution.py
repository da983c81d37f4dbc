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
from prtrace.linux.sgio import Reply, SgIo
from prtrace.prhelper.answer import COMMUNICATION_FAILURE, check, of_errno, of_reply
from prtrace.prhelper.descriptor import Node
from prtrace.prhelper.multipath_execution import MapExecution
from prtrace.prhelper.protocol import CLEANUP, DATA_SIZE, Request, Response
from prtrace.scsi.codes import Opcode, Status

TIMEOUT_MS: Final = 30_000


class OutcomeUnknownError(PrtraceError):
    """A command was sent, or may have been, and nobody will ever say what became of it."""


class NotSentError(PrtraceError):
    """There is nobody to send the command to; nothing happened."""


class Execution(Protocol):
    """What executes the requests of one client; not used by two threads at a time."""

    own: bool
    """Whether the calling thread issues the commands itself."""

    def execute(self, request: Request, fd: int, node: Node) -> Response:
        """Raises OutcomeUnknownError: the client's connection ends then."""
        ...

    def prepare(self) -> int:
        """Get ready for a command; the pid of the process that will issue it, 0 where unknown.

        Raises NotSentError.
        """
        ...

    def close(self) -> None:
        """The client is gone."""
        ...


_free: Final[list[SgIo]] = []
"""Buffers that no command uses now: as many are made as commands run at a time."""


def send(fd: int, request: Request) -> Reply | int:
    """Send the request's command through an open node; an errno where SG_IO failed."""
    try:
        io = _free.pop()
    except IndexError:
        io = SgIo()
    room = request.allocation_length
    size = DATA_SIZE if request.cdb[0] == Opcode.PR_IN else 0
    try:
        return io.send(fd, request.cdb, request.parameter, room, TIMEOUT_MS, size)
    except OSError as error:
        return error.errno or 0
    finally:
        _free.append(io)


class DirectExecution:
    """Without a helper: prtrace sends the commands.  Of one client: what is owed is its own."""

    own = True

    def __init__(self) -> None:
        self._maps = MapExecution(send)
        self._pid = os.getpid()

    def execute(self, request: Request, fd: int, node: Node) -> Response:
        """Send it and translate what comes back; a multipath map has its own rules."""
        if node.multipath:
            return self._maps.execute(request, fd, node)
        if request.cdb[0] == CLEANUP:
            return Response(Status.GOOD)
        reply = send(fd, request)
        if isinstance(reply, int):
            return of_errno(reply) if reply else check(COMMUNICATION_FAILURE)
        return of_reply(reply)

    def prepare(self) -> int:
        """This process."""
        return self._pid

    def close(self) -> None:
        """Nothing belongs to one client."""
