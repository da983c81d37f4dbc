"""What the agent's socket answers."""

import array
import asyncio
import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from importlib import resources

import pytest
from asyncvarlink import VarlinkClientProtocol, VarlinkInterfaceProxy, connect_unix_varlink
from asyncvarlink.serviceinterface import VarlinkServiceInterface
from labkit import pace

from api.conftest import wait_for
from api.declaration import Interface, NoSuchDevice
from prtrace.api.client import Client
from prtrace.errors import (
    AgentUnreachableError,
    NoSuchDeviceError,
    PrtraceError,
    StoreError,
    UsageError,
)
from prtrace.linux.peer import Peer
from prtrace.state.event import Command


def test_each_call_gets_its_reply(served):
    client = served.client()
    assert [unit["lu"] for unit in client.call("Show")["units"]] == ["naa.1", "naa.2"]
    assert client.call("Show", devices=["/dev/sdb"])["units"] == [{"lu": "naa.2"}]
    assert client.call("Status") == {"status": {"schema": "prtrace.status/1", "units": 2}}
    assert client.call("Resolve", name="/dev/sda") == {
        "lu": "naa.1",
        "nexus": "2:0:0:1",
        "devices": ["/dev/sda"],
    }
    assert client.call("Resolve", name="naa.1")["nexus"] is None


def test_the_agents_errors_arrive_as_what_they_are(served):
    client = served.client()
    with pytest.raises(NoSuchDeviceError, match="/dev/sdz names nothing") as failed:
        client.call("Show", devices=["/dev/sdz"])
    assert failed.value.hint == "name a disk"
    with pytest.raises(NoSuchDeviceError):
        list(client.stream("Events", devices=["/dev/sdz"]))
    with pytest.raises(UsageError):
        client.call("Resolve")
    with pytest.raises(UsageError, match="since_time"):
        list(client.stream("Events", since_time="yesterday"))
    served.source.failing = "the disk is full"
    with pytest.raises(StoreError, match="full") as failed:
        list(client.stream("Events"))
    assert failed.value.hint == "make room"
    with pytest.raises(PrtraceError, match="full"):
        client.call("Status")
    served.source.failing = ""
    with pytest.raises(PrtraceError, match="MethodNotFound"):
        client.call("Preempt")
    with pytest.raises(PrtraceError, match="ExpectedMore"):
        client.call("Events")


@pytest.mark.parametrize(
    "wrong",
    [{"since_seq": -1}, {"since_seq": 1 << 63}, {"limit": "5"}, {"devices": [1]}, {"nope": 1}],
    ids=str,
)
def test_parameters_are_checked(served, wrong):
    with pytest.raises(UsageError):
        list(served.client().stream("Events", **wrong))


def seqs(replies):
    return [event["seq"] for reply in replies for event in reply.get("events", ())]


def test_stored_events_come_in_order_and_end(served):
    served.happen(200)
    served.happen(1, "naa.2")
    stream = served.client().stream
    assert seqs(stream("Events")) == list(range(1, 202))
    assert seqs(stream("Events", since_seq=199)) == [200, 201]
    assert seqs(stream("Events", devices=["/dev/sdb"])) == [201]
    assert seqs(stream("Events", last=2)) == [200, 201]
    assert seqs(stream("Events", limit=65)) == list(range(1, 66))
    assert seqs(stream("Events", limit=0, follow=True)) == []
    assert seqs(stream("Events", since_time="2023-11-14T22:13:20.0000002Z")) == [200, 201]


def test_a_follower_misses_nothing_and_sees_nothing_twice(served):
    """Events that happen while stored ones are sent come once, in order."""
    served.happen(300)
    wanted = 300 + 200 * 5

    def go_on():
        for _ in range(200):
            served.happen(5)

    with ThreadPoolExecutor(1) as others:
        going_on = others.submit(go_on)
        got = seqs(served.client().stream("Events", follow=True, limit=wanted, patient=True))
        going_on.result(20)
    assert got == list(range(1, wanted + 1))


def test_followers_hear_of_their_units_only(served):
    with served.connect() as one, served.connect() as other:
        for connection, devices in ((one, ["/dev/sda"]), (other, ["/dev/sdb"])):
            call = {
                "method": "io.prtrace.Events",
                "parameters": {"devices": devices, "follow": True},
                "more": True,
            }
            connection.sendall(json.dumps(call).encode() + b"\0")
        wait_for(lambda: served.run(served.server.statistics)["followers"] == 2)
        served.happen(1, "naa.1")
        served.happen(2, "naa.2")
        first, second = json.loads(message(one)), json.loads(message(other))
    assert first["continues"] is second["continues"] is True
    assert seqs([first["parameters"]]) == [1]
    assert seqs([second["parameters"]]) == [2, 3]
    wait_for(lambda: served.connections() == 0)


