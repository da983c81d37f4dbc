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
from typing import Final, NamedTuple

from prtrace.errors import MalformedError, UsageError
from prtrace.scsi.codes import Opcode, Status
from prtrace.scsi.forms import PR_IN_CDB, PR_OUT_CDB, SERVICE_ACTION

CDB_SIZE: Final = 16
SENSE_SIZE: Final = 96
DATA_SIZE: Final = 8192
"""The longest parameter list and the longest reply, in bytes."""

FEATURE_CLEANUP: Final = 1 << 0
CLEANUP: Final = 0xFF
"""An operation code of the protocol, not of SCSI: the client's device goes away, so that its
registration is to go."""

_OPCODES: Final = (Opcode.PR_IN, Opcode.PR_OUT, CLEANUP)
_ACTION_AT: Final = PR_OUT_CDB.offset("byte_1")
_TRANSFER_AT: Final = PR_IN_CDB.offset("allocation_length")
_TRANSFER_END: Final = _TRANSFER_AT + PR_IN_CDB.field("allocation_length").size
_REQUEST: Final = "pr-helper request"
_ANSWER: Final = "pr-helper reply"
_WORD: Final = struct.Struct(">I")
_REPLY: Final = struct.Struct(f">ii{SENSE_SIZE}s")
"""Status, length of the data, sense data."""
REPLY_HEADER: Final = _REPLY.size


class Request(NamedTuple):
    """One command of a client."""

    cdb: bytes
    """16 bytes."""
    parameter: bytes = b""
    """The parameter list, empty but for PERSISTENT RESERVE OUT."""
    allocation_length: int = 0
    """The most data that the client takes, in bytes; 0 but for PERSISTENT RESERVE IN."""

    @property
    def opcode(self) -> int:
        """PERSISTENT RESERVE IN, OUT or CLEANUP."""
        return self.cdb[0]

    @property
    def action(self) -> int:
        """The service action."""
        return self.cdb[_ACTION_AT] & SERVICE_ACTION

    @property
    def list_length(self) -> int:
        """PARAMETER LIST LENGTH of a PERSISTENT RESERVE OUT, all four bytes of it."""
        return int(PR_OUT_CDB.parse(self.cdb).parameter_list_length)

    def build(self) -> bytes:
        """What goes over the socket."""
        return self.cdb + self.parameter


class Response(NamedTuple):
    """The answer to a request."""

    status: int
    sense: bytes = b""
    """As long as it came."""
    data: bytes = b""
    """Sent with GOOD only."""
    unsure: bool = False
    """Whether the command may have been carried out, though the answer says that it was not."""

    def build(self, request: Request) -> bytes:
        """104 bytes and the data, cut to what the client has room for.

        QEMU ends the guest's process on a reply with more, or with data for PR OUT.
        """
        status, sense, data, _ = self
        if status != Status.GOOD:
            data = b""
        elif len(data) > request.allocation_length:
            data = data[: request.allocation_length]
        return _REPLY.pack(status, len(data), sense[:SENSE_SIZE]) + data


