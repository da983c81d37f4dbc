"""Readers that ask for everything at once, or read nothing: root does not notice."""

import json
import os
import resource
import time

import pytest
from labkit import pace
from labkit.processes import fork

from api.conftest import wait_for
from api.test_hostile import as_user
from prtrace.api import recent
from prtrace.errors import UsageError
from prtrace.state.event import Command

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
NOBODY = 65534


def call(method, **parameters):
    document = {"method": f"io.prtrace.{method}", "parameters": parameters}
    if method == "Events":
        document["more"] = True
    return json.dumps(document).encode() + b"\0"


@pytest.fixture
def open_to_all(served):
    served.let_in()
    return served


def begin(served, message, connections):
    """A process of nobody's that sends message over so many connections, then reads nothing."""
    ready, told = os.pipe()

    def work():
        os.chdir(served.path.parent)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        kept = []
        for _ in range(connections):
            connection = served.connect()
            connection.setblocking(False)
            try:
                connection.send(message)
            except OSError:
                continue
            kept.append(connection)
        os.write(told, b"x")
        time.sleep(600)

    child = fork(work)
    os.close(told)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    return child


def end(children):
    for child in children:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_roots_calls_are_answered_while_everybody_queries(open_to_all):
    """Each query looks at all the history and finds little of it."""
    served = open_to_all
    served.happen(1)
    for _ in range(10):
        served.happen(2000, command=Command.PR_IN)
    greedy = (
        call("Events", changes=True)
        + call("Events", last=1 << 62)
        + call("Events", since_time="9999-12-31T23:59:59Z")
        + call("Show") * 50
    )
    children = [begin(served, greedy * 10, 8) for _ in range(4)]
    try:
        times = []
        for _ in range(20):
            begun = time.monotonic()
            assert served.client().call("Status")["status"]["units"] == 2
            times.append(time.monotonic() - begun)
        assert sorted(times)[-2] < pace.limit(2), times
    finally:
        end(children)
    wait_for(lambda: served.connections() == 0)


def test_slow_followers_cost_a_bounded_amount(open_to_all, monkeypatch):
    """96 megabytes happen; 32 followers read nothing of it."""
    monkeypatch.setattr(recent, "MAX_BYTES", 4 << 20)
    served = open_to_all
    children = [begin(served, call("Events", follow=True), 8) for _ in range(4)]
    wait_for(lambda: served.run(served.server.statistics)["followers"] == 32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(30):
        served.happen(200, data=bytes(8192))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    end(children)
    assert grown < 32 << 10, f"{grown >> 10} MiB"
    wait_for(lambda: served.connections() == 0)


def test_one_process_has_few_places(open_to_all):
    assert as_user(NOBODY, open_to_all, lambda: served_of(open_to_all, 12)) == 8


def served_of(served, count):
    kept = [served.connect() for _ in range(count)]
    good = 0
    for connection in kept:
        try:
            connection.sendall(call("Status"))
            good += b"status" in connection.recv(1 << 16)
        except OSError:
            continue
    return good


@pytest.mark.parametrize("when", ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"])
def test_a_time_beyond_what_can_be_stored_is_answered(served, when):
    served.happen(3)
    (reply,) = [
        r for r in served.client().stream("Events", since_time=when) if not r.get("events")
    ]
    assert reply == {}


@pytest.mark.parametrize(
    "when", ["", "x", "2023-11-14T22:13:20", "2023-99-14T22:13:20Z", "9" * 5000]
)
def test_what_is_no_time_is_refused(served, when):
    if when:
        with pytest.raises(UsageError):
            list(served.client().stream("Events", since_time=when))


def test_a_fault_of_ours_is_an_answer(served, monkeypatch):
    def broken(*_):
        raise KeyError("a bug")

    monkeypatch.setattr(served.source, "status", broken)
    monkeypatch.setattr(served.source, "_portions", broken)
    with served.connect() as connection:
        connection.sendall(call("Status") + call("Events") + call("Show"))
        received = b""
        while received.count(b"\0") < 3:
            received += connection.recv(1 << 16)
    first, second, third = (json.loads(part) for part in received.split(b"\0")[:3])
    assert first["error"] == second["error"] == "io.prtrace.Failed"
    assert len(third["parameters"]["units"]) == 2
