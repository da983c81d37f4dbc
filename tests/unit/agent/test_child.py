"""A process of the agent's: what it inherits."""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
from collections.abc import Iterator

import pytest

from prtrace.agent.child import Child, receive


class Freed:
    """It says on a pipe that it is freed; a cycle, so that only a collection frees it."""

    def __init__(self, pipe: int) -> None:
        self.pipe, self.itself = pipe, self

    def __del__(self) -> None:
        os.write(self.pipe, b"freed")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)
    gc.unfreeze()


def test_what_was_there_before_the_fork_is_freed_by_neither(pipe: tuple[int, int]) -> None:
    """libffi's callbacks are shared memory where no memory may be made executable."""
    reading, writing = pipe
    there = Freed(writing)

    def serve(link: socket.socket) -> None:
        nonlocal there
        del there
        gc.collect()
        os.write(writing, b"served")

    child = Child.start("test", serve, kept=(), descriptors=(writing,))
    assert os.read(reading, 100) == b"served"
    child.end()
    there.itself = None  # type: ignore[assignment]  # so that it is freed here, and at once
    del there
    assert os.read(reading, 100) == b"freed"


def test_one_that_does_not_end_is_waited_for_so_long(caplog: pytest.LogCaptureFixture) -> None:
    child = Child.start("test", lambda link: signal.pause(), kept=())
    end = os.pidfd_open(child.pid)
    try:
        child.end(patience=0.05)
        assert "the agent's test does not end" in caplog.text
        assert not select.select([end], [], [], 0)[0]
    finally:
        os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
        os.close(end)


def test_what_is_to_be_brought_to_an_end_is_waited_for() -> None:
    reading, writing = os.pipe()

    def serve(link: socket.socket) -> None:
        assert link.recv(1) == b""
        os.read(reading, 1)

    child = Child.start("test", serve, kept=(), descriptors=(reading,))
    os.write(writing, b"x")
    child.end(patience=None)
    with pytest.raises(ChildProcessError):
        os.waitpid(child.pid, os.WNOHANG)
    os.close(reading)
    os.close(writing)


def test_a_descriptor_that_comes_along_is_closed() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading, writing = os.pipe()
    with ours, theirs, open(reading, "rb") as pipe:
        socket.send_fds(ours, [b"request"], [writing])
        os.close(writing)
        assert receive(theirs, 100) == b"request"
        assert pipe.read() == b"", "somebody could still write"
