"""Descriptors over a real socket pair: counted, close-on-exec, owned once."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from prtrace.prhelper.fds import OwnedFd, receive, send


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, two = socket.socketpair()
    with one, two:
        yield one, two


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_a_descriptor_comes_once_is_not_inherited_and_closes_once(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    with OwnedFd(os.open("/dev/null", os.O_RDONLY)) as sent:
        assert send(pair[0], b"abc", sent.fd) == 3
    got = receive(pair[1], 2)
    assert (got.data, len(got.fds), got.lost) == (b"ab", 1, False)
    assert not os.get_inheritable(got.fds[0].fd)
    assert receive(pair[1], 9).fds == ()
    number = got.fds[0].fd
    got.fds[0].close()
    got.fds[0].close()
    assert not is_open(number)


@pytest.mark.parametrize(("count", "kept"), [(2, 2), (3, 2), (100, 2)])
def test_descriptors_beyond_the_limit_are_closed_and_told_as_lost(
    pair: tuple[socket.socket, socket.socket], count: int, kept: int
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(pair[0], [b"x"], [0] * count)
    got = receive(pair[1], 16)
    assert (len(got.fds), got.lost) == (kept, count > kept)
    for fd in got.fds:
        fd.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_end_of_the_connection_is_no_bytes(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].close()
    assert receive(pair[1], 16).data == b""


def test_a_released_descriptor_stays_open() -> None:
    with OwnedFd(os.open("/dev/null", os.O_RDONLY)) as owned:
        fd = owned.release()
    assert is_open(fd)
    os.close(fd)
