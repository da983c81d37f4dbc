"""Closing connections whose queue holds what takes long to close."""

from __future__ import annotations

import array
import contextlib
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from labkit import pace

from prtrace.prhelper import closing
from prtrace.prhelper.closing import Closer

from .test_sparing_log import SparingLog


def await_(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + pace.limit(30)
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def closer() -> Closer:
    return Closer(SparingLog(logging.getLogger("test")))


class Lingering:
    """A connection with a TCP socket in its queue that takes an hour to close, until free()."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            sender = socket.create_connection(listener.getsockname())
            self._reader, _ = listener.accept()
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
        sender.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sender.send(bytes(1 << 16))
        sender.setblocking(True)
        mine, self.connection = socket.socketpair()
        mine.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                               array.array("i", [sender.fileno()]))])  # fmt: skip
        mine.close()
        # The one in the queue is left.
        sender.close()

    def free(self) -> None:
        # With data that nobody has read this is a reset.
        self._reader.close()


@pytest.fixture
def lingering() -> Iterator[Callable[[], Lingering]]:
    made: list[Lingering] = []

    def make() -> Lingering:
        made.append(Lingering())
        return made[-1]

    yield make
    for each in made:
        each.free()


@pytest.mark.timeout(60)
def test_nobody_waits_for_what_lingers(
    closer: Closer, lingering: Callable[[], Lingering], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "_IDLE_SECONDS", 0.1)
    monkeypatch.setattr(closing, "_THREADS", 2)
    each = [lingering() for _ in range(3)]
    for one in each:
        closer.close(one.connection)
    assert closer._threads == 2
    # Each of the two threads has one in its hands.
    await_(lambda: closer._waiting.qsize() == 1)
    assert each[2].connection.fileno() >= 0
    for one in each:
        one.free()
    await_(lambda: closer._threads == 0)
    assert all(one.connection.fileno() < 0 for one in each)


def test_who_has_sent_nothing_is_closed_at_once(closer: Closer) -> None:
    mine, theirs = socket.socketpair()
    closer.close(theirs)
    assert theirs.fileno() < 0
    assert mine.recv(1) == b""
    assert closer._threads == 0
    mine.close()


def test_what_found_no_thread_is_closed_with_the_next(
    closer: Closer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(closing, "_IDLE_SECONDS", 0.1)

    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pairs = [socket.socketpair() for _ in range(2)]
    for mine, _ in pairs:
        mine.send(b"x")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        closer.close(pairs[0][1])
    assert "a connection waits for a thread" in caplog.text
    closer.close(pairs[1][1])
    await_(lambda: closer._threads == 0)
    assert all(theirs.fileno() < 0 for _, theirs in pairs)
    for mine, _ in pairs:
        mine.close()


def test_too_many_that_hang_slow_the_next_ones_down(
    closer: Closer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(closing, "_MANY", 0)
    monkeypatch.setattr(closing, "_THREADS", 0)
    monkeypatch.setattr(closing, "_PAUSE", 0.0)
    mine, theirs = socket.socketpair()
    mine.send(b"x")
    closer.close(theirs)
    assert "cannot be closed" in caplog.text
    mine.close()
    theirs.close()
