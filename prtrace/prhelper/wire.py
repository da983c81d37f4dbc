"""Both ends of the qemu-pr-helper protocol, as state machines over bytes (pure).

QEMU docs/interop/pr-helper.rst and scsi/qemu-pr-helper.c.  All integers are big-endian.
Greeting: the helper sends 4 bytes of the features it offers, the client 4 bytes of those it
wants.  Request: 16 bytes of CDB, one descriptor with any of them; then, for PERSISTENT RESERVE
OUT, the parameter list.  Its length, and the allocation length of PERSISTENT RESERVE IN, are
CDB bytes 7-8.  Reply: 0-3 SCSI status; 4-7 length of the data; 8-103 sense data; then the data.

A session never takes a byte that lies behind the message it waits for: the owner of the socket
reads no more than `wanted` bytes, so that a request sent early stays in the socket, where the
kernel bounds it and keeps its descriptor with it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from prtrace.errors import MalformedError, UsageError
from prtrace.scsi.codes import Opcode, Status

CDB_SIZE: Final = 16
SENSE_SIZE: Final = 96
DATA_SIZE: Final = 8192
"""The longest parameter list and the longest reply, in bytes."""

FEATURE_CLEANUP: Final = 1 << 0
CLEANUP: Final = 0xFF
"""Operation code that is none of SCSI's: the client's device goes away, drop its registration."""

_REQUEST: Final = "pr-helper request"
_ANSWER: Final = "pr-helper reply"
# Not construct: these are on every command's way, and flat.
_WORD: Final = struct.Struct(">I")
_REPLY: Final = struct.Struct(f">ii{SENSE_SIZE}s")
"""Status, length of the data, sense data."""
REPLY_HEADER: Final = _REPLY.size


@dataclass(frozen=True, slots=True)
class Request:
    """One command of a client.  cdb has 16 bytes; parameter is the list, b"" but for PR OUT.

    allocation_length: the most data the client takes, 0 but for PR IN.
    """

    cdb: bytes
    parameter: bytes = b""
    allocation_length: int = 0

    @property
    def opcode(self) -> int:
        """PERSISTENT RESERVE IN, OUT or CLEANUP."""
        return self.cdb[0]

    @property
    def action(self) -> int:
        """The service action."""
        return self.cdb[1] & 0x1F

    def build(self) -> bytes:
        """What goes over the socket."""
        return self.cdb + self.parameter


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to a request.  sense is as long as it came, data is there with GOOD only."""

    status: int
    sense: bytes = b""
    data: bytes = b""

    def build(self, request: Request) -> bytes:
        """104 bytes and the data, cut to what the client has room for.

        QEMU ends the guest's process on a reply with more, or with data for PR OUT.
        """
        data = b""
        if self.status == Status.GOOD:
            data = self.data[: request.allocation_length]
        return _REPLY.pack(self.status, len(data), self.sense[:SENSE_SIZE]) + data


