"""Closing connections whose queue holds what takes long to close."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import pytest
from labkit import pace

from prtrace.linux import closer as module
from prtrace.linux.closer import Closer

from .lingering import Lingering


def await_(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + pace.limit(30)
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.timeout(60)
def test_nobody_waits_for_what_lingers(
    lingering: Callable[[], Lingering], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.1)
    monkeypatch.setattr(module, "_THREADS", 2)
    closer = Closer()
    each = [lingering() for _ in range(5)]
    for one in each:
        closer.close(one.connection)
        assert one.connection.fileno() < 0
    assert closer._threads <= 2
    # None of them would be closed for an hour.
    await_(lambda: closer._threads == 0 and not closer._kicks)
    assert closer._waiting.empty()
    # It begins anew.
    closer.close(lingering().connection)
    await_(lambda: closer._threads == 0 and not closer._kicks)


@pytest.mark.timeout(60)
def test_a_connection_that_somebody_else_has_too_goes_on(
    lingering: Callable[[], Lingering], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.1)
    closer = Closer()
    one = lingering()
    other = one.connection.dup()
    closer.let_go(one.connection)
    await_(lambda: closer._threads == 0)
    assert other.recv(1, socket.MSG_PEEK) == b"x"
    closer.close(other)
    await_(lambda: closer._threads == 0)


def test_who_has_sent_nothing_is_closed_at_once() -> None:
    closer = Closer()
    mine, theirs = socket.socketpair()
    closer.close(theirs)
    closer.close(theirs)
    assert theirs.fileno() < 0
    assert mine.recv(1) == b""
    assert closer._threads == 0
    mine.close()


def test_what_found_no_thread_is_closed_with_the_next(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.1)

    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    closer = Closer()
    pairs = [socket.socketpair() for _ in range(2)]
    for mine, _ in pairs:
        mine.send(b"x")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        closer.close(pairs[0][1])
    assert "a connection is closed later" in caplog.text
    assert (closer._threads, closer._kicks, closer._waiting.qsize()) == (0, False, 1)
    closer.close(pairs[1][1])
    await_(lambda: closer._threads == 0 and not closer._kicks)
    assert closer._waiting.empty()
    for mine, _ in pairs:
        # A reset: its byte was not read.
        with pytest.raises(ConnectionResetError):
            mine.recv(1)
        mine.close()
