"""Closing connections whose queue holds what takes long to close."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from labkit import pace

from prtrace.linux import closer as module
from prtrace.linux.closer import Closer, refuse_descriptors

from .lingering import Lingering
from .stuck import Stuck


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
        closer.close(one.connection, 1)
        assert one.connection.fileno() < 0
    assert closer._threads <= 2
    # None of them would be closed for an hour.
    await_(lambda: closer._threads == 0)
    assert not any((closer._ready, closer._held, closer._taken))
    # It begins anew.
    closer.close(lingering().connection, 1)
    await_(lambda: closer._threads == 0)


@pytest.mark.timeout(60)
def test_a_connection_that_somebody_else_has_too_goes_on(
    lingering: Callable[[], Lingering], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.1)
    closer = Closer()
    one = lingering()
    other = one.connection.dup()
    closer.let_go(one.connection, 1)
    await_(lambda: closer._threads == 0)
    assert other.recv(1, socket.MSG_PEEK) == b"x"
    closer.close(other, 1)
    await_(lambda: closer._threads == 0)


@pytest.mark.parametrize("sent", [b"", b"x", bytes(150_000)])
def test_who_has_sent_no_descriptor_is_closed_at_once(sent: bytes) -> None:
    closer = Closer()
    mine, theirs = socket.socketpair()
    mine.sendall(sent)
    closer.close(theirs, 1)
    closer.close(theirs, 1)
    assert theirs.fileno() < 0
    assert mine.recv(1) == b""
    assert closer._threads == 0
    mine.close()


def test_who_has_closed_with_replies_unread_is_closed_at_once() -> None:
    closer = Closer()
    mine, theirs = socket.socketpair()
    theirs.sendall(b"reply")
    mine.close()
    closer.close(theirs, 1)
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
            closer.close(lingering().connection, 1)
            left.append(True)
        assert (closer._threads, len(closer._ready)) == (0, 2)
    closer.close(lingering().connection, 1)
    await_(lambda: closer._threads == 0)
    assert not any((closer._ready, closer._held, closer._taken))


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
        closer.close(lingering().connection, 1)
        await_(lambda: len(refused) > 2)
        assert closer._threads == 1
    await_(lambda: closer._threads == 0)


@pytest.mark.timeout(60)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a page that the kernel waits for")
def test_what_no_signal_ends_takes_its_owners_threads_alone(
    lingering: Callable[..., Lingering], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.1)
    closer = Closer()
    stuck = Stuck(20)
    closed: list[str] = []
    try:
        for connection in stuck.connections:
            closer.close(connection, "stuck", lambda: closed.append("stuck"))
        closer.close(lingering().connection, "other", lambda: closed.append("other"))
        await_(lambda: closed == ["other"])
        assert closer._taken == {"stuck": 4}
        assert len(closer._held["stuck"]) == 16
    finally:
        stuck.free()
    await_(lambda: closed.count("stuck") == 20)
    await_(lambda: closer._threads == 0)
    assert not any((closer._ready, closer._held, closer._taken))


def switches(thread: threading.Thread) -> int:
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    return int(status.partition("voluntary_ctxt_switches:")[2].split()[0])


def test_nothing_wakes_while_nothing_is_closed(
    lingering: Callable[..., Lingering],
) -> None:
    closer = Closer()
    closed = threading.Event()
    closer.close(lingering().connection, 1, closed.set)
    assert closed.wait(pace.limit(20))
    await_(lambda: not closer._working)
    assert closer._kicker is not None
    time.sleep(0.1)
    before = switches(closer._kicker)
    time.sleep(0.3)
    assert switches(closer._kicker) == before


def test_nobody_sends_a_descriptor_to_who_refuses_it(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        refuse_descriptors(listening)
        try:
            client.setsockopt(socket.SOL_SOCKET, 83, 1)
            refuses = True
        except OSError:
            refuses = False  # before Linux 6.16
        client.connect(str(tmp_path / "s"))
        if refuses:
            with pytest.raises(PermissionError):
                socket.send_fds(client, [b"x"], [0])
        assert client.send(b"x") == 1
