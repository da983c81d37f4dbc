"""A call that needs to know what has happened by now waits for it, and holds up nobody else."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from api.conftest import wait_for
from prtrace.errors import AgentUnreachableError, PrtraceError


def told(served, *current):
    """Have the agent catch up, or give up, with each of those who wait for it."""
    wait_for(lambda: len(served.source.waiting) == len(current))
    for waiting, result in zip([*served.source.waiting], current, strict=True):
        served.run(waiting.set_result, result)


def test_a_unit_is_shown_once_the_agent_has_caught_up(served):
    served.source.behind = True
    with ThreadPoolExecutor(3) as others:
        current = others.submit(served.client().call, "Show")
        wait_for(lambda: len(served.source.waiting) == 1)
        late = others.submit(served.client().call, "Show", devices=["naa.1"])
        wait_for(lambda: len(served.source.waiting) == 2)
        # Meanwhile others are answered, and whoever follows begins.
        assert served.client().call("Status")["status"]["units"] == 2
        assert served.client().call("Resolve", name="naa.1")["lu"] == "naa.1"
        served.happen(1)
        following = served.client().stream("Events", follow=True)
        assert [event["seq"] for event in next(following)["events"]] == [1]
        following.close()
        assert not current.done()
        told(served, True, False)
        assert current.result(20)["units"] == [{"lu": "naa.1"}, {"lu": "naa.2"}]
        assert late.result(20)["units"] == [{"lu": "naa.1", "doubt": "behind"}]


def test_a_history_that_is_not_current_is_not_told(served):
    served.happen(3)
    served.source.behind = True
    with ThreadPoolExecutor(2) as others:
        whole = others.submit(lambda: [*served.client().stream("Events")])
        wait_for(lambda: len(served.source.waiting) == 1)
        late = others.submit(lambda: [*served.client().stream("Events")])
        told(served, True, False)
        assert [len(each.get("events", ())) for each in whole.result(20)] == [3, 0]
        with pytest.raises(AgentUnreachableError, match="the history is not current"):
            late.result(20)


def test_who_leaves_while_waiting_is_forgotten_and_calls_keep_their_order(served):
    served.source.behind = True
    with served.connect() as leaving:
        leaving.sendall(b'{"method":"io.prtrace.Show"}\0')
        wait_for(lambda: len(served.source.waiting) == 1)
    wait_for(served.source.waiting[0].cancelled)
    with served.connect() as connection:
        connection.sendall(b'{"method":"io.prtrace.Show"}\0{"method":"io.prtrace.Status"}\0')
        wait_for(lambda: len(served.source.waiting) == 2)
        served.run(served.source.waiting[1].set_result, True)
        received = b""
        while received.count(b"\0") < 2:
            received += connection.recv(1 << 16)
    answers = [json.loads(each)["parameters"] for each in received.split(b"\0")[:2]]
    assert [next(iter(each)) for each in answers] == ["schema", "status"]


def test_a_job_waits_on_its_own_thread(served):
    served.source.behind = True
    with ThreadPoolExecutor(2) as others:
        check = others.submit(served.client().call, "Check", devices=["naa.1"])
        told(served, True)
        wait_for(lambda: len(served.source.waiting) == 2)  # for the history, too
        served.run(served.source.waiting[1].set_result, True)
        assert check.result(20)["units"] == [{"lu": "naa.1"}, []]
        served.source.waiting.clear()
        check = others.submit(served.client().call, "Check", devices=["naa.1"])
        told(served, False)
        wait_for(lambda: len(served.source.waiting) == 2)
        served.run(served.source.waiting[1].set_result, False)
        with pytest.raises(PrtraceError, match="the history is not current"):
            check.result(20)
