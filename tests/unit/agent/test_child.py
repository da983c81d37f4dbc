"""A process of the agent's: what it inherits."""

from __future__ import annotations

import gc
import os
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


def test_a_descriptor_that_comes_along_is_closed() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading, writing = os.pipe()
    with ours, theirs, open(reading, "rb") as pipe:
        socket.send_fds(ours, [b"request"], [writing])
        os.close(writing)
        assert receive(theirs, 100) == b"request"
        assert pipe.read() == b"", "somebody could still write"
