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
def test_what_found_no_thread_is_closed_when_there_is_one(
    lingering: Callable[..., Lingering], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody else has anything to close."""
    monkeypatch.setattr(module, "_SLOWEST", 0.1)
    closer = Closer()
    closer.close(lingering().connection, 1)
    await_(lambda: closer._threads == 0)
    refused = []

    def start(thread: threading.Thread) -> None:
        refused.append(thread)
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        closer.close(lingering().connection, 1)
        await_(lambda: len(refused) > 3)
        # Every tenth of a second, and not all the time.
        before, begun = len(refused), time.monotonic()
        await_(lambda: len(refused) > before + 5)
        assert len(refused) <= before + 6 + 10 * (time.monotonic() - begun)
        assert time.monotonic() - begun > 0.4
    await_(lambda: not closer._taken)


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


@pytest.mark.timeout(60)
def test_the_signal_reaches_a_thread_that_was_started_where_it_is_blocked(
    lingering: Callable[..., Lingering],
) -> None:
    """As the proxy's threads block all of them."""
    closer = Closer()
    closed = threading.Event()

    def close() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        closer.close(lingering().connection, 1, closed.set)

    thread = threading.Thread(target=close)
    thread.start()
    thread.join()
    assert closed.wait(pace.limit(20))


class Kicks:
    """When signals were sent while a thread of closer's waits for over."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at: list[float] = []
        self.over = threading.Event()
        self._real = signal.pthread_kill
        monkeypatch.setattr(signal, "pthread_kill", self._kill)

    def _kill(self, thread: int, number: int) -> None:
        self.at.append(time.monotonic())
        self._real(thread, number)


def test_a_wait_that_no_signal_ends_gets_fewer_and_fewer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closer = Closer()
    kicks = Kicks(monkeypatch)
    closer.have_done(1, lambda: bool(kicks.over.wait(pace.limit(30))))
    try:
        await_(lambda: bool(closer._working))
        (since,) = closer._working.values()
        await_(lambda: time.monotonic() > since + 1)
    finally:
        kicks.over.set()
    assert kicks.at[0] - since >= 0.01
    # Ten of the first tenth of a second, then each after a tenth more: 24.  A busy machine makes
    # fewer of them.  Without it there are a hundred.
    assert len([at for at in kicks.at if at <= since + 1]) <= 36


def test_a_wait_that_no_signal_ends_gets_one_in_a_while_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_SLOWER", 1e6)
    monkeypatch.setattr(module, "_SLOWEST", 0.05)
    closer = Closer()
    kicks = Kicks(monkeypatch)
    closer.have_done(1, lambda: bool(kicks.over.wait(pace.limit(30))))
    try:
        await_(lambda: len(kicks.at) > 4)
    finally:
        kicks.over.set()
    # A signal that comes late on a busy machine makes the next one come early.
    assert kicks.at[-1] - kicks.at[0] >= 0.03 * (len(kicks.at) - 1)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("threads", [1, 64])
def test_a_signal_comes_in_time_after_a_wait_with_few(
    lingering: Callable[..., Lingering], monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """On the same thread when that wait is over, or on another one meanwhile."""
    monkeypatch.setattr(module, "_SLOWER", 1e6)
    monkeypatch.setattr(module, "_SLOWEST", 1e6)
    monkeypatch.setattr(module, "_THREADS", threads)
    closer = Closer()
    kicks = Kicks(monkeypatch)
    closed = threading.Event()
    closer.have_done(1, lambda: bool(kicks.over.wait(pace.limit(30))))
    try:
        await_(lambda: bool(kicks.at))
        closer.close(lingering().connection, 1, closed.set)
        if threads == 1:
            kicks.over.set()
        assert closed.wait(pace.limit(20))
    finally:
        kicks.over.set()


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