class ServerSession:
    """The helper's end: feed it what arrives, answer each Request with reply()."""

    __slots__ = (
        "_buffer", "_cdb", "_greeted", "_offered", "_owed", "descriptor", "takes_descriptor",
        "wanted",
    )  # fmt: skip

    def __init__(self, offered: int) -> None:
        self._offered = offered
        self._buffer = b""
        self._greeted = False
        self._cdb = b""
        self._owed: Request | None = None
        self.descriptor = False
        self.takes_descriptor = False
        """Whether a descriptor that arrives now belongs to a request: with its CDB only.

        As with the helper, one that comes with the greeting or the list is dropped unseen."""
        self.wanted = _WORD.size
        """How many bytes the message under way still lacks; 0 while a reply is owed."""

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
    def split(self) -> bool:
        """Whether the greeting, a CDB or a list is here in part; QEMU sends each in one piece."""
        return bool(self._buffer)

    def feed(self, data: bytes, descriptors: int = 0) -> Request | None:
        """Take what arrived; return the request that it completes, if it completes one.

        Raises MalformedError where the client broke the protocol: then close the connection.
        """
        left = self.wanted - len(data)
        if left < 0:
            raise UsageError(f"{len(data)} bytes fed, {self.wanted} wanted")
        if descriptors and self.takes_descriptor:
            if descriptors > 1 or self.descriptor:
                raise MalformedError(_REQUEST, "has more than one descriptor")
            self.descriptor = True
        if self._buffer:
            data = self._buffer + data
        if left:
            self._buffer, self.wanted = data, left
            return None
        self._buffer = b""
        if not self._greeted:
            self._greet(data)
            return None
        if self._cdb:
            return self._complete(data)
        return self._take_cdb(data)

    def _greet(self, word: bytes) -> None:
        (asked,) = _WORD.unpack(word)
        if asked & ~self._offered:
            raise MalformedError("pr-helper greeting", f"asks for features {asked:#x}")
        self._greeted = self.takes_descriptor = True
        self.wanted = CDB_SIZE

    def _take_cdb(self, cdb: bytes) -> Request | None:
        if not self.descriptor:
            raise MalformedError(_REQUEST, "has no descriptor")
        opcode = cdb[0]
        if opcode not in _OPCODES:
            raise MalformedError(_REQUEST, f"has operation code {opcode:#04x}")
        transfer = _transfer(cdb)
        if transfer > DATA_SIZE:
            raise MalformedError(_REQUEST, f"transfers {transfer} bytes")
        self._cdb = cdb
        self.takes_descriptor = False
        if opcode == Opcode.PR_OUT and transfer:
            self.wanted = transfer
            return None
        return self._complete(b"")

    def _complete(self, parameter: bytes) -> Request:
        cdb = self._cdb
        self.wanted = 0
        self._owed = Request(cdb, parameter, _transfer(cdb) if cdb[0] == Opcode.PR_IN else 0)
        return self._owed

    def reply(self, response: Response) -> bytes:
        """What to send for the request that feed() returned; the next one may come then."""
        if self._owed is None:
            raise UsageError("no request waits for a reply")
        answer = response.build(self._owed)
        self._owed = None
        self._cdb = b""
        self.descriptor = False
        self.takes_descriptor = True
        self.wanted = CDB_SIZE
        return answer


class ClientSession:
    """The client's end, towards a helper that executes: one request at a time."""

    __slots__ = ("_buffer", "_header", "_request", "features", "wanted")

    def __init__(self) -> None:
        self.features: int | None = None
        self._buffer = b""
        self._request: Request | None = None
        self._header: tuple[int, int, bytes] | None = None
        self.wanted = _WORD.size
        """How many bytes the message under way still lacks; 0 where none is due."""

    def greet(self, wanted: int) -> bytes:
        """The answer to the greeting: those of the wanted features that are on offer."""
        return _WORD.pack(wanted & (self.features or 0))

    def send(self, request: Request) -> bytes:
        """What to send; the descriptor goes with its first byte."""
        if self.features is None or self._request is not None:
            raise UsageError("a request before the greeting or before the last reply")
        self._request = request
        self.wanted = REPLY_HEADER
        return request.build()

    def feed(self, data: bytes) -> Response | None:
        """Take what arrived; return the reply that it completes, if it completes one.

        Raises MalformedError for a reply that no helper may give.
        """
        left = self.wanted - len(data)
        if left < 0:
            raise UsageError(f"{len(data)} bytes fed, {self.wanted} wanted")
        if self._buffer:
            data = self._buffer + data
        if left:
            self._buffer, self.wanted = data, left
            return None
        self._buffer = b""
        if self._request is None:
            if self.features is None:
                (self.features,) = _WORD.unpack(data)
                self.wanted = 0
            return None
        if self._header is None:
            status, size, sense = _REPLY.unpack(data)
            self._check(status, size)
            if size:
                self._header = (status, size, sense)
                self.wanted = size
                return None
            data = b""
        else:
            status, _, sense = self._header
        response = Response(status, sense, data)
        self._request = self._header = None
        self.wanted = 0
        return response

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
    if cdb[0] == CLEANUP:
        return 0
    return int.from_bytes(cdb[_TRANSFER_AT:_TRANSFER_END], "big")
