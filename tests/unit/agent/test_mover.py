"""The mover between clients and the API's server: what it carries out, passes on and refuses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api.conftest import Served, WaitingMoves, wait_for

from agent.test_entries import report
from prtrace.agent import mover
from prtrace.agent.entries import MOVE
from prtrace.agent.mover import Mover, ReadersMoves
from prtrace.api.server import ApiServer
from prtrace.errors import NoSuchDeviceError, PrtraceError, UnavailableError
from prtrace.linux.journal import SystemJournal
from prtrace.linux.peer import Peer
from prtrace.linux.unixsocket import Listener
from prtrace.state.event import Command

FILE = {"schema": "prtrace.save/2", "units": []}
NOBODY = Peer(0, 65534, 65534)


class ByMover(Served):
    """A server whose connections of those who may change things are a mover's."""

    def __init__(self, directory: Path, *, journal: bool = False) -> None:
        super().__init__(directory, None)
        self.link, self.far_link = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.mover = Mover(self.link)
        self.moved = WaitingMoves()
        self.told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.told.bind(str(directory / "journal"))
        self.journal = SystemJournal(str(directory / "journal") if journal else "")
        self.thread = threading.Thread(
            target=mover.serve_connections,
            args=(
                self.far_link,
                lambda: self.moved,
                os.getegid(),
                self.journal,
                str(self.path),
            ),
        )
        self.thread.start()

    def _start(self) -> None:
        self.source.open()
        loop = asyncio.get_running_loop()

        def adopt(knowing: socket.socket) -> None:
            asyncio.run_coroutine_threadsafe(self.server.adopt(knowing, NOBODY), loop).result(20)

        self.server = ApiServer(
            self.source,
            lambda: ReadersMoves(self.mover, adopt),
            admin_gid=os.getegid(),
            hand_over=self.mover.take,
        )
        self.server.start(Listener.bind(self.path))


@contextlib.contextmanager
def serving(made: ByMover) -> Iterator[ByMover]:
    with made.running():
        yield made
    made.link.close()
    made.thread.join(20)
    made.far_link.close()
    made.journal.close()
    made.told.close()
    assert not made.thread.is_alive()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ByMover]:
    with serving(ByMover(tmp_path)) as made:
        yield made


def test_the_journal_is_told_what_became_of_a_verb(tmp_path: Path) -> None:
    class Moving(WaitingMoves):
        def carry_out(self, verb: str, given: Any, step: Any) -> dict[str, Any]:
            return report(verb=verb)

    with serving(ByMover(tmp_path, journal=True)) as made:
        made.moved = Moving()
        made.client().call("Finish", file=FILE)
        entry = made.told.recv(65536)
    assert MOVE.encode() in entry
    assert b"another key is registered here" in entry


def test_what_moves_is_carried_out_by_the_mover(served: ByMover) -> None:
    client = served.client()
    done = {"report": {"verb": "Finish", "file": FILE}}
    assert client.call("Finish", file=FILE) == done
    steps = [{"steps": [{"lu": "naa.1", "what": what}]} for what in ("first", "last")]
    loaded = [*client.stream("Load", file=FILE)]
    assert loaded == [*steps, {"report": {"verb": "Load", "file": FILE}}]
    assert served.moved.done == ["finish", "load"]
    assert served.moves.begun == []


def test_what_it_knows_comes_from_the_agent(served: ByMover) -> None:
    served.happen(130, command=Command.PR_OUT)
    checked = served.client().call("Check", devices=["naa.1"], guest="db1", pid=7)
    assert checked["units"] == [{"lu": "naa.1"}, list(range(1, 131))]
    with pytest.raises(NoSuchDeviceError):
        served.client().call("Check", devices=["naa.3"])


def test_a_name_that_leads_out_of_dev_is_not_looked_at(served: ByMover) -> None:
    for name in ("/etc/shadow", "/dev/../etc/shadow", "/dev/shm/x"):
        with pytest.raises(NoSuchDeviceError, match="no node below"):
            served.client().call("Save", devices=[name])


def test_other_calls_are_answered_by_the_agent(served: ByMover) -> None:
    client = served.client()
    assert client.call("Status")["status"]["units"] == 2
    served.happen(200)
    events = [event for reply in client.stream("Events") for event in reply.get("events", ())]
    assert [event["seq"] for event in events] == list(range(1, 201))
    with pytest.raises(NoSuchDeviceError):
        client.call("Resolve", name="/dev/sdz")


def replies(connection: socket.socket, wanted: int) -> list[dict[str, Any]]:
    received = bytearray()
    while received.count(0) < wanted:
        chunk = connection.recv(65536)
        assert chunk
        received += chunk
    return [json.loads(each) for each in received.split(b"\0")[:wanted]]


def test_several_calls_are_answered_in_their_order(served: ByMover) -> None:
    calls = [
        {"method": "io.prtrace.Status"},
        {"method": "io.prtrace.Finish", "parameters": {"file": FILE}},
        {"method": "io.prtrace.Finish", "parameters": {"file": FILE}, "oneway": True},
        {"method": "io.prtrace.Nothing"},
        {"method": "io.prtrace.Status", "oneway": True},
        {"method": "io.prtrace.Status", "oneway": True, "more": True},
        {"method": "io.prtrace.Status"},
        {"method": "io.prtrace.Moves"},
    ]
    with served.connect() as connection:
        connection.sendall(b"".join(json.dumps(each).encode() + b"\0" for each in calls))
        connection.sendall(b'{"garbage\0[]\0')
        told = replies(connection, 7)
    kinds = [next(iter(each.get("parameters", {})), each.get("error")) for each in told]
    assert kinds == ["status", "report", "method", "status", "schema", "message", "message"]
    assert served.moved.done == ["finish", "finish", "moves"]


