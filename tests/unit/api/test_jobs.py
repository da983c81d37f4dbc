"""Calls that wait for devices: on threads, to their end, and in nobody's way."""

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from asyncvarlink import VarlinkClientProtocol, VarlinkInterfaceProxy, connect_unix_varlink
from labkit import pace

from api.conftest import wait_for
from api.declaration import Interface
from prtrace.api import jobs
from prtrace.api.calls import Refusal
from prtrace.api.interface import Fault
from prtrace.api.jobs import Job, Jobs
from prtrace.api.rights import Right
from prtrace.errors import DeviceError, PrtraceError, UsageError
from prtrace.state.event import Command

FILE = {"schema": "prtrace.save/2", "units": [{"key": None, "deep": [1, {"a": "b"}]}]}


def test_every_call_reaches_its_method(served):
    served.happen(130, command=Command.PR_OUT)
    client = served.client()
    checked = client.call("Check", devices=["/dev/sdb"], guest="db1", pid=7)
    assert checked["host"] == "db1 7"
    assert checked["units"] == [{"lu": "naa.2"}, list(range(1, 131))]
    assert client.call("CheckFile", file=FILE, deadline=3000)["units"] == [FILE, 3000]
    assert client.call("Save", devices=["/dev/sda"]) == {"file": {"devices": ["/dev/sda"]}}
    for method in ("Finish", "Release"):
        done = {"report": {"verb": method, "file": FILE}}
        assert client.call(method, file=FILE) == done
    steps = [{"steps": [{"lu": "naa.1", "what": what}]} for what in ("first", "last")]
    options = {"devices": {"a": "b"}, "dry_run": True}
    carried = (("Prepare", {"late": True}), ("Load", {"released": True, "deadline": 9}))
    for method, more in carried:
        loaded = [*client.stream(method, file=FILE, **options, **more)]
        report = {"verb": method, "file": FILE, **options, **more}
        assert loaded == [*steps, {"report": report}]
    asked = {"side": "source", "runs": False, "destination_is_off": True}
    back = [*client.stream("Rollback", file=FILE, **asked)]
    assert back == [{"report": {"verb": "Rollback", "file": FILE, **asked}}]
    assert client.call("Moves") == {"schema": "prtrace.moves/1", "moves": []}


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        ("Check", {}),
        ("Check", {"devices": "/dev/sda"}),
        ("Save", {"devices": ["/dev/sda"], "pid": -1}),
        ("Finish", {"file": "db1.json"}),
        ("Finish", {"file": {}, "more": 1}),
    ],
)
def test_parameters_are_checked(served, method, wrong):
    with pytest.raises(UsageError):
        served.client().call(method, **wrong)
    assert not served.moves.begun


def test_errors_arrive(served):
    client = served.client()
    served.moves.failing = DeviceError("/dev/sda is gone", hint="look")
    with pytest.raises(PrtraceError, match="/dev/sda is gone"):
        client.call("Finish", file={})
    verdicts = {"message": "no", "hint": "", "verdict": "blocked", "units": [{"lu": "naa.1"}]}
    for answer in (
        Refusal(Fault.NOT_MOVABLE, verdicts),
        Refusal(Fault.UNDER_WAY, {"message": "no", "hint": "wait"}),
    ):
        served.moves.failing = answer
        with pytest.raises(PrtraceError, match="no"):
            client.call("Save", devices=["naa.1"])


def test_a_fault_of_ours_ends_the_call_too(served):
    told = []
    served.run(lambda: asyncio.get_running_loop().set_exception_handler(lambda *_: told.append(1)))
    served.moves.failing = ZeroDivisionError("a bug")
    with pytest.raises(PrtraceError, match="the call failed"):
        served.client().call("Finish", file={})
    wait_for(lambda: told)


def test_nobody_waits_for_those_who_wait_for_devices(served):
    served.moves.may_end.clear()
    with ThreadPoolExecutor(20) as others:
        checks = [others.submit(served.client().call, "Check", devices=["naa.1"]) for _ in "abc"]
        saves = [others.submit(served.client().call, "Save", devices=["naa.1"]) for _ in range(9)]
        wait_for(lambda: served.run(served.server.statistics)["jobs"] == 12)
        # There are eight threads: four jobs wait for one.
        wait_for(lambda: len(served.moves.begun) == 8)
        assert served.client(timeout=pace.limit(5)).call("Status")["status"]["units"] == 2
        served.moves.may_end.set()
        assert [call.result(20)["verdict"] for call in checks] == ["clear"] * 3
        assert all("file" in call.result(20) for call in saves)


def test_too_many_are_refused(served):
    served.moves.may_end.clear()
    with ThreadPoolExecutor(40) as others:
        calls = [others.submit(served.client().call, "Save", devices=["naa.1"]) for _ in range(40)]
        wait_for(lambda: sum(call.done() for call in calls) == 8)
        refused = [call.exception(0) for call in calls if call.done()]
        assert all("32 such calls" in error.message for error in refused)
        served.moves.may_end.set()