def test_with_changes_only_commands_that_change_are_sent(served):
    """Of what is stored, and of what happens then."""

    def happen():
        for command in (Command.PR_IN, Command.PR_OUT, Command.RESERVE, Command.CONFLICT):
            served.happen(1, command=command)

    happen()
    stream = served.client().stream
    assert seqs(stream("Events", changes=True)) == [2, 3]
    assert seqs(stream("Events", changes=True, last=1)) == [3]
    following = stream("Events", changes=True, follow=True, limit=4, patient=True)
    got = seqs([next(following)])
    wait_for(lambda: served.run(served.server.statistics)["followers"] == 1)
    happen()
    assert got + seqs(following) == [2, 3, 6, 7]


def test_a_published_event_is_the_stored_one(served):
    following = served.client().stream("Events", follow=True, limit=2, patient=True)
    served.happen(1)
    first = next(following)["events"][0]
    served.happen(1)
    second = next(following)["events"][0]
    stored = itertools.chain.from_iterable(
        reply.get("events", ()) for reply in served.client().stream("Events")
    )
    assert [first, second] == list(stored)


def test_a_follower_that_does_not_read_is_told_where_to_go_on(served):
    following = served.client().stream("Events", follow=True, patient=True)
    served.happen(1)
    got = seqs([next(following)])
    wait_for(lambda: [each for each in served.server._followers if each.live])
    bulk = bytes(4096)
    while served.run(served.server.statistics)["followers"]:
        served.happen(20, data=bulk)
    *most, last = following
    assert seqs(most) == list(range(2, last["gap"] + 1))
    assert last["gap"] < served.source.store.last_seq
    got += seqs(most)
    rest = seqs(served.client().stream("Events", since_seq=last["gap"]))
    assert got + rest == list(range(1, served.source.store.last_seq + 1))


def test_no_agent_is_said_so(tmp_path):
    with pytest.raises(AgentUnreachableError, match="no agent on") as failed:
        Client(str(tmp_path / "nobody")).call("Show")
    assert "--socket" in failed.value.hint


def test_asyncvarlink_reads_the_definition_as_we_do():
    """The same interface declared for asyncvarlink renders as the file that is shipped."""
    shipped = resources.files("prtrace") / "schema" / "io.prtrace.varlink"
    assert shipped.read_text() == Interface().render_interface_description(comments=True)


def test_another_varlink_client_agrees(served):
    """asyncvarlink's own client checks the form of every reply against the declaration."""
    served.happen(3)

    async def talk():
        transport, protocol = await connect_unix_varlink(VarlinkClientProtocol, served.path)
        agent = VarlinkInterfaceProxy(protocol, Interface)
        service = VarlinkInterfaceProxy(protocol, VarlinkServiceInterface)
        told = await service.GetInfo()
        described = await service.GetInterfaceDescription(interface="io.prtrace")
        shown = await agent.Show(devices=["/dev/sda"])
        events = [reply async for reply in agent.Events(devices=["/dev/sda"])]
        with pytest.raises(NoSuchDevice) as failed:
            await agent.Resolve(name="/dev/nope")
        assert failed.value.parameters["hint"] == "name a disk"
        transport.close()
        return told, described, shown, events

    told, described, shown, events = asyncio.run(talk())
    assert told["interfaces"] == ["io.prtrace", "org.varlink.service"]
    assert described["description"] == Interface().render_interface_description(comments=True)
    assert shown["units"] == [{"lu": "naa.1"}]
    assert seqs(events) == [1, 2, 3]


@pytest.mark.skipif(shutil.which("nc") is None, reason="no nc here")
def test_nc_is_a_client(served):
    """It closes its sending side at once: the replies still come."""
    served.happen(130)
    calls = (
        b'{"method":"io.prtrace.Resolve","parameters":{"name":"naa.1"}}\0'
        b'{"method":"io.prtrace.Events","more":true}\0'
        b'{"method":"io.prtrace.Status"}\0'
    )
    done = subprocess.run(
        ["nc", "-U", "-N", str(served.path)],
        input=calls,
        capture_output=True,
        timeout=pace.limit(20),
    )
    replies = [json.loads(part) for part in done.stdout.split(b"\0") if part]
    assert replies[0]["parameters"]["lu"] == "naa.1"
    assert seqs(reply["parameters"] for reply in replies[1:-1]) == list(range(1, 131))
    assert replies[-1]["parameters"]["status"]["units"] == 2


def test_a_half_closed_follower_is_served_and_a_gone_one_forgotten(served):
    call = b'{"method":"io.prtrace.Events","parameters":{"follow":true},"more":true}\0'
    with served.connect() as connection:
        connection.sendall(call)
        connection.shutdown(socket.SHUT_WR)
        wait_for(lambda: served.run(served.server.statistics)["followers"] == 1)
        served.happen(1)
        assert seqs([json.loads(message(connection))["parameters"]]) == [1]
    served.happen(1)
    wait_for(lambda: served.connections() == 0)


def test_a_oneway_call_gets_no_reply(served):
    with served.connect() as connection:
        connection.sendall(
            b'{"method":"io.prtrace.Show","oneway":true}\0'
            b'{"method":"io.prtrace.Nope","oneway":true}\0'
            b'{"method":"io.prtrace.Status"}\0'
        )
        assert "status" in json.loads(message(connection))["parameters"]


