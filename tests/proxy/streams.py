"""Byte streams for a helper: made at random, played to a socket, and what comes back compared.

A stream is a list of messages, each with bytes and descriptors.  Whoever plays it shuts its
sending side down after the last one, so a helper answers what it has to and closes: the end of
the reply is an event, not a silence.
"""

from __future__ import annotations

import array
import itertools
import random
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

GREETING = struct.Struct(">I")
REPLY = struct.Struct(">ii96s")
CHECK_CONDITION = 2
FIXED_SENSE = 18
PR_IN, PR_OUT, CLEANUP = 0x5E, 0x5F, 0xFF


@dataclass(frozen=True, slots=True)
class Message:
    data: bytes
    fds: tuple[str, ...] = ()
    """Names of descriptors, looked up when it is played."""


Stream = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    sense: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Transcript:
    """greeting None: not even that came.  rest: bytes that make no whole reply."""

    greeting: int | None
    replies: tuple[Reply, ...]
    rest: bytes


def play(path: str, stream: Stream, fds: Mapping[str, int], timeout: float = 180) -> Transcript:
    """Play the stream to whoever listens at path; what came back until it closed."""
    got = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        sock.connect(path)
        try:
            for message in stream:
                numbers = array.array("i", [fds[name] for name in message.fds])
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if numbers else []
                sock.sendmsg([message.data], rights)
            sock.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it closed in the middle: what it said before is still to be read
        try:
            while part := sock.recv(65536):
                got += part
        except ConnectionResetError:
            pass
    return transcript(bytes(got))


def transcript(got: bytes) -> Transcript:
    if len(got) < GREETING.size:
        return Transcript(None, (), got)
    (greeting,) = GREETING.unpack_from(got)
    offset, replies = GREETING.size, []
    while len(got) - offset >= REPLY.size:
        status, size, sense = REPLY.unpack_from(got, offset)
        if not 0 <= size <= len(got) - offset - REPLY.size:
            break
        offset += REPLY.size
        # The helper leaves what lies behind the sense data it makes as it finds it.
        shown = sense[:FIXED_SENSE] if status == CHECK_CONDITION else b""
        replies.append(Reply(status, shown, got[offset : offset + size]))
        offset += size
    return Transcript(greeting, tuple(replies), got[offset:])


def cdb(opcode: int, action: int, length: int, kind: int = 0, tail: bytes = bytes(7)) -> bytes:
    return bytes((opcode, action, kind, 0, 0, 0, 0)) + length.to_bytes(2, "big") + tail


def parameter(key: int, sa_key: int, flags: int = 0) -> bytes:
    return key.to_bytes(8, "big") + sa_key.to_bytes(8, "big") + bytes((0, 0, 0, 0, flags, 0, 0, 0))