def test_a_client_that_goes_does_not_end_what_it_began(served: ByMover) -> None:
    served.moved.may_end.clear()
    call = {"method": "io.prtrace.Load", "parameters": {"file": FILE}, "more": True}
    with served.connect() as connection:
        connection.sendall(json.dumps(call).encode() + b"\0")
        wait_for(lambda: served.moved.begun)
    served.moved.may_end.set()
    wait_for(lambda: served.moved.done == ["load"])


def test_a_follower_that_goes_is_noticed(served: ByMover) -> None:
    call = b'{"method":"io.prtrace.Events","parameters":{"follow":true},"more":true}\0'
    with served.connect() as connection:
        connection.sendall(call)
        wait_for(lambda: served.run(served.server.statistics)["followers"] == 1)
    wait_for(lambda: served.connections() == 0)


def test_failures_are_answers(served: ByMover) -> None:
    served.moved.failing = UnavailableError("no", hint="yes")
    with pytest.raises(PrtraceError) as failed:
        served.client().call("Finish", file=FILE)
    assert (failed.value.message, failed.value.hint) == ("no", "yes")
    served.moved.failing = ZeroDivisionError()
    with pytest.raises(PrtraceError, match="the call failed"):
        served.client().call("Finish", file=FILE)


def test_a_call_that_is_too_long_is_refused(served: ByMover) -> None:
    with served.connect() as connection:
        with contextlib.suppress(OSError):
            connection.sendall(b"x" * (3 << 20))
        (told,) = replies(connection, 1)
    assert told["error"] == "io.prtrace.InvalidArgument"


def test_a_reader_is_told_by_the_mover_and_moves_nothing(served: ByMover) -> None:
    moves = served.run(served.server._moves)
    served.happen(3, command=Command.PR_OUT)
    assert moves.check(None, ["naa.1"], None, None)["units"] == [{"lu": "naa.1"}, [1, 2, 3]]
    assert moves.unfinished()["moves"] == []
    client, knowing = served.mover.reader()
    with client.connection, knowing, pytest.raises(UnavailableError, match="may not call"):
        client.call("Finish", file=FILE)
    with pytest.raises(PrtraceError):
        moves.carry_out("Finish", {}, lambda *_: None)
    assert served.moved.done == ["check", "moves"]


def made_by_nobody() -> tuple[socket.socket, socket.socket]:
    """A connection whose ends the kernel knows as another user's."""
    control, childs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with control, childs:
        child = os.fork()
        if child == 0:
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            ends = socket.socketpair()
            socket.send_fds(childs, [b"x"], [each.fileno() for each in ends])
            os._exit(0)
        _, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        os.waitpid(child, 0)
    ours, theirs = (socket.socket(fileno=fd) for fd in descriptors)
    return ours, theirs


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_who_is_at_the_other_end_is_what_the_kernel_says(served: ByMover) -> None:
    ours, theirs = made_by_nobody()
    with ours, theirs:
        served.mover.take(theirs).close()
        theirs.close()
        ours.settimeout(20)
        with contextlib.suppress(OSError):
            ours.sendall(b'{"method":"io.prtrace.Finish","parameters":{"file":{}}}\0')
        with contextlib.suppress(ConnectionResetError):
            assert ours.recv(1) == b""
    assert not served.moved.begun


LOAD = json.dumps(
    {"method": "io.prtrace.Load", "more": True, "parameters": {"file": FILE}}
).encode()


def hand_over(made: ByMover, *descriptors: int) -> None:
    socket.send_fds(made.link, [b"C"], descriptors)


def test_the_end_that_connects_moves_nothing(served: ByMover, tmp_path: Path) -> None:
    """Of that end the kernel names who listens: a taken-over agent finds a socket of root's."""
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as connecting:
        listening.bind(str(tmp_path / "roots"))
        listening.listen()
        connecting.connect(str(tmp_path / "roots"))
        ours, theirs = socket.socketpair()
        accepted, _ = listening.accept()
        with ours, theirs, accepted:
            hand_over(served, connecting.fileno(), theirs.fileno())
            connecting.close()
            accepted.settimeout(20)
            with contextlib.suppress(OSError):
                accepted.sendall(LOAD + b"\0")
            with contextlib.suppress(ConnectionResetError):
                assert accepted.recv(100) == b""
    assert served.moved.done == []


@pytest.mark.parametrize("what", ["pair", "file"])
def test_what_the_service_did_not_accept_moves_nothing(served: ByMover, what: str) -> None:
    """And the mover serves others afterwards."""
    left, right = socket.socketpair()
    ours, theirs = socket.socketpair()
    with left, right, ours, theirs, open(os.devnull) as file:
        handed = {"pair": right, "file": file}[what].fileno()
        hand_over(served, handed, theirs.fileno())
        right.close()
        theirs.close()
        for each in (left, ours):
            each.settimeout(20)
            with contextlib.suppress(OSError):
                each.sendall(LOAD + b"\0")
        with contextlib.suppress(ConnectionResetError):
            assert ours.recv(100) == b""
    assert served.moved.done == []
    served.client().call("Finish", file=FILE)
    assert served.moved.done == ["finish"]