class ServerSession:
    """The helper's end: feed it what arrives, answer each Request with reply()."""

    __slots__ = ("_buffer", "_cdb", "_greeted", "_offered", "_request", "descriptor")

    def __init__(self, offered: int) -> None:
        self._offered = offered
        self._buffer = bytearray()
        self._greeted = False
        self._cdb = b""
        self._request: Request | None = None
        self.descriptor = False

    @property
    def greeting(self) -> bytes:
        """The first bytes to send."""
        return _WORD.pack(self._offered)

    @property
    def greeted(self) -> bool:
        """Whether the client's half of the greeting is in."""
        return self._greeted

    @property
    def idle(self) -> bool:
        """Whether no message has begun."""
        return not self._buffer and not self._cdb

    @property
    def takes_descriptor(self) -> bool:
        """Whether a descriptor that arrives now belongs to a request: with its CDB only.

        As with the helper, one that comes with the greeting or the list is dropped unseen.
        """
        return self._greeted and not self._cdb

    @property
    def wanted(self) -> int:
        """How many bytes the message under way still lacks; 0 while a reply is owed."""
        return self._lacks()

    def _lacks(self) -> int:
        return 0 if self._request is not None else self._size() - len(self._buffer)

    def _size(self) -> int:
        if not self._greeted:
            return _WORD.size
        return _length(self._cdb) if self._cdb else CDB_SIZE

    def feed(self, data: bytes, descriptors: int = 0) -> Request | None:
        """Take what arrived; return the request that it completes, if it completes one.

        Raises MalformedError where the client broke the protocol: then close the connection.
        """
        if len(data) > self.wanted:
            raise UsageError(f"{len(data)} bytes fed, {self.wanted} wanted")
        if self.takes_descriptor and descriptors:
            if descriptors > 1 or self.descriptor:
                raise MalformedError(_REQUEST, "has more than one descriptor")
            self.descriptor = True
        self._buffer += data
        if self._lacks():
            return None
        message = bytes(self._buffer)
        self._buffer.clear()
        if not self._greeted:
            (asked,) = _WORD.unpack(message)
            if asked & ~self._offered:
                raise MalformedError("pr-helper greeting", f"asks for features {asked:#x}")
            self._greeted = True
            return None
        if not self._cdb:
            self._take_cdb(message)
            if self._lacks():
                return None
            message = b""
        out = self._cdb[0] == Opcode.PR_OUT
        room = _transfer(self._cdb) if self._cdb[0] == Opcode.PR_IN else 0
        self._request = Request(self._cdb, message if out else b"", room)
        return self._request

    def reply(self, response: Response) -> bytes:
        """What to send for the request that feed() returned; the next one may come then."""
        if self._request is None:
            raise UsageError("no request waits for a reply")
        answer = response.build(self._request)
        self._request = None
        self._cdb = b""
        self.descriptor = False
        return answer

    def _take_cdb(self, cdb: bytes) -> None:
        if not self.descriptor:
            raise MalformedError(_REQUEST, "has no descriptor")
        if cdb[0] not in (Opcode.PR_IN, Opcode.PR_OUT, CLEANUP):
            raise MalformedError(_REQUEST, f"has operation code {cdb[0]:#04x}")
        if _transfer(cdb) > DATA_SIZE:
            raise MalformedError(_REQUEST, f"transfers {_transfer(cdb)} bytes")
        self._cdb = cdb


class ClientSession:
    """The client's end, towards a helper that executes: one request at a time."""

    __slots__ = ("_buffer", "_header", "_request", "features")

    def __init__(self) -> None:
        self.features: int | None = None
        self._buffer = bytearray()
        self._request: Request | None = None
        self._header: tuple[int, int, bytes] | None = None

    @property
    def wanted(self) -> int:
        """How many bytes the message under way still lacks; 0 where none is due."""
        return self._lacks()

    def _lacks(self) -> int:
        if self.features is None:
            return _WORD.size - len(self._buffer)
        if self._request is None:
            return 0
        size = REPLY_HEADER if self._header is None else self._header[1]
        return size - len(self._buffer)

    def greet(self, wanted: int) -> bytes:
        """The answer to the greeting: those of the wanted features that are on offer."""
        return _WORD.pack(wanted & (self.features or 0))

    def send(self, request: Request) -> bytes:
        """What to send; the descriptor goes with its first byte."""
        if self.features is None or self._request is not None:
            raise UsageError("a request before the greeting or before the last reply")
        self._request = request
        return request.build()

    def feed(self, data: bytes) -> Response | None:
        """Take what arrived; return the reply that it completes, if it completes one.

        Raises MalformedError for a reply that no helper may give.
        """
        if len(data) > self.wanted:
            raise UsageError(f"{len(data)} bytes fed, {self.wanted} wanted")
        self._buffer += data
        if self.features is None:
            if not self._lacks():
                (self.features,) = _WORD.unpack(self._take())
            return None
        if self._request is None or self._lacks():
            return None
        if self._header is None:
            status, size, sense = _REPLY.unpack(self._take())
            self._check(status, size)
            self._header = (status, size, sense)
            if self._lacks():
                return None
        status, _, sense = self._header
        response = Response(status, sense, self._take())
        self._request = self._header = None
        return response

    def _take(self) -> bytes:
        taken = bytes(self._buffer)
        self._buffer.clear()
        return taken

    def _check(self, status: int, size: int) -> None:
        if not 0 <= status <= 0xFF:
            raise MalformedError(_ANSWER, f"has status {status}")
        room = 0
        if self._request is not None and status == Status.GOOD:
            room = self._request.allocation_length
        if not 0 <= size <= room:
            raise MalformedError(_ANSWER, f"has {size} bytes of data, there is room for {room}")


def _transfer(cdb: bytes) -> int:
    """Bytes 7-8, which is all that QEMU's helper looks at (PR OUT has its length in 5-8)."""
    return 0 if cdb[0] == CLEANUP else int.from_bytes(cdb[7:9], "big")


def _length(cdb: bytes) -> int:
    """How many bytes follow the CDB."""
    return _transfer(cdb) if cdb[0] == Opcode.PR_OUT else 0
