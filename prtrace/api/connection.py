"""One connection: messages in, one call at a time, replies out, and a deadline for everything.

A message is JSON and a NUL.  A peer that sends too much, nothing, half a message or garbage,
or that does not read, loses its connection; nobody else notices.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import select
import socket
from collections.abc import Callable, Iterator
from typing import Final, Protocol, cast

from prtrace.api.calls import Call, Calls, Refusal, too_long
from prtrace.api.jobs import FAULT
from prtrace.api.stream import Stream
from prtrace.api.turns import Turns
from prtrace.linux.peer import Peer

_HIGH_WATER: Final = 32 << 10
"""Bytes that wait before nothing more is made for a peer."""
_SEND_BUFFER: Final = 32 << 10
"""The kernel's buffer, which it doubles; it counts into the agent's memory limit."""

_READ_AWAY: Final = 16 << 20
"""Bytes that a peer may still send after it was told that it sends too much."""

_log = logging.getLogger("prtrace.api")


class Deadline(enum.Enum):
    """What a connection is waiting for, and for how many seconds at most."""

    PARTIAL = 5.0
    """The rest of a message, from its first byte; the end of what is read away."""
    STALLED = 30.0
    """The peer to read a reply."""
    IDLE = 600.0
    """A call."""


class Service(Protocol):
    """The server, as far as a connection needs it."""

    calls: Calls
    turns: Turns

    def caught_up(self, call: Call) -> asyncio.Future[bool] | None:
        """What to wait for before call is carried out, None for nothing."""

    def require_room(self, call: Call, peer: Peer) -> None:
        """Refusal where too much waits to be sent for one more answer to peer."""

    def answer(self, call: Call) -> bytes:
        """The reply to a call that has one; Refusal for an error."""

    def open_stream(self, call: Call, sink: Connection) -> Stream | None:
        """The stream or job that call asks for, None where it is answered at once."""

    def close_stream(self, stream: Stream) -> None:
        """The stream has ended or its connection is gone."""

    def closed(self, connection: Connection) -> None:
        """The connection is gone."""


class Waiting:
    """The stream of a call that is not carried out yet.  current: see AgentSource.caught_up."""

    live = False

    def __init__(self, current: asyncio.Future[bool]) -> None:
        self.current = current

    def pump(self) -> None:
        """There is nothing to send."""

    def give_up(self) -> bool:
        """Nobody can go on later with what has not begun."""
        return False

    def stop(self) -> None:
        """The connection is gone."""
        self.current.cancel()


class Connection(asyncio.Protocol):
    """A peer's connection, from the accepted socket to its end.

    received: what was read from it already.  unsent: what is to be sent first.
    """

    def __init__(
        self, service: Service, peer: Peer, received: bytes = b"", unsent: bytes = b""
    ) -> None:
        self.peer = peer
        self._service = service
        self._received = bytearray(received)
        self._unsent = unsent
        self._scanned = 0
        self._stream: Stream | None = None
        self._longest = service.calls.longest(peer)
        self._full = False
        self._queued = False
        self._made = False
        self._eof = False
        self._leaving = 0
        self._deadline: Deadline | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._made = True
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)
        connected = self._transport.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        if self._unsent:
            self._transport.write(self._unsent)
            self._unsent = b""
        self._work()

    def data_received(self, data: bytes) -> None:
        if self._leaving:
            self._leaving -= len(data)
            if self._leaving <= 0:
                self._transport.abort()
            return
        self._received += data
        if len(self._received) > self._longest:
            self._transport.pause_reading()
        self._work()

    def eof_received(self) -> bool:
        """A peer that has sent all its calls may still want the replies."""
        self._eof = True
        if self._leaving or _hung_up(self._transport.get_extra_info("socket").fileno()):
            return False
        return self._busy or b"\0" in self._received

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._drop_stream()
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
        return self._transport.get_write_buffer_size() if self._made else 0

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
        if self._leaving:
            return
        if not self._busy and not self._full and not self._transport.is_closing():
            end = self._received.find(0, self._scanned)
            self._scanned = len(self._received) if end < 0 else 0
            if end >= self._longest or (end < 0 and self._scanned >= self._longest):
                self._refuse_length()
                return
            if end >= 0:
                message = bytes(self._received[:end])
                del self._received[: end + 1]
                self._deadline = None
                self._in_turn(lambda: self._answer(message))
            elif self._eof:
                self._transport.close()
        if len(self._received) <= self._longest and not self._eof:
            self._transport.resume_reading()
        self._wait()

    @property
    def _busy(self) -> bool:
        """Whether a call is being answered: the next one has to wait."""
        return self._queued or self._stream is not None

    def _in_turn(self, answer: Callable[[], None]) -> None:
        """Have answer called when it is the peer's turn, if it is there then."""

        def turn() -> None:
            self._queued = False
            if not self._transport.is_closing():
                answer()
                # One at a time, so that a peer with many calls delays nobody else's.
                asyncio.get_running_loop().call_soon(self._work)

        self._queued = True
        self._service.turns.take(self.peer.uid, turn)

    def _answer(self, message: bytes) -> None:
        with self._refusing(message):
            call = self._service.calls.parse(message, self.peer)
            current = self._service.caught_up(call)
            if current is None:
                self._carry_out(call)
                return
            self._stream = waiting = Waiting(current)
            current.add_done_callback(lambda _: self._waited(waiting, message, call))

    def _waited(self, waiting: Waiting, message: bytes, call: Call) -> None:
        """The agent knows what had happened when the call came, or has no time to find out."""
        if self._stream is not waiting:
            return  # the connection is gone
        self._stream = None
        late = call._replace(behind=not waiting.current.result())

        def answer() -> None:
            with self._refusing(message):
                self._carry_out(late)

        self._in_turn(answer)

    @contextlib.contextmanager
    def _refusing(self, message: bytes) -> Iterator[None]:
        """Whatever is wrong, the peer gets an answer, and goes on."""
        try:
            yield
        except Refusal as refusal:
            self.write(refusal.reply)
        except Exception:
            _log.exception("a call failed: %.200r", message)
            self._drop_stream()
            self.write(FAULT)

    def _carry_out(self, call: Call) -> None:
        self._service.require_room(call, self.peer)
        self._stream = self._service.open_stream(call, self)
        if self._stream is not None:
            self._stream.pump()
            return
        reply = self._service.answer(call)
        if not call.oneway:
            self.write(reply)

    def _drop_stream(self) -> None:
        if self._stream is not None:
            self._stream.stop()
            self._service.close_stream(self._stream)
            self._stream = None

    def _refuse_length(self) -> None:
        self.write(too_long(self._longest).reply)
        # Whoever closes with bytes unread resets the connection, and the peer, who is still
        # sending, never reads why.
        self._received.clear()
        self._leaving = _READ_AWAY
        self._transport.write_eof()
        self._transport.resume_reading()
        self._wait()

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
            self._timer = loop.call_later(wanted.value, self._expired)

    def _expired(self) -> None:
        """The deadline is over; a slow follower gets one more to read where it can go on."""
        self._timer = self._deadline = None
        if self._stream is None or not self._stream.give_up():
            self._transport.abort()

    def _waiting_for(self) -> Deadline | None:
        if self._leaving:
            return Deadline.PARTIAL
        if self._stream is not None:
            # A follower may be slow: what waits for it is bounded by its stream.
            return Deadline.STALLED if self._full and not self._stream.live else None
        if self._full:
            return Deadline.STALLED
        if self._queued:
            return None
        return Deadline.PARTIAL if self._received else Deadline.IDLE


def _hung_up(fd: int) -> bool:
    """Whether the peer has closed its end, not only for sending."""
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(0))
