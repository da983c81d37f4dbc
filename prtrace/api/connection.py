"""One connection: messages in, one call at a time, replies out, and a deadline for everything.

A message is JSON and a NUL.  A peer that sends too much, nothing, half a message or garbage,
or that does not read, loses its connection; nobody else notices.
"""

from __future__ import annotations

import asyncio
import enum
import select
from typing import Final, Protocol, cast

from prtrace.api.calls import Call, Calls, Refusal
from prtrace.api.interface import Fault
from prtrace.api.stream import Sink, Stream
from prtrace.linux.peer import Peer

_HIGH_WATER: Final = 256 << 10


class Deadline(enum.Enum):
    """What a connection is waiting for, and for how many seconds at most."""

    PARTIAL = 5.0
    """The rest of a message, from its first byte."""
    STALLED = 30.0
    """The peer to read a reply."""
    IDLE = 600.0
    """A call."""


class Service(Protocol):
    """The server, as far as a connection needs it."""

    calls: Calls

    def answer(self, call: Call) -> bytes:
        """The reply to a call that has one; Refusal for an error."""

    def open_stream(self, call: Call, sink: Sink) -> Stream | None:
        """The stream or job that call asks for, None where it is answered at once."""

    def close_stream(self, stream: Stream) -> None:
        """The stream has ended or its connection is gone."""

    def closed(self, connection: Connection) -> None:
        """The connection is gone."""


class Connection(asyncio.Protocol):
    """A peer's connection, from the accepted socket to its end."""

    def __init__(self, service: Service, peer: Peer) -> None:
        self.peer = peer
        self._service = service
        self._received = bytearray()
        self._scanned = 0
        self._stream: Stream | None = None
        self._longest = service.calls.longest(peer)
        self._full = False
        self._eof = False
        self._deadline: Deadline | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)
        self._wait()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) > self._longest:
            self._transport.pause_reading()
        self._work()

    def eof_received(self) -> bool:
        """A peer that has sent all its calls may still want the replies."""
        self._eof = True
        if _hung_up(self._transport.get_extra_info("socket").fileno()):
            return False
        return self._stream is not None or b"\0" in self._received

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._stream is not None:
            self._stream.stop()
            self._service.close_stream(self._stream)
        self._service.closed(self)

    def pause_writing(self) -> None:
        self._full = True
        self._wait()

    def resume_writing(self) -> None:
        self._full = False
        if self._stream is not None:
            self._stream.pump()
        self._work()

    def write(self, message: bytes) -> None:
        """Send message, after what waits to be sent."""
        if not self._transport.is_closing():
            self._transport.write(message)

    def waiting(self) -> int:
        """How many bytes wait to be sent."""
        return self._transport.get_write_buffer_size()

    def full(self) -> bool:
        """Whether so many wait that stored events should wait, too."""
        return self._full

    def finished(self, stream: Stream) -> None:
        """The stream has sent its last reply."""
        self._stream = None
        self._service.close_stream(stream)
        asyncio.get_running_loop().call_soon(self._work)

    def abort(self) -> None:
        """Close at once; what waits to be sent is dropped."""
        self._transport.abort()

    def _work(self) -> None:
        """Answer one call, where one is there and its turn has come."""
        if self._stream is None and not self._full and not self._transport.is_closing():
            end = self._received.find(0, self._scanned)
            self._scanned = len(self._received) if end < 0 else 0
            if end >= self._longest or (end < 0 and self._scanned >= self._longest):
                self._refuse_length()
                return
            if end >= 0:
                message = bytes(self._received[:end])
                del self._received[: end + 1]
                self._deadline = None
                self._answer(message)
                # One at a time, so that a peer with many calls delays nobody else's.
                asyncio.get_running_loop().call_soon(self._work)
            elif self._eof:
                self._transport.close()
        if len(self._received) <= self._longest and not self._eof:
            self._transport.resume_reading()
        self._wait()

    def _answer(self, message: bytes) -> None:
        try:
            call = self._service.calls.parse(message, self.peer)
            self._stream = self._service.open_stream(call, self)
            if self._stream is not None:
                self._stream.pump()
                return
            reply = self._service.answer(call)
        except Refusal as refusal:
            self.write(refusal.reply)
            return
        if not call.oneway:
            self.write(reply)

    def _refuse_length(self) -> None:
        text = f"a call has at most {self._longest} bytes"
        refused = Refusal(Fault.INVALID_ARGUMENT, {"message": text, "hint": ""})
        self.write(refused.reply)
        self._transport.close()

    def _wait(self) -> None:
        """Set the deadline for what is waited for now; one that runs for it goes on."""
        wanted = self._waiting_for()
        if wanted is self._deadline and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._deadline = wanted
        if wanted is not None and not self._transport.is_closing():
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(wanted.value, self._transport.abort)

    def _waiting_for(self) -> Deadline | None:
        if self._stream is not None:
            # A follower may be slow: what waits for it is bounded by its stream.
            return Deadline.STALLED if self._full and not self._stream.live else None
        if self._full:
            return Deadline.STALLED
        return Deadline.PARTIAL if self._received else Deadline.IDLE


def _hung_up(fd: int) -> bool:
    """Whether the peer has closed its end, not only for sending."""
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(0))
