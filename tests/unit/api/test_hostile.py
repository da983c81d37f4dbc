"""Peers that mean harm lose their connection; the others do not notice."""

import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from labkit import pace
from labkit.processes import fork
from linux.stuck import Stuck

from api.conftest import wait_for
from prtrace.api.address import MAX_CHANGE_CALL
from prtrace.api.calls import Refusal
from prtrace.api.client import Client
from prtrace.api.connection import Deadline
from prtrace.api.interface import Fault
from prtrace.api.room import ConnectionLimits, Room
from prtrace.errors import AgentUnreachableError
from prtrace.linux.peer import Peer

SHOW = b'{"method":"io.prtrace.Show"}\0'


def drained(connection):
    """Everything until the server closes."""
    received = b""
    try:
        while chunk := connection.recv(1 << 16):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def works(served):
    return len(served.client().call("Show")["units"]) == 2


SENDS_WHAT_LINGERS = """
import array, contextlib, os, socket, struct, sys, threading
kept = []
for _ in range(3):
    ours = socket.socket(socket.AF_UNIX)
    ours.connect(sys.argv[1])
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sender = socket.create_connection(listening.getsockname())
        kept += ours, listening.accept()[0]
    # An hour, for what nobody reads.
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    sender.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sender.send(bytes(1 << 16))
    fd = sender.detach()
    try:
        ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
    except PermissionError:
        ours.close()  # the server refuses it, from Linux 6.16 on
    # Where the server has closed its own already, this one takes the hour.
    threading.Thread(target=os.close, args=(fd,), daemon=True).start()
print(len(kept), flush=True)
sys.stdin.read()
"""


def test_a_descriptor_that_takes_an_hour_to_close_holds_up_nobody(served):
    """Whoever reads without a place for it closes it, if the sender has closed its own."""
    command = [sys.executable, "-c", SENDS_WHAT_LINGERS, os.path.relpath(served.path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as hostile:
        assert hostile.stdout.readline() == "6\n"
        for _ in range(5):
            assert works(served)
        wait_for(lambda: served.connections() == 0)
        hostile.stdin.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0",
        b"\0\0\0",
        b"GET / HTTP/1.1\r\n\r\n\0",
        b"\xff\xfe\0",
        b"[]\0",
        b"null\0",
        b'{"method":5}\0',
        b'{"method":""}\0',
        b'{"method":"Show"}\0',
        b'{"method":"io.prtrace.__init__"}\0',
        b'{"method":"io.prtrace.render_interface_description"}\0',
        b'{"method":"io.prtrace.Show","parameters":[]}\0',
        b'{"method":"io.prtrace.Show","parameters":{"devices":"/dev/sda"}}\0',
        b'{"method":"io.prtrace.Show","parameters":{"devices":["\\ud800"]}}\0',
        b'{"method":"io.prtrace.Show","more":"yes"}\0',
        b'{"method":"io.prtrace.Show","parameters":{"devices":' + b"[" * 60_000 + b"}}\0",
        b'{"method":"io.prtrace.Events","more":true,"parameters":{"last":' + b"9" * 5000 + b"}}\0",
    ],
    ids=lambda garbage: repr(garbage[:60]),
)
def test_garbage_is_answered_with_an_error(served, garbage):
    with served.connect() as connection:
        connection.sendall(garbage)
        connection.sendall(SHOW)
        connection.shutdown(socket.SHUT_WR)
        *refused, good = [json.loads(part) for part in drained(connection).split(b"\0") if part]
    assert refused
    assert all("error" in reply for reply in refused)
    assert len(good["parameters"]["units"]) == 2


@settings(
    max_examples=settings.default.max_examples,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.binary(max_size=80), max_size=5))
def test_any_bytes_leave_the_server_working(served, parts):
    with served.connect() as connection:
        for part in parts:
            connection.sendall(part)
        connection.shutdown(socket.SHUT_WR)
        for reply in drained(connection).split(b"\0"):
            assert not reply or json.loads(reply)
    assert works(served)


def test_byte_by_byte_is_a_call_too(served):
    with served.connect() as connection:
        for byte in SHOW:
            connection.sendall(bytes([byte]))
        assert b"units" in connection.recv(1 << 16)


@pytest.mark.parametrize("end", [b"", b"\0"], ids=["endless", "ended"])
def test_a_huge_call_ends_the_connection(served, end):
    """The answer is there for whoever sends to the end, and reads only then."""
    with served.connect() as connection:
        connection.sendall(b'{"method":"' + b"x" * MAX_CHANGE_CALL * 4 + end)
        received = drained(connection)
    assert b"at most 1048576 bytes" in received
    assert works(served)
    wait_for(lambda: served.connections() == 0)


def test_who_never_ends_a_huge_call_is_not_read_for_ever(served):
    with served.connect() as connection, pytest.raises((BrokenPipeError, ConnectionResetError)):
        connection.sendall(b"x" * MAX_CHANGE_CALL * 64)
    assert works(served)


def test_the_largest_call_is_taken(served):
    call = SHOW[:-2] + b" " * (MAX_CHANGE_CALL - len(SHOW)) + SHOW[-2:]
    assert len(call) == MAX_CHANGE_CALL
    with served.connect() as connection:
        connection.sendall(call)
        assert b"units" in connection.recv(1 << 16)


