"""Threads, places and the stop."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from labkit import pace

from prtrace.prhelper.places import Limits
from prtrace.prhelper.server import Server

from .test_connection import NULL, READ_KEYS, broker
from .test_sparing_log import SparingLog


def await_(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + pace.limit(30)
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def server() -> Iterator[Server]:
    import logging

    server = Server(broker(), Limits(3, 3, 3, 3), SparingLog(logging.getLogger("test")))
    yield server
    server.stop()
    server.wait(1)


def came(server: Server) -> socket.socket:
    mine, theirs = socket.socketpair()
    mine.settimeout(pace.limit(30))
    server.welcome(theirs)
    return mine


def served(sock: socket.socket) -> bool:
    if sock.recv(4) == b"":
        return False
    sock.sendall(bytes(4))
    socket.send_fds(sock, [READ_KEYS], [NULL])
    return len(sock.recv(104, socket.MSG_WAITALL)) == 104


def test_places_are_taken_and_given_back(server: Server) -> None:
    kept = [came(server) for _ in range(3)]
    assert all(served(sock) for sock in kept)
    with came(server) as fourth:
        assert not served(fourth)
    kept.pop().close()
    await_(lambda: len(server._places) == 2)
    with came(server) as fourth:
        assert served(fourth)
    for sock in kept:
        sock.close()
    await_(lambda: len(server._places) == 0)


def test_threads_serve_one_client_after_another(server: Server) -> None:
    before = threading.active_count()
    for _ in range(20):
        with came(server) as sock:
            assert served(sock)
        await_(lambda: server._idle > 0)
    assert threading.active_count() <= before + 2
    assert not server._connections


def test_a_stop_does_not_wait_for_idle_clients(server: Server) -> None:
    with came(server) as sock:
        assert served(sock)
        begun = time.monotonic()
        server.stop()
        server.wait(pace.limit(60))
        assert time.monotonic() - begun < pace.limit(20)


def test_a_client_that_found_no_thread_is_served_by_the_next_free_one(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with came(server) as first:
        assert served(first)
        monkeypatch.setattr(threading.Thread, "start", none_left)
        second = came(server)
        assert "a client waits for a thread" in caplog.text
        first.shutdown(socket.SHUT_RDWR)
        assert served(second)
        second.close()
    await_(lambda: server._idle == 1)
    with came(server) as third:
        assert served(third)