class Maker:
    """Random streams over named descriptors; keys are few, so that commands meet each other."""

    def __init__(self, seed: int, fds: Sequence[str], actions: Sequence[int] = range(9)) -> None:
        self._random = random.Random(seed)
        self._fds = tuple(fds)
        self._actions = tuple(actions)

    def stream(self) -> Stream:
        r = self._random
        shape: Callable[[], list[Message]] = r.choice(
            (self._valid, self._valid, self._split, self._split, self._lengths, self._fd_count,
             self._early, self._opcodes, self._greeting, self._noise, self._pipelined)
        )  # fmt: skip
        return tuple(shape())

    def _hello(self) -> list[Message]:
        return [Message(bytes(4))]

    def _request(self) -> tuple[bytes, bytes]:
        r = self._random
        if r.random() < 0.5:
            action = r.choice((0, 1, 2, 3, r.randrange(32)))
            length = r.choice((0, 1, 2, 3, 4, 8, 24, 255, 8192, r.randrange(8193)))
            return cdb(PR_IN, action, length), b""
        keys = (0, 1, 2, 0xABCDEF)
        body = parameter(r.choice(keys), r.choice(keys), r.choice((0, 0, 0, 1)))
        body = body[: r.choice((24, 24, 24, 24, 23, 16, 8, 0))]
        return cdb(
            PR_OUT, r.choice(self._actions), len(body), r.choice((0, 1, 3, 5, 6, 7, 8))
        ), body

    def _fd(self) -> tuple[str]:
        return (self._random.choice(self._fds),)

    def _valid(self) -> list[Message]:
        messages = self._hello()
        for _ in range(self._random.randrange(1, 4)):
            head, body = self._request()
            messages.append(Message(head, self._fd()))
            if body:
                messages.append(Message(body))
        return messages

    def _split(self) -> list[Message]:
        """Cut anywhere, the descriptor with any of the pieces."""
        r = self._random
        messages = self._cut(bytes(4), 0.3)
        for _ in range(r.randrange(1, 3)):
            head, body = self._request()
            pieces = self._cut(head + body, 0.5)
            carrier = r.randrange(len(pieces))
            pieces[carrier] = Message(pieces[carrier].data, self._fd())
            messages += pieces
        return messages

    def _cut(self, data: bytes, share: float) -> list[Message]:
        places = [p for p in range(1, len(data)) if self._random.random() < share]
        if self._random.random() < 0.5 and len(data) > 1:
            places = [self._random.randrange(1, len(data))]
        edges = [0, *places, len(data)]
        return [Message(data[a:b]) for a, b in itertools.pairwise(edges)]

    def _lengths(self) -> list[Message]:
        r = self._random
        head, body = self._request()
        claimed = r.choice((0, 1, 23, 25, 8191, 8192, 8193, 0xFFFF, len(body) + 1))
        head = head[:7] + claimed.to_bytes(2, "big") + head[9:]
        sent = r.choice((body, body[:-1], body.ljust(claimed, b"\0"), bytes(r.randrange(9000))))
        return [*self._hello(), Message(head, self._fd()), *([Message(sent)] if sent else [])]

    def _fd_count(self) -> list[Message]:
        r = self._random
        head, body = self._request()
        names = tuple(r.choice(self._fds) for _ in range(r.choice((0, 0, 2, 3, 16))))
        messages = [*self._hello(), Message(head[:8], names), Message(head[8:])]
        if r.random() < 0.5:
            messages = [*self._hello(), Message(head[:8], self._fd()), Message(head[8:], names)]
        if body:
            messages.append(Message(body, r.choice(((), self._fd()))))
        return messages

    def _early(self) -> list[Message]:
        """Ends at any byte."""
        head, body = self._request()
        whole = bytes(4) + head + body
        end = self._random.randrange(len(whole) + 1)
        messages = [Message(whole[:4][:end])] if end else []
        if end > 4:
            messages.append(Message(whole[4:end], self._fd()))
        return messages

    def _opcodes(self) -> list[Message]:
        head, body = self._request()
        opcode = self._random.choice(
            (0, 0x12, 0x28, 0x5D, 0x60, 0xA0, self._random.randrange(255))
        )
        return [
            *self._hello(),
            Message(bytes((opcode,)) + head[1:], self._fd()),
            Message(body or b"x"),
        ]

    def _greeting(self) -> list[Message]:
        word = self._random.choice(
            (2, 4, 0x80000000, 0xFFFFFFFE, self._random.randrange(1, 1 << 31) * 2)
        )
        head, body = self._request()
        return [Message(GREETING.pack(word)), Message(head, self._fd()), Message(body or b"x")]

    def _noise(self) -> list[Message]:
        r = self._random
        return [
            Message(r.randbytes(r.randrange(1, 60)), r.choice(((), self._fd())))
            for _ in range(r.randrange(1, 5))
        ]

    def _pipelined(self) -> list[Message]:
        """Requests in one message each, before any reply; descriptors one behind at times."""
        messages = self._hello()
        for _ in range(self._random.randrange(2, 5)):
            head, body = self._request()
            messages.append(Message(head + body, self._fd()))
        return messages