def test_half_a_call_is_waited_for_so_long(served, monkeypatch):
    monkeypatch.setattr(Deadline.PARTIAL, "_value_", 0.3)
    with served.connect() as connection:
        before = time.monotonic()
        connection.sendall(SHOW[:-1])
        assert drained(connection) == b""
        assert time.monotonic() - before >= 0.3
    wait_for(lambda: served.connections() == 0)


def test_many_calls_at_once_do_not_shut_others_out(served):
    with served.connect() as connection:
        connection.setblocking(False)
        sent = connection.send(SHOW * 4000)
        assert works(served)
        connection.settimeout(pace.limit(20))
        replies = 0
        while replies < sent // len(SHOW):
            replies += connection.recv(1 << 16).count(b"\0")


def test_a_peer_that_never_reads_costs_little(served):
    """Its replies fill the socket, then its calls are left unread."""
    served.happen(500, data=bytes(4096))
    call = b'{"method":"io.prtrace.Events","more":true}\0'
    with served.connect(timeout=0.5) as connection:
        with pytest.raises(TimeoutError):
            connection.sendall(call * 1_000_000)
        waiting = served.run(lambda: [each.waiting() for each in served.server._connections])
        assert sum(waiting) < 2 << 20
        assert works(served)


class TestTooMany:
    @pytest.fixture
    def limits(self):
        return ConnectionLimits(total=20, others=10, each=5)

    def test_who_is_sent_away_in_the_middle_of_a_call_reads_why(self, tmp_path):
        path = str(tmp_path / "closing")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            listening.listen()

            def refuse():
                accepted, _ = listening.accept()
                accepted.send(Refusal(Fault.BUSY, {"message": "too many", "hint": ""}).reply)
                accepted.close()

            with ThreadPoolExecutor(1) as other:
                refused = other.submit(refuse)
                with pytest.raises(AgentUnreachableError, match="too many"):
                    Client(path).call("Show", devices=["x" * (4 << 20)])
                refused.result(20)

    def test_connections_are_limited(self, served):
        kept = [served.connect() for _ in range(20)]
        try:
            with pytest.raises(AgentUnreachableError, match="too many connections"):
                served.client().call("Show")
            assert served.run(served.server.statistics)["refused"] >= 1
        finally:
            for connection in kept:
                connection.close()
        wait_for(lambda: served.connections() == 0)
        assert works(served)

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a page that is waited for")
    def test_what_is_never_closed_keeps_the_places_of_its_user_alone(self, served):
        """Five have places, and the rest were refused."""
        stuck = Stuck(25)
        try:
            for connection in stuck.connections:
                served.run(served.server.admit, connection, Peer(1, 1001, 1001))
            wait_for(lambda: not served.run(lambda: served.server._connections))
            assert served.connections() == 25
            assert works(served)
            room = served.server._room
            assert not room.is_left_for(Peer(2, 1001, 1001))
            assert room.is_left_for(Peer(3, 1002, 1002))
        finally:
            stuck.free()
        wait_for(lambda: served.connections() == 0)

    def test_what_many_users_do_not_get_closed_leaves_root_its_places(self):
        room = Room(ConnectionLimits())
        for uid in range(1000, 1020):
            for _ in range(40):
                room.enter(Peer(uid, uid, uid))
        assert not room.is_left_for(Peer(1, 2000, 2000))
        for _ in range(64):
            assert room.is_left_for(Peer(1, 0, 0))
            room.enter(Peer(1, 0, 0))
        assert not room.is_left_for(Peer(1, 0, 0))

    def test_processes_of_other_namespaces_take_their_own_users_places_alone(self):
        """The kernel calls each of them 0."""
        limits = ConnectionLimits()
        room = Room(limits)
        for _ in range(limits.process):
            assert room.is_left_for(Peer(0, 1000, 1000))
            room.enter(Peer(0, 1000, 1000))
        assert not room.is_left_for(Peer(0, 1000, 1000))
        assert room.is_left_for(Peer(0, 1001, 1001))
        room.leave(Peer(0, 1000, 1000))
        assert room.is_left_for(Peer(0, 1000, 1000))

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
    def test_one_user_cannot_shut_out_another(self, served):
        served.let_in()
        assert as_user(65534, served, lambda: open_many(served, 7)) == 5
        assert works(served)


def open_many(served, count):
    """How many of so many connections are served."""
    kept = [served.connect() for _ in range(count)]
    good = 0
    for connection in kept:
        try:
            connection.sendall(SHOW)
            good += b"units" in connection.recv(1 << 16)
        except (BrokenPipeError, ConnectionResetError):
            continue
    return good


def as_user(uid, served, function):
    """What function gives in a child process of that user; it must be a small number."""

    def work():
        os.chdir(served.path.parent)
        os.setgroups([65534])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        return function()

    _, status = os.waitpid(fork(work), 0)
    return os.waitstatus_to_exitcode(status)


def test_a_thousand_connections_come_and_go(served):
    for _ in range(1000):
        served.connect().close()
    wait_for(lambda: served.connections() == 0)
    assert works(served)
    assert len(os.listdir("/proc/self/fd")) < 100
