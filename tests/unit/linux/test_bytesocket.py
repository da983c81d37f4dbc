"""Bytes come, and with a descriptor the end."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from prtrace.linux.bytesocket import ByteSocket
from prtrace.linux.closer import Closer

from .lingering import Lingering


def drain(sock: socket.socket) -> None:
    while sock.recv(3):
        pass


@pytest.mark.timeout(60)
@pytest.mark.parametrize("flags", [0, socket.MSG_OOB])
def test_a_connection_takes_bytes_alone(lingering: Callable[..., Lingering], flags: int) -> None:
    closer = Closer()
    one = lingering(before=b"before", flags=flags)
    sock = ByteSocket(one.connection, closer, 1)
    with sock, pytest.raises(ConnectionAbortedError, match="descriptor"):
        drain(sock)
    assert sock.fileno() < 0


def test_bytes_come_as_they_were_sent_and_then_the_end() -> None:
    mine, theirs = socket.socketpair()
    with ByteSocket(theirs, Closer(), 1) as sock:
        mine.sendall(b"one")
        mine.sendall(b"two")
        assert sock.recv(2) == b"on"
        assert sock.recv(100) == b"etwo"
        mine.close()
        assert sock.recv(100) == b""
