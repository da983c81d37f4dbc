"""Threads, places and the stop."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from labkit import pace
from linux.stuck import Stuck

from prtrace.prhelper import server as module
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
    server = Server(
        broker(), Limits(3, 3, 3, 3, arrivals=1000), SparingLog(logging.getLogger("test"))
    )
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


def test_processes_that_have_ended_share_the_places_of_one_unit(tmp_path: Path) -> None:
    """Each has a number of its own, and its unit can no longer be told."""
    limits = Limits(20, 20, 3, 20, arrivals=1000)
    server = Server(broker(), limits, SparingLog(logging.getLogger("test")))
    kept = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        try:
            for _ in range(5):
                mine = socket.socket(socket.AF_UNIX)
                mine.settimeout(pace.limit(30))
                kept.append(mine)
                child = os.fork()
                if not child:
                    mine.connect(listener.getsockname())
                    os._exit(0)
                os.waitpid(child, 0)
                server.welcome(listener.accept()[0])
            assert [served(sock) for sock in kept] == [True, True, True, False, False]
            with came(server) as alive:
                assert served(alive)
        finally:
            for sock in kept:
                sock.close()
            server.stop()
            server.wait(1)


def test_threads_serve_one_client_after_another(server: Server) -> None:
    before = threading.active_count()
    for _ in range(20):
        with came(server) as sock:
            assert served(sock)
        await_(lambda: server._idle > 0)
    assert threading.active_count() <= before + 2
    assert not server._connections


def test_a_thread_ends_where_enough_wait(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SPARE_THREADS", 1)
    clients = [came(server) for _ in range(3)]
    assert all(served(sock) for sock in clients)
    assert server._idle == 0
    for sock in clients:
        sock.close()
    await_(lambda: not server._connections)
    assert server._idle == 1
    with came(server) as sock:
        assert served(sock)


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


class _Late:
    """The pace of who came too often: each connection is due a while later."""

    SECONDS = 0.5

    def due(self, _: object, now: float) -> float:
        return now + self.SECONDS


def test_who_comes_too_often_is_served_in_time_and_has_a_place_meanwhile(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "_paces", (_Late(), _Late()))
    begun = time.monotonic()
    with came(server) as first:
        assert served(first)
        assert time.monotonic() - begun >= _Late.SECONDS
        monkeypatch.setattr(_Late, "SECONDS", 3600)
        early = [came(server), came(server)]
        assert (len(server._places), len(server._early)) == (3, 2)
        with came(server) as one_more:
            assert not served(one_more)
        assert f"pid {os.getpid()} is refused: all 3 connections are taken" in caplog.text
        monkeypatch.setattr(_Late, "SECONDS", 0)
    await_(lambda: len(server._places) == 2)
    # Who is due sooner goes first.
    with came(server) as sock:
        assert served(sock)
    for sock in early:
        sock.close()


def test_who_leaves_while_it_waits_gives_its_place_back(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_paces", (_Late(), _Late()))
    monkeypatch.setattr(_Late, "SECONDS", 3600)
    for _ in range(3):
        came(server).close()
    await_(lambda: len(server._places) == 0)
    assert not server._early


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a page that is waited for")
def test_who_left_something_that_cannot_be_closed_keeps_its_place(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_paces", (_Late(), _Late()))
    monkeypatch.setattr(_Late, "SECONDS", 3600)
    stuck = Stuck()
    try:
        server.welcome(*stuck.connections)
        await_(lambda: bool(server.closer._working))
        assert not server._early
        assert len(server._places) == 1
    finally:
        stuck.free()
    await_(lambda: len(server._places) == 0)


def test_who_waits_without_a_thread_is_served_when_there_is_one(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(server, "_paces", (_Late(), _Late()))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        first = came(server)
        assert "clients wait for a thread" in caplog.text
    with first, came(server) as second:
        assert served(first)
        assert served(second)