class Ends:
    """A sink that keeps what is sent."""

    def __init__(self):
        self.sent = []

    def write(self, message):
        self.sent.append(message)

    def waiting(self):
        return 0

    def full(self):
        return False

    def finished(self, stream):
        pass


def test_who_may_only_read_delays_nobody_who_may_change():
    may_end = threading.Event()

    def slow(_step):
        assert may_end.wait(pace.limit(20))
        return {"who": "slow"}

    async def talk():
        jobs, first = Jobs(), Ends()
        for _ in range(32):
            jobs.start(Right.READ, slow, Job(first, more=False, oneway=False))
        with pytest.raises(Refusal):
            jobs.start(Right.READ, slow, Job(first, more=False, oneway=False))
        other = Ends()
        jobs.start(Right.CHANGE, lambda _: {"who": "root"}, Job(other, more=False, oneway=False))
        end = time.monotonic() + pace.limit(20)
        while not other.sent:
            assert time.monotonic() < end
            await asyncio.sleep(0.01)
        assert not first.sent
        may_end.set()
        await jobs.close()
        return first, other

    first, other = asyncio.run(talk())
    assert [json.loads(m[:-1])["parameters"] for m in first.sent] == [{"who": "slow"}] * 32
    assert json.loads(other.sent[0][:-1])["parameters"] == {"who": "root"}


def test_a_client_that_goes_away_stops_nothing(served):
    served.moves.may_end.clear()
    call = {"method": "io.prtrace.Load", "parameters": {"file": {}}, "more": True}
    with served.connect() as connection:
        connection.sendall(json.dumps(call).encode() + b"\0")
        assert b"first" in connection.recv(1 << 16)
    wait_for(lambda: served.connections() == 0)
    assert served.moves.done == []
    served.moves.may_end.set()
    wait_for(lambda: served.moves.done == ["load"])
    wait_for(lambda: served.run(served.server.statistics)["jobs"] == 0)


def test_an_agent_that_stops_waits_for_what_is_under_way(served):
    served.moves.may_end.clear()
    call = {"method": "io.prtrace.Load", "parameters": {"file": {}}, "more": True}
    with served.connect() as connection, served.connect() as late:
        connection.sendall(json.dumps(call).encode() + b"\0")
        assert b"first" in connection.recv(1 << 16)
        closing = served.close_soon()
        late.sendall(json.dumps(call).encode() + b"\0")
        assert b"the agent ends" in late.recv(1 << 16)
        assert not closing.done()
        threading.Timer(0.1, served.moves.may_end.set).start()
        closing.result(20)
    assert served.moves.done == ["load"]


def test_a_oneway_call_gets_no_reply(served):
    call = {"method": "io.prtrace.Finish", "parameters": {"file": {}}, "oneway": True}
    with served.connect() as connection:
        connection.sendall(json.dumps(call).encode() + b'\0{"method":"io.prtrace.Status"}\0')
        assert b'"status"' in connection.recv(1 << 16)
    assert served.moves.done == ["finish"]


def test_another_varlink_client_agrees(served):
    """asyncvarlink's own client checks the form of every reply against the declaration."""

    async def talk():
        transport, protocol = await connect_unix_varlink(VarlinkClientProtocol, served.path)
        agent = VarlinkInterfaceProxy(protocol, Interface)
        checked = await agent.Check(devices=["/dev/sda"])
        saved = await agent.Save(devices=["/dev/sda"])
        steps = [reply async for reply in agent.Load(file=saved["file"])]
        transport.close()
        return checked, saved, steps

    checked, saved, steps = asyncio.run(talk())
    assert checked["verdict"] == "clear"
    assert [list(reply) for reply in steps] == [["steps"], ["steps"], ["report"]]
    assert steps[-1]["report"]["file"] == saved["file"]


def test_a_unit_is_refreshed_once_the_agent_has_learned_of_it(served):
    """Nothing is looked at again and again meanwhile."""
    looks = []
    unconfirmed = served.source.unconfirmed

    def looked(lus):
        looks.append(lus)
        return unconfirmed(lus)

    served.source.unconfirmed = looked
    with ThreadPoolExecutor(1) as others:
        refresh = others.submit(served.client().call, "Refresh", devices=["naa.1"], max_age=0)
        wait_for(lambda: looks)
        time.sleep(0.2)
        assert (len(looks), refresh.done()) == (1, False)
        served.happen(1)
        assert refresh.result(20) == {"units": [{"lu": "naa.1", "asked": True, "problem": ""}]}
        assert len(looks) == 2


def test_a_device_that_confirms_nothing_is_waited_for_no_longer(served, monkeypatch):
    monkeypatch.setattr(jobs, "_ANSWER_SECONDS", 0.2)
    (unit,) = served.client().call("Refresh", devices=["naa.1"], max_age=0)["units"]
    assert unit["problem"] == "the device has not confirmed it within 0.2 s"