def test_who_sends_descriptors_along_loses_the_connection(served):
    """Whoever reads them without a place for them closes them, which may take any time."""
    connection, accepted = socket.socketpair()
    with connection, open("/dev/null") as file:
        # Before the server has it: from Linux 6.16 on nobody can send it any afterwards.
        connection.sendmsg(
            [b'{"method":"io.prtrace.Status"}\0'],
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()] * 50))],
        )
        served.run(served.server.admit, accepted, Peer.of(accepted))
        # What was sent is not read, so that the end may be a reset.
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    wait_for(lambda: served.connections() == 0)


def message(connection):
    received = b""
    while not received.endswith(b"\0"):
        chunk = connection.recv(1 << 16)
        if not chunk:
            pytest.fail("the connection was closed")
        received += chunk
    assert received.count(b"\0") == 1
    return received[:-1]


def given(served, *parts, room=0):
    """The server's end gets a connection on which parts were sent; what came back at once, ours.

    room: bytes of the kernel's buffer for answers, which it doubles; 0: as it is.
    """
    ours, theirs = socket.socketpair()
    if room:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
    for part in parts:
        ours.sendall(part)

    def adopt():
        """In one turn of the loop."""
        served.server.adopt(theirs, Peer(os.getpid(), 0, 0))
        with contextlib.suppress(BlockingIOError):
            return ours.recv(1 << 20, socket.MSG_DONTWAIT)
        return b""

    at_once = served.run(adopt)
    ours.settimeout(20)
    return at_once, ours


def told(received, connection, count):
    """So many replies: what was received, and what is to come."""
    while received.count(b"\0") < count:
        chunk = connection.recv(1 << 20)
        assert chunk, received
        received += chunk
    *whole, rest = received.split(b"\0")
    assert (len(whole), rest) == (count, b"")
    return [json.loads(each) for each in whole]


def calling(method, **more):
    return json.dumps({"method": method, **more}).encode() + b"\0"


STATUS = calling("io.prtrace.Status")
RESOLVE = calling("io.prtrace.Resolve", parameters={"name": "naa.1"})


def test_what_waits_for_nothing_is_answered_in_the_turn_in_which_it_comes(served):
    unknown = calling("io.prtrace.Resolve", parameters={"name": "/dev/sdz"})
    for sent, kind in (
        (STATUS, "parameters"),
        (RESOLVE, "parameters"),
        (unknown, "error"),
        (calling("org.varlink.service.GetInfo"), "parameters"),
        (calling("io.prtrace.Nothing"), "error"),
        (b"garbage\0", "error"),
    ):
        at_once, connection = given(served, sent)
        with connection:
            assert kind in told(at_once, None, 1)[0]
            connection.sendall(RESOLVE)
            assert told(b"", connection, 1)[0]["parameters"]["lu"] == "naa.1"


def test_other_calls_are_answered_in_their_order(served):
    """Half a call, several, one that needs no reply, and one that waits."""
    show = calling("io.prtrace.Show", parameters={"devices": ["naa.1"]})
    for parts, later, count in (
        ((STATUS[:10],), STATUS[10:] + RESOLVE, 2),
        ((STATUS, RESOLVE), b"", 2),
        ((STATUS, RESOLVE[:10]), RESOLVE[10:], 2),
        ((calling("io.prtrace.Status", oneway=True),), RESOLVE, 1),
        ((show,), RESOLVE, 2),
        ((), STATUS + RESOLVE, 2),
    ):
        at_once, connection = given(served, *parts)
        with connection:
            assert at_once == b""
            connection.sendall(later)
            replies = told(b"", connection, count)
        assert replies[-1]["parameters"]["lu"] == "naa.1"
        assert len({json.dumps(each) for each in replies}) == count


def test_an_answer_that_the_kernel_does_not_take_whole_is_sent_whole(served):
    served.source.status = lambda: {"long": "x" * 500_000}
    at_once, connection = given(served, STATUS, room=4096)
    with connection:
        assert 0 < len(at_once) < 500_000
        connection.sendall(RESOLVE)
        status, resolved = told(at_once, connection, 2)
    assert status == {"parameters": {"status": {"long": "x" * 500_000}}}
    assert resolved["parameters"]["lu"] == "naa.1"


def test_a_fault_in_that_turn_is_answered_and_ends_nothing(served, caplog):
    def fails():
        raise ZeroDivisionError

    served.source.status = fails
    at_once, connection = given(served, STATUS)
    with connection:
        assert told(at_once, None, 1)[0]["parameters"]["message"] == "the call failed"
        connection.sendall(RESOLVE)
        assert told(b"", connection, 1)[0]["parameters"]["lu"] == "naa.1"
    assert "ZeroDivisionError" in caplog.text


def test_who_has_gone_in_that_turn_is_forgotten(served):
    ours, theirs = socket.socketpair()
    ours.sendall(STATUS)
    ours.close()
    served.run(served.server.adopt, theirs, Peer(os.getpid(), 0, 0))
    wait_for(lambda: served.connections() == 0)
