"""PERSISTENT RESERVE commands as a guest sends them, by the socket of a proxy or helper."""

from __future__ import annotations

import array
import socket
import subprocess
from pathlib import Path

from labkit import pace
from labkit.oracle import oracle
from labkit.target import Unit
from streams import GREETING, PR_IN, PR_OUT, REPLY, Message, Reply, Stream, cdb, parameter, play

REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, _ABORT, IGNORE, MOVE, REPLACE = range(9)
KEYS, RESERVATION, CAPABILITIES, FULL = range(4)
GOOD, CHECK, CONFLICT = 0, 2, 0x18
WERO, WE = 5, 1
SPEC_I_PT, ALL_TG_PT = 0x08, 0x04
DEADLINE = 180


def stream_of(*requests: tuple[bytes, bytes]) -> Stream:
    messages = [Message(bytes(4))]
    for head, body in requests:
        messages.append(Message(head, ("device",)))
        if body:
            messages.append(Message(body))
    return tuple(messages)


def ask(path: Path, fd: int, head: bytes, body: bytes = b"") -> Reply:
    """One request on a connection of its own, again while a unit attention comes first."""
    for _ in range(8):
        replies = play(str(path), stream_of((head, body)), {"device": fd}, DEADLINE).replies
        if len(replies) != 1:
            raise AssertionError(f"{len(replies)} replies to {head.hex()}")
        if replies[0].status != CHECK or replies[0].sense[2] & 0xF != 6:
            return replies[0]
    raise AssertionError("unit attentions without end")


class Lasting:
    """A guest's one connection, as QEMU's pr-manager-helper keeps it."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.settimeout(pace.limit(DEADLINE))
        self._sock.connect(str(path))
        self._sock.sendall(bytes(GREETING.size))
        self._take(GREETING.size)

    def out(
        self, fd: int, action: int, key: int, sa_key: int = 0, kind: int = 0, flags: int = 0
    ) -> int:
        """The status of a PERSISTENT RESERVE OUT, again while a unit attention comes first."""
        body = parameter(key, sa_key, flags)
        for _ in range(8):
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
            self._sock.sendmsg([cdb(PR_OUT, action, len(body), kind)], rights)
            self._sock.sendall(body)
            status, size, sense = REPLY.unpack(self._take(REPLY.size))
            self._take(size)
            if status != CHECK or sense[2] & 0xF != 6:
                return int(status)
        raise AssertionError("unit attentions without end")

    def close(self) -> None:
        self._sock.close()

    def _take(self, size: int) -> bytes:
        got = self._sock.recv(size, socket.MSG_WAITALL) if size else b""
        assert len(got) == size, "the connection ended"
        return got


def out(
    path: Path, fd: int, action: int, key: int, sa_key: int = 0, kind: int = 0, flags: int = 0
) -> Reply:
    return ask(path, fd, cdb(PR_OUT, action, 24, kind), parameter(key, sa_key, flags))


def read(path: Path, fd: int, action: int, length: int = 8192) -> Reply:
    return ask(path, fd, cdb(PR_IN, action, length))


def keys(path: Path, fd: int) -> list[int]:
    data = read(path, fd, KEYS).data
    length = int.from_bytes(data[4:8], "big")
    return sorted(int.from_bytes(data[8 + i : 16 + i], "big") for i in range(0, length, 8))


def code(reply: Reply) -> tuple[int, int, int]:
    return (
        reply.status,
        reply.sense[12] if reply.sense else 0,
        reply.sense[13] if reply.sense else 0,
    )


def cleared(unit: Unit) -> None:
    """Take away what a test that failed left registered."""
    node = unit.paths[0].block
    if oracle(unit.directory).registrations:
        subprocess.run(["sg_persist", "-n", "-o", "-I", "-S", "0x1", node], check=True)
        subprocess.run(["sg_persist", "-n", "-o", "-C", "-K", "0x1", node], check=True)
