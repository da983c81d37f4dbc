"""The mover between clients and the API's server: what it carries out, passes on and refuses."""

from __future__ import annotations

import array
import contextlib
import json
import os
import resource
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from api.conftest import Served, WaitingMoves, wait_for
from labkit import pace
from linux.lingering import Lingering
from linux.stuck import Stuck

from agent.test_entries import report
from prtrace.agent import arrivals, conversation, mover, moverlink
from prtrace.agent.arrivals import Arrivals, Mover
from prtrace.agent.entries import MOVE
from prtrace.agent.readersmoves import ReadersMoves
from prtrace.api.address import MAX_CHANGE_CALL, roots_door
from prtrace.api.calls import reply
from prtrace.api.client import Client
from prtrace.api.connection import Deadline
from prtrace.api.room import ConnectionLimits
from prtrace.api.server import ApiServer
from prtrace.errors import (
    AgentUnreachableError,
    NoSuchDeviceError,
    PrtraceError,
    UnavailableError,
)
from prtrace.linux.journal import SystemJournal
from prtrace.linux.peer import Peer
from prtrace.linux.unixsocket import Listener
from prtrace.state.event import Command

FILE = {"schema": "prtrace.save/2", "units": []}
FINISHED = {"report": {"verb": "Finish", "file": FILE}}
LIMITS = ConnectionLimits(total=20, each=8)


def call(method: str, **more: Any) -> bytes:
    return json.dumps({"method": f"io.prtrace.{method}", **more}).encode() + b"\0"


FINISH = call("Finish", parameters={"file": FILE})


class MoverThread:
    """A mover in a thread.  link: the agent's end.  Members of this group may change things.

    first: called before it begins.
    """

    def __init__(
        self,
        path: Path,
        *,
        journal: bool = False,
        first: Callable[[MoverThread], None] = lambda _: None,
    ) -> None:
        told = path.with_name("journal")
        self.told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.told.settimeout(pace.limit(20))
        self.told.bind(str(told))
        self.journal = SystemJournal(str(told) if journal else "")
        self.link, self.far_link = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.link.settimeout(pace.limit(20))
        self.calls: socket.socket | None = None
        self.moved = WaitingMoves()
        self.listener = Listener.bind(path)
        self.roots = Listener.bind(Path(roots_door(str(path))))
        first(self)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        mover.serve_connections(
            self.far_link,
            mover.Doors(self.listener.socket, self.roots.socket),
            lambda: self.moved,
            os.getegid(),
            self.journal,
            LIMITS,
        )

    def end(self) -> None:
        self.link.close()
        if self.calls is not None:
            self.calls.close()
        self.thread.join(20)
        self.far_link.close()
        self.listener.close()
        self.roots.close()
        self.journal.close()
        self.told.close()
        assert not self.thread.is_alive()


class ByMover(Served):
    """A server that gets its connections from a mover."""

    def __init__(self, directory: Path, *, journal: bool = False) -> None:
        super().__init__(directory, None)
        self.at = MoverThread(self.path, journal=journal)
        self.moved = self.at.moved
        self.mover = Mover(self.at.link, str(self.path))

    def _start(self) -> None:
        self.source.open()
        self.server = ApiServer(
            self.source, lambda: ReadersMoves(self.mover), admin_gid=os.getegid()
        )
        self.mover.await_settled()
        self.arrivals = Arrivals(self.mover, self.server, lambda work: work())

    async def _close(self) -> None:
        await self.server.close()
        self.arrivals.close()
        self.source.store.close()


@contextlib.contextmanager
def serving(made: ByMover) -> Iterator[ByMover]:
    try:
        with made.running():
            yield made
    finally:
        made.at.end()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ByMover]:
    with serving(ByMover(tmp_path)) as made:
        yield made


def test_the_journal_is_told_what_became_of_a_verb(tmp_path: Path) -> None:
    class Moving(WaitingMoves):  # type: ignore[misc]
        def carry_out(self, verb: str, given: Any, step: Any) -> dict[str, Any]:
            return report(verb=verb)

    with serving(ByMover(tmp_path, journal=True)) as made:
        made.at.moved = Moving()
        made.client().call("Finish", file=FILE)
        entry = made.at.told.recv(65536)
    assert MOVE.encode() in entry
    assert b"another key is registered here" in entry


def test_what_moves_is_carried_out_by_the_mover(served: ByMover) -> None:
    client = served.client()
    assert client.call("Finish", file=FILE) == FINISHED
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
    *whole, rest = received.split(b"\0")
    assert (len(whole), rest) == (wanted, b""), "more was sent than was asked for"
    for each in whole:
        assert each.count(b'"continues"') <= 1
    return [json.loads(each) for each in whole]


