"""Closing connections whose queue holds what takes long to close."""

from __future__ import annotations

import signal
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
@pytest.mark.parametrize("before", [b"", b"bytes"])
@pytest.mark.parametrize("flags", [0, socket.MSG_OOB])
def test_nobody_waits_for_what_lingers(
    lingering: Callable[..., Lingering],
    monkeypatch: pytest.MonkeyPatch,
    before: bytes,
    flags: int,
) -> None:
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.1)
    monkeypatch.setattr(module, "_THREADS", 2)
    closer = Closer()
    each = [lingering(before, flags) for _ in range(5)]
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


@pytest.mark.parametrize("sent", [b"", b"x", bytes(150_000)])
def test_who_has_sent_no_descriptor_is_closed_at_once(sent: bytes) -> None:
    closer = Closer()
    mine, theirs = socket.socketpair()
    mine.sendall(sent)
    closer.close(theirs)
    closer.close(theirs)
    assert theirs.fileno() < 0
    assert mine.recv(1) == b""
    assert closer._threads == 0
    mine.close()


def test_who_has_closed_with_replies_unread_is_closed_at_once() -> None:
    closer = Closer()
    mine, theirs = socket.socketpair()
    theirs.sendall(b"reply")
    mine.close()
    closer.close(theirs)
    assert theirs.fileno() < 0
    assert closer._threads == 0


@pytest.mark.timeout(60)
def test_what_found_no_thread_is_closed_with_the_next(
    lingering: Callable[..., Lingering], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.1)
    real, left = threading.Thread.start, []

    def start(thread: threading.Thread) -> None:
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()
        real(thread)

    closer = Closer()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        # None for either, and then one for the first of the two.
        for _ in range(2):
            closer.close(lingering().connection)
            left.append(True)
        assert (closer._threads, closer._waiting.qsize()) == (0, 2)
    closer.close(lingering().connection)
    await_(lambda: closer._threads == 0 and not closer._kicks)
    assert closer._waiting.empty()


@pytest.mark.timeout(60)
def test_a_signal_that_may_not_be_sent_ends_nothing(
    lingering: Callable[..., Lingering], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.1)
    refused = []

    def refuse(*_: object) -> None:
        refused.append(1)
        raise PermissionError

    closer = Closer()
    with monkeypatch.context() as patch:
        patch.setattr(signal, "pthread_kill", refuse)
        closer.close(lingering().connection)
        await_(lambda: len(refused) > 2)
        assert closer._threads == 1
    await_(lambda: closer._threads == 0 and not closer._kicks)