def test_several_calls_are_answered_in_their_order(served: ByMover) -> None:
    calls = [
        {"method": "io.prtrace.Status"},
        {"method": "io.prtrace.Finish", "parameters": {"file": FILE}},
        {"method": "io.prtrace.Finish", "parameters": {"file": FILE}, "oneway": True},
        {"method": "io.prtrace.Nothing"},
        {"method": "io.prtrace.Status", "oneway": True},
        {"method": "io.prtrace.Moves"},
    ]
    with served.connect() as connection:
        connection.sendall(b"".join(json.dumps(each).encode() + b"\0" for each in calls))
        connection.sendall(b'{"garbage\0[]\0')
        told = replies(connection, 6)
    kinds = [next(iter(each.get("parameters", {})), each.get("error")) for each in told]
    assert kinds == ["status", "report", "method", "schema", "message", "message"]
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
    for end in (b"", b"\0"):
        with served.connect() as connection:
            connection.sendall(b"x" * MAX_CHANGE_CALL * 4 + end)
            (told,) = replies(connection, 1)
            assert told["error"] == "io.prtrace.InvalidArgument"
            assert connection.recv(1) == b""


def test_half_a_call_is_waited_for_so_long(
    served: ByMover, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the server of the API waits for the rest of a call."""
    monkeypatch.setattr(Deadline.PARTIAL, "_value_", 0.5)
    with served.connect() as connection:
        begun = time.monotonic()
        connection.sendall(FINISH + FINISH[:20])
        assert replies(connection, 1)[0]["parameters"] == FINISHED
        assert connection.recv(1) == b""
        assert time.monotonic() - begun > 0.4


def test_what_is_refused_or_oneway_leaves_the_next_answer_its_own(served: ByMover) -> None:
    """A call that the server refuses although its form says that no reply is wanted."""
    calls = [
        call("Show", oneway=True, more=True),
        call("Show", oneway=True, parameters={"devices": ["naa.3"]}),
        call("Resolve", parameters={"name": "naa.1"}),
        call("Resolve", parameters={"name": "/dev/sdb"}),
        call("Check", parameters={"devices": ["naa.1"]}),
    ]
    with served.connect() as connection:
        connection.sendall(b"".join(calls))
        refused, *told = replies(connection, 4)
    assert "oneway" in refused["parameters"]["message"]
    assert [each["parameters"].get("lu") for each in told] == ["naa.1", "naa.2", None]
    assert told[-1]["parameters"]["units"][0] == {"lu": "naa.1"}


def test_connections_of_who_may_change_things_are_limited(served: ByMover) -> None:
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context(served.connect()) for _ in range(LIMITS.total)]
        kept[-1].sendall(FINISH)
        replies(kept[-1], 1)
        with pytest.raises(AgentUnreachableError, match="too many connections"):
            served.client().call("Show")

    def works() -> bool:
        with contextlib.suppress(AgentUnreachableError):
            return len(served.client().call("Show")["units"]) == 2
        return False

    wait_for(works)


def test_a_move_waits_for_no_client_that_does_not_read(served: ByMover) -> None:
    class Talking(WaitingMoves):  # type: ignore[misc]
        def carry_out(self, verb: str, given: Any, step: Callable[[str, str], None]) -> Any:
            for _ in range(20_000):
                step("naa.1", "one more step")
            return self._call(verb.lower(), {"verb": verb})

    served.at.moved = moved = Talking()
    with served.connect() as connection:
        connection.sendall(call("Load", parameters={"file": FILE}, more=True))
        wait_for(lambda: moved.done == ["load"])
        received = b""
        while not received.endswith(b'{"parameters":{"report":{"verb":"Load"}}}\0'):
            chunk = connection.recv(65536)
            assert chunk
            received += chunk
    for each in received.split(b"\0")[:-1]:
        json.loads(each)


# ---- Readers ----


def test_a_reader_is_told_by_the_mover_and_moves_nothing(served: ByMover) -> None:
    moves = served.run(served.server._moves)
    served.happen(3, command=Command.PR_OUT)
    assert moves.check(None, ["naa.1"], None, None)["units"] == [{"lu": "naa.1"}, [1, 2, 3]]
    assert moves.unfinished()["moves"] == []
    with served.mover.reader() as connection:
        connection.settimeout(pace.limit(20))
        connection.sendall(FINISH + call("CheckFile", parameters={"file": FILE}))
        told = replies(connection, 2)
        assert [each["error"] for each in told] == ["io.prtrace.PermissionDenied"] * 2
        # The agent is asked nothing on behalf of itself.
        connection.sendall(call("Status"))
        assert connection.recv(1) == b""
    with pytest.raises(PrtraceError):
        moves.carry_out("Finish", {}, lambda *_: None)
    assert served.moved.done == ["check", "moves"]


def test_the_agent_gets_few_readers_at_once(served: ByMover) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(served.mover.reader())
        with pytest.raises(BlockingIOError):
            served.mover.reader()
        with pytest.raises(AgentUnreachableError):
            served.run(served.server._moves).unfinished()
        assert served.client().call("Finish", file=FILE) == FINISHED

    def given() -> bool:
        with contextlib.suppress(BlockingIOError):
            served.mover.reader().close()
            return True
        return False

    wait_for(given)


def as_nobody(path: Path, work: Callable[[str], bytes], uid: int = 65534) -> bytes:
    """What work comes to, done by another user who may connect to path; it gets the path."""
    os.chmod(path, 0o666)
    os.chmod(path.parent, 0o711)
    told, telling = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            # The folders above are root's alone.
            os.chdir(path.parent)
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(uid, uid, uid)
            os.write(telling, work(path.name))
        os._exit(0)
    os.close(telling)
    with open(told, "rb") as pipe:
        found = pipe.read()
    os.waitpid(child, 0)
    return found


def connection_to(path: Path | str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(pace.limit(20))
    connection.connect(str(path))
    return connection


def by_nobody(served: ByMover, *calls: bytes) -> list[dict[str, Any]]:
    """The replies to another user's calls."""

    def asked(path: str) -> bytes:
        with connection_to(path) as connection:
            connection.sendall(b"".join(calls))
            return json.dumps(replies(connection, len(calls))).encode()

    found: list[dict[str, Any]] = json.loads(as_nobody(served.path, asked))
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_a_connection_of_a_reader_is_the_agents(served: ByMover) -> None:
    names = {"devices": ["naa.1"]}
    status, finish, check = by_nobody(
        served, call("Status"), FINISH, call("Check", parameters=names)
    )
    assert status["parameters"]["status"]["units"] == 2
    assert finish["error"] == "io.prtrace.PermissionDenied"
    assert "uid 65534" in finish["parameters"]["message"]
    assert check["parameters"]["units"][0] == {"lu": "naa.1"}
    assert served.moved.begun == ["check"]


# ---- Agents that have become something else ----


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[MoverThread]:
    """A mover whose agent is the test."""
    made = MoverThread(tmp_path / "io.prtrace")
    message, (calls,), _, _ = socket.recv_fds(made.link, 10, 1)
    assert message == b"S"
    made.calls = socket.socket(fileno=calls)
    made.calls.settimeout(pace.limit(20))
    try:
        yield made
    finally:
        made.end()


def client_of(at: MoverThread) -> Client:
    return Client(str(at.listener.path), timeout=pace.limit(20))


def connected(at: MoverThread) -> socket.socket:
    return connection_to(at.listener.path)


def called(at: MoverThread) -> socket.socket:
    """The connection that the mover calls the agent on."""
    assert at.calls is not None
    _, descriptors, _, _ = socket.recv_fds(at.calls, 4096, 1)
    connection = socket.socket(fileno=descriptors[0])
    connection.settimeout(pace.limit(20))
    return connection


def test_a_call_is_there_when_its_connection_comes(alone: MoverThread) -> None:
    """The agent answers in that same turn; the rest of a long call follows."""
    short, long = call("Status"), call("Show", parameters={"devices": ["x" * 500_000]})
    with connected(alone) as connection:
        for sent in (short, long):
            connection.sendall(sent)
            with called(alone) as agent:
                agent.setblocking(False)
                received = agent.recv(MAX_CHANGE_CALL)
                agent.settimeout(20)
                while not received.endswith(b"\0"):
                    chunk = agent.recv(65536)
                    assert chunk
                    received += chunk
                assert json.loads(received[:-1])["parameters"] == json.loads(sent[:-1]).get(
                    "parameters", {}
                )
                agent.sendall(reply({"status": 1}))
            assert replies(connection, 1) == [{"parameters": {"status": 1}}]


@contextlib.contextmanager
def settled(at: MoverThread) -> Iterator[None]:
    """Once it has answered, the mover has closed what it closes at its start."""
    with connected(at) as connection:
        connection.sendall(FINISH)
        assert replies(connection, 1)[0]["parameters"] == FINISHED
        yield


@contextlib.contextmanager
def no_descriptors(at: MoverThread) -> Iterator[None]:
    """Nothing more can be opened in this process, nor accepted."""
    with settled(at), _limited():
        yield


def copies(inode: int) -> int:
    """How many descriptors of this process lead there."""
    have = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            have += os.stat(f"/proc/self/fd/{name}").st_ino == inode
    return have


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_mover_without_descriptors_serves_the_agent_meanwhile(
    alone: MoverThread, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mover, "SCARCE_RETRY", 1000.0)
    with socket.socket(socket.AF_UNIX) as client, no_descriptors(alone):
        client.connect(str(alone.listener.path))
        wait_for(lambda: "no connection can be accepted" in caplog.text)
        for number in range(100):
            alone.link.send(b"%8d" % number)
            assert alone.link.recv(4096) == b"R%8d" % number
    assert caplog.text.count("no connection can be accepted") == 1


def test_who_waited_meanwhile_is_accepted(
    alone: MoverThread, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mover, "SCARCE_RETRY", 0.05)
    with socket.socket(socket.AF_UNIX) as client:
        with no_descriptors(alone):
            client.connect(str(alone.listener.path))
            wait_for(lambda: "no connection can be accepted" in caplog.text)
        client.settimeout(20)
        client.sendall(FINISH)
        assert replies(client, 1)[0]["parameters"] == FINISHED


@pytest.mark.parametrize("message", [b"C", b"R", b"A" * 13, b"12345678", b"x" * 100])
def test_no_end_that_the_agent_hands_over_is_believed(
    alone: MoverThread, message: bytes, tmp_path: Path
) -> None:
    """Above all not the end that called connect(): there the kernel names who listens, root."""
    with socket.socket(socket.AF_UNIX) as own, socket.socket(socket.AF_UNIX) as end:
        own.bind(str(tmp_path / "of root's"))
        own.listen()
        end.connect(str(tmp_path / "of root's"))
        far, _ = own.accept()
        pair = socket.socketpair()
        with far, pair[0], pair[1]:
            socket.send_fds(alone.link, [message], [end.fileno(), pair[1].fileno()])
            end.close()
            far.settimeout(pace.limit(20))
            with contextlib.suppress(OSError):
                far.sendall(FINISH)
            with contextlib.suppress(ConnectionResetError):
                assert far.recv(1) == b"", "somebody answers"
    assert client_of(alone).call("Moves")["moves"] == []
    assert alone.moved.begun == ["moves"]


def test_what_is_no_socket_ends_no_move(alone: MoverThread) -> None:
    alone.moved.may_end.clear()
    null = os.open("/dev/null", os.O_RDONLY)
    with connected(alone) as connection:
        connection.sendall(FINISH)
        wait_for(lambda: alone.moved.begun)
        before = len(os.listdir("/proc/self/fd"))
        for number in range(100):
            socket.send_fds(alone.link, [b"C" * (number % 7 + 1)], [null] * (number % 5 + 1))
        alone.link.send(b"a reader")
        given = socket.recv_fds(alone.link, 4096, 1)
        assert given[0] == b"Ra reader"
        os.close(given[1][0])
        alone.moved.may_end.set()
        assert replies(connection, 1)[0]["parameters"] == FINISHED
        wait_for(lambda: len(os.listdir("/proc/self/fd")) <= before)
    os.close(null)


def test_an_agent_that_ends_leaves_moves_to_their_end_and_begins_none(alone: MoverThread) -> None:
    alone.moved.may_end.clear()
    with connected(alone) as connection, connected(alone) as late:
        late.sendall(call("Nothing"))
        replies(late, 1)
        connection.sendall(FINISH)
        wait_for(lambda: alone.moved.begun)
        alone.link.close()
        wait_for(lambda: alone.listener.socket.fileno() < 0)
        late.sendall(FINISH)
        assert replies(late, 1)[0]["parameters"]["message"] == "the agent ends"
        alone.moved.may_end.set()
        assert replies(connection, 1)[0]["parameters"] == FINISHED
    assert alone.moved.begun == ["finish"]


def test_an_agent_that_takes_nothing_keeps_no_move_from_its_answer(
    alone: MoverThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "PATIENCE", 0.3)
    with connected(alone) as connection:
        # Until as many connections wait for the agent as the kernel keeps.
        for _ in range(600):
            connection.sendall(call("Status"))
            assert replies(connection, 1)[0]["error"] == "io.prtrace.Busy"
            monkeypatch.setattr(conversation, "PATIENCE", 0.0)
        connection.sendall(FINISH)
        assert replies(connection, 1)[0]["parameters"] == FINISHED
    for verb in ("Load", "Rollback", "LateCommit"):
        *_, last = client_of(alone).stream(verb, file=FILE)
        assert last["report"]["verb"] == verb
    with pytest.raises(PrtraceError, match="takes no connection"):
        client_of(alone).call("Check", devices=["naa.1"])


def fill(link: socket.socket) -> None:
    """Send as many messages as the kernel keeps."""
    with contextlib.suppress(BlockingIOError):
        while True:
            link.send(b"A", socket.MSG_DONTWAIT)


def until_one_is_sent_away(path: str) -> bytes:
    """Connect until there are too many who wait for the agent."""
    with contextlib.ExitStack() as stack:
        strangers: dict[int, socket.socket] = {}
        told = select.poll()
        while not (ready := told.poll(10)):
            stranger = stack.enter_context(connection_to(path))
            strangers[stranger.fileno()] = stranger
            told.register(stranger, select.POLLIN)
        return strangers[ready[0][0]].recv(4096)


def test_strangers_who_wait_for_the_agent_keep_no_reader_from_it(alone: MoverThread) -> None:
    fill(alone.far_link)
    asked = [f"reader {number}".encode() for number in range(3)]
    for each in asked:
        alone.link.send(each)
    wait_for(lambda: not pending(alone.far_link))
    given = []
    while len(given) < len(asked):
        message, ends, _, _ = socket.recv_fds(alone.link, 4096, 1)
        for end in ends:
            os.close(end)
            given.append(message[1:])
    assert sorted(given) == asked


def pending(sock: socket.socket) -> bool:
    """Whether a message waits there."""
    return bool(select.select([sock], [], [], 0)[0])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_who_waits_for_the_agent_has_a_place_until_it_has_taken_him(alone: MoverThread) -> None:
    """So nobody fills the link, and keeps others from the agent."""

    def waits(path: str) -> bytes:
        with connection_to(path) as connection:
            return connection.recv(4096)

    def comes_and_goes(path: str) -> bytes:
        with connection_to(path) as connection:
            told = select.select([connection], [], [], 0.1)[0]
            return connection.recv(4096) if told else b"waits"

    assert b"too many connections" in as_nobody(alone.listener.path, until_one_is_sent_away)
    # That process has ended, and its connections have their places still.
    assert b"too many connections" in as_nobody(alone.listener.path, comes_and_goes)
    with ThreadPoolExecutor(1) as other:
        another = other.submit(as_nobody, alone.listener.path, waits, 65533)
        users = []
        for _ in range(LIMITS.each + 1):
            message, wrapping = moverlink.taken(alone.link)
            assert message == b"A"
            assert wrapping is not None
            with wrapping:
                packed, connection = moverlink.taken(wrapping)
                assert connection is not None
                users.append(moverlink.unpacked(packed).uid)
                with connection:
                    if users[-1] == 65533:  # the others have ended
                        connection.send(b"taken")
        assert sorted(users) == [65533] + [65534] * LIMITS.each
        assert another.result(pace.limit(20)) == b"taken"
    wait_for(lambda: as_nobody(alone.listener.path, comes_and_goes) == b"waits")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_a_taken_over_agent_sends_nothing_where_a_stranger_was_wrapped(
    alone: MoverThread,
) -> None:
    """The mover would have to close what it sends."""
    with ThreadPoolExecutor(1) as other:
        told = other.submit(as_nobody, alone.listener.path, status)
        _, wrapping = moverlink.taken(alone.link)
        assert wrapping is not None
        with wrapping, pytest.raises(BrokenPipeError):
            socket.send_fds(wrapping, [b"x"], [wrapping.fileno()])
        assert told.result(pace.limit(20)) == b""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_strangers_who_wait_for_the_agent_keep_no_call_of_roots_from_it(
    alone: MoverThread,
) -> None:
    """As many as the kernel keeps, and the agent has taken none of them."""
    fill(alone.far_link)
    assert b"too many connections" in as_nobody(alone.listener.path, until_one_is_sent_away)
    with connected(alone) as connection:
        connection.sendall(call("Status"))
        with called(alone) as agent:
            assert json.loads(agent.recv(4096)[:-1])["method"] == "io.prtrace.Status"
            agent.sendall(reply({"status": 1}))
        assert replies(connection, 1) == [{"parameters": {"status": 1}}]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_the_movers_copy_of_a_strangers_connection_is_never_the_last(alone: MoverThread) -> None:
    """Whoever closes the last one closes what the stranger has sent, which can take for ever."""

    def comes(path: str) -> bytes:
        with connection_to(path) as connection:
            return connection.recv(4096)

    for _ in range(30):
        with ThreadPoolExecutor(1) as other:
            told = other.submit(as_nobody, alone.listener.path, comes)
            message, wrapping = moverlink.taken(alone.link)
            assert (message, wrapping is not None) == (b"A", True)
            assert wrapping is not None
            _, connection = moverlink.taken(wrapping)
            assert connection is not None
            inode = os.fstat(connection.fileno()).st_ino
            have = copies(inode)
            connection.sendall(b"x")
            connection.close()
            wrapping.close()
            assert (told.result(20), have) == (b"x", 1)


def test_what_there_is_no_descriptor_for_is_left_in_the_queue() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        socket.send_fds(ours, [b"message"], [theirs.fileno()])
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            with pytest.raises(mover.NoDescriptorError):
                moverlink.taken(theirs, socket.MSG_DONTWAIT)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        message, connection = moverlink.taken(theirs, socket.MSG_DONTWAIT)
        assert message == b"message"
        assert connection is not None
        connection.close()
        with pytest.raises(BlockingIOError):
            moverlink.taken(theirs, socket.MSG_DONTWAIT)


# ---- What takes long to close ----


@contextlib.contextmanager
def in_time(work: Callable[[], object], *lingering: Lingering) -> Iterator[None]:
    """Work ends while these linger; they are free in the end."""
    with ThreadPoolExecutor(1) as other:
        try:
            other.submit(work).result(pace.limit(20))
            yield
        finally:
            for each in lingering:
                each.free()


@pytest.mark.timeout(60)
def test_what_waits_to_be_accepted_or_taken_holds_up_no_mover_that_ends(tmp_path: Path) -> None:
    link, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener = Listener.bind(tmp_path / "io.prtrace")
    journal = SystemJournal("")
    with link, far:
        doors = mover.Doors(listener.socket, None)
        made = mover._Mover(far, doors, WaitingMoves, None, journal, LIMITS)
        waits = Lingering(over=connection_to(listener.path))
        sent = Lingering(over=made._called)
        with in_time(made.close, waits, sent):
            assert listener.socket.fileno() == made._calling.fileno() == -1


@pytest.mark.parametrize("ended", [False, True])
def test_a_place_is_left_once_where_the_mover_ends(tmp_path: Path, ended: bool) -> None:
    """Whoever wraps a connection then finds it gone, or the mover does."""
    link, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener = Listener.bind(tmp_path / "io.prtrace")
    mine, client = socket.socketpair()
    with link, far, mine:
        doors = mover.Doors(listener.socket, None)
        made = mover._Mover(far, doors, WaitingMoves, None, SystemJournal(""), LIMITS)
        peer = Peer(1, 1, 1)
        for _ in range(2):
            made._passing.enter(peer)
        if ended:
            made.close()
        made._pass_on(client, peer)
        wrapped = tuple(made._wrapped)
        assert bool(wrapped) is not ended
        made.close()
        for fd in (*wrapped, -1):
            made._unwrapped(fd)
        assert made._passing.taken == 1
        made._called.close()
    listener.close()


@pytest.mark.timeout(60)
def test_what_was_not_taken_holds_up_no_agent_that_ends() -> None:
    """A connection in the queue of what the mover gave, which is in the queue of the link."""
    link, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    wrapping, given = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    lingering = Lingering()
    for over, message, each in (
        (wrapping, b"peer", lingering.connection),
        (far, b"A", given),
    ):
        moverlink.give(over, message, each)
        each.close()
    wrapping.close()
    far.close()
    ends = Mover(link, "")
    with in_time(ends.close, lingering):
        assert link.fileno() < 0


@pytest.mark.timeout(60)
def test_a_descriptor_of_the_agents_holds_up_no_move(alone: MoverThread) -> None:
    """It closes none by itself, but whoever calls can have sent it one."""
    copies = [alone.link.dup() for _ in range(3)]
    lingering = [Lingering(over=copy) for copy in copies]

    def moved() -> None:
        with connected(alone) as connection:
            connection.sendall(FINISH)
            assert replies(connection, 1)[0]["parameters"] == FINISHED
        alone.link.send(b"a reader")
        given = socket.recv_fds(alone.link, 4096, 1)
        assert given[0] == b"Ra reader"
        os.close(given[1][0])

    with in_time(moved, *lingering):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a page that the kernel waits for")
def test_an_agent_is_missed_while_what_it_sent_is_closed(alone: MoverThread) -> None:
    mine = alone.link.dup()
    alone.link.close()
    stuck = Stuck(over=[mine])
    try:
        alone.thread.join(pace.limit(20))
        assert not alone.thread.is_alive()
    finally:
        stuck.free()


# ---- Who may change nothing ----


def closing() -> int:
    """How many threads of this process are in close()."""
    found = 0
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found += (task / "syscall").read_text().startswith("3 ")
    return found


def told_at_once(path: str) -> bytes:
    """What whoever opens 60 connections is told on them, until nothing comes for a second."""
    with contextlib.ExitStack() as stack:
        told = select.poll()
        each = {}
        for _ in range(60):
            connection = stack.enter_context(connection_to(path))
            each[connection.fileno()] = connection
            told.register(connection, select.POLLIN)
        answers = []
        while ready := told.poll(pace.limit(1) * 1000):
            for number, _ in ready:
                answers.append(each[number].recv(4096))
                told.unregister(number)
    return b"".join(answers)


@pytest.mark.timeout(120)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_who_may_change_nothing_has_few_descriptors_of_the_movers(tmp_path: Path) -> None:
    """Four closes of a user's never end, and the agent takes nothing."""
    stuck: list[Stuck] = []

    def first(at: MoverThread) -> None:
        fill(at.far_link)
        at.link.recv(10)  # room for the mover's first message
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def four(path: str) -> bytes:
            for _ in range(4):
                with connection_to(path) as connection:
                    socket.send_fds(theirs, [b"x"], [connection.fileno()])
            return b"sent"

        with ours, theirs:
            assert as_nobody(at.listener.path, four) == b"sent"
            ends = [socket.recv_fds(ours, 1, 1)[1][0] for _ in range(4)]
        stuck.append(Stuck(4, over=[socket.socket(fileno=end) for end in ends]))

    at = MoverThread(tmp_path / "io.prtrace", first=first)
    try:
        wait_for(lambda: closing() == 4)
        before = len(os.listdir("/proc/self/fd"))
        told = as_nobody(at.listener.path, told_at_once)
        # One process may have 8.
        assert told.count(b"too many connections") >= 52
        assert len(os.listdir("/proc/self/fd")) <= before + 8
        with connected(at) as connection:
            connection.sendall(FINISH)
            assert replies(connection, 1)[0]["parameters"] == FINISHED
    finally:
        stuck[0].free()
        wait_for(lambda: closing() == 0)
        at.end()


@contextlib.contextmanager
def scarce() -> Iterator[None]:
    """Most descriptors of this process are taken, and 60 are left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.dup(0) for _ in range(240)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1] + 60, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in taken:
            os.close(each)


def status(path: str) -> bytes:
    with connection_to(path) as connection:
        connection.sendall(call("Status"))
        return connection.recv(4096)


@pytest.mark.timeout(120)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_strangers_leave_descriptors_of_the_movers_for_root(
    alone: MoverThread, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mover, "SCARCE_RETRY", 0.1)
    with ThreadPoolExecutor(1) as other:
        with settled(alone), scarce():
            stranger = other.submit(as_nobody, alone.listener.path, status)
            wait_for(lambda: caplog.text.count("no connection can be accepted") > 3)
            for _ in range(5):
                assert client_of(alone).call("Finish", file=FILE) == FINISHED
            assert not pending(alone.link)
        _, wrapping = moverlink.taken(alone.link)
        assert wrapping is not None
        wrapping.close()
        assert stranger.result(pace.limit(20)) == b""


def noted(monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
    """Each link on which something was left because there is no descriptor for it."""
    real, left = moverlink.taken, []

    def taken(link: socket.socket, *more: Any) -> Any:
        try:
            return real(link, *more)
        except mover.NoDescriptorError:
            left.append(link)
            raise

    monkeypatch.setattr(arrivals, "taken", taken)
    return left


@pytest.mark.timeout(120)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_strangers_leave_descriptors_of_the_agents_for_roots_calls(
    served: ByMover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "SCARCE_RETRY", 0.1)
    # The mover, which is in the same process here, has as many as it wants.
    monkeypatch.setattr(mover, "most_for_strangers", lambda: 1 << 20)
    left = noted(monkeypatch)
    with ThreadPoolExecutor(1) as other:
        with settled(served.at), scarce():
            stranger = other.submit(as_nobody, served.path, status)
            wait_for(lambda: len(left) > 3)
            begun = time.monotonic()
            for _ in range(5):
                assert served.client().call("Status")["status"]["units"] == 2
            assert not stranger.done()
            # It is looked ten times a second at most, beside one look under way.
            assert len(left) <= 4 + 1 + 10 * (time.monotonic() - begun)
            assert set(left) == {served.at.link}
        assert b'"units":2' in stranger.result(pace.limit(20))


@pytest.mark.timeout(120)
def test_an_agent_without_descriptors_answers_when_it_has_some(
    served: ByMover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "SCARCE_RETRY", 0.1)
    left = noted(monkeypatch)
    blocked, goes_on = threading.Event(), threading.Event()

    def takes_none() -> None:
        """In a turn of the loop before it looks at what has come."""
        blocked.set()
        goes_on.wait(pace.limit(20))

    def given() -> int:
        """The inode of the mover's end, which waits for the agent."""
        assert served.mover._called is not None
        _, ancillary, _, _ = served.mover._called.recvmsg(4096, 24, socket.MSG_PEEK)
        (end,) = array.array("i", ancillary[0][2])
        with socket.socket(fileno=end):
            return os.fstat(end).st_ino

    with (
        settled(served.at),
        served.connect() as connection,
        ThreadPoolExecutor(1) as other,
    ):
        turn = other.submit(served.run, takes_none)
        try:
            assert blocked.wait(pace.limit(20))
            connection.sendall(call("Status"))
            wait_for(lambda: select.select([served.mover._called], [], [], 0)[0])
            inode = given()
            # Until the mover's copy of the agent's end is closed, which would leave room for it.
            wait_for(lambda: copies(inode) == 0)
            with _limited():
                goes_on.set()
                turn.result(pace.limit(20))
                wait_for(lambda: len(left) > 3)
                assert set(left) == {served.mover._called}
        finally:
            goes_on.set()
        assert replies(connection, 1)[0]["parameters"]["status"]["units"] == 2


def test_who_cannot_be_told_that_there_are_too_many_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent takes nothing, and others have got the descriptors that were given up."""
    link, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mine, client = socket.socketpair()
    real = moverlink.give

    def give(to: socket.socket, message: bytes, connection: socket.socket | None) -> None:
        if message == b"A":
            taken.append(os.dup(0))
            raise BlockingIOError
        real(to, message, connection)

    taken: list[int] = []

    def none_left(wrapping: socket.socket) -> Any:
        taken.append(os.dup(0))
        return moverlink.taken(wrapping)

    monkeypatch.setattr(mover, "give", give)
    monkeypatch.setattr(mover, "taken", none_left)
    listener = Listener.bind(tmp_path / "io.prtrace")
    with link, far, mine:
        doors = mover.Doors(listener.socket, None)
        made = mover._Mover(far, doors, WaitingMoves, None, SystemJournal(""), LIMITS)
        pair = socket.socketpair()
        with _limited():
            for each in pair:
                each.close()
            assert not made._given(client, Peer(1, 1, 1))
        assert mine.recv(1) == b""
        for each in taken:
            os.close(each)
        made.close()
        made._called.close()


FAKE = reply({"report": {"verb": "Finish", "file": "of the agent's"}})


@pytest.mark.parametrize("late", [False, True])
def test_no_answer_of_the_agents_is_taken_for_the_movers(alone: MoverThread, late: bool) -> None:
    """The agent answers once more than it was asked, at once or when the next call has come."""
    with connected(alone) as connection:
        connection.sendall(call("Status"))
        with called(alone) as agent:
            assert json.loads(agent.recv(4096)[:-1])["method"] == "io.prtrace.Status"
            agent.sendall(reply({"status": 1}) + (b"" if late else FAKE * 3))
            assert replies(connection, 1) == [{"parameters": {"status": 1}}]
            if late:
                with contextlib.suppress(OSError):
                    agent.sendall(FAKE)
            connection.sendall(FINISH)
            assert replies(connection, 1)[0]["parameters"] == FINISHED


TWO_ANSWERS = b'{"continues":true,"continues":false,"parameters":{}}\0'


def test_the_last_reply_is_the_last_for_both(alone: MoverThread) -> None:
    """A reply of which mover and client could think differently whether others follow."""
    with connected(alone) as connection:
        for sent in (TWO_ANSWERS, b'{"continues":1}\0', b'{"continues":"true"}\0'):
            connection.sendall(call("Events", more=True) + FINISH)
            with called(alone) as agent:
                agent.recv(4096)
                agent.sendall(sent + FAKE)
                first, second = replies(connection, 2)
            assert first.get("continues") is not True
            assert second["parameters"] == FINISHED


@pytest.mark.parametrize("garbage", [b"\0", b"[]\0", b"[" * 90_000 + b"\0", b"\xff\0", b"half"])
def test_garbage_is_no_answer(alone: MoverThread, garbage: bytes) -> None:
    with connected(alone) as connection:
        connection.sendall(call("Events", more=True) + FINISH)
        with called(alone) as agent:
            agent.recv(4096)
            agent.sendall(garbage)
        first, second = replies(connection, 2)
        assert first["error"] == "io.prtrace.Busy"
        assert second["parameters"] == FINISHED


def test_an_endless_reply_is_not_kept(alone: MoverThread) -> None:
    chunk = b"x" * 65536

    def pour(agent: socket.socket) -> None:
        agent.recv(4096)
        with contextlib.suppress(OSError):
            for _ in range(1000):
                agent.sendall(chunk)
            raise AssertionError("64 MiB were taken")

    for asked in (call("Events", more=True), call("Check", parameters={"devices": ["naa.1"]})):
        with connected(alone) as connection:
            connection.sendall(asked)
            with called(alone) as agent:
                pour(agent)
            (told,) = replies(connection, 1)
            assert "error" in told
