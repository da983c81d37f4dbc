"""A command whose submission was not seen: the sender of an earlier one is not taken for its own.

The kernel gives the memory of a struct request to one command after the other, and the program at
the end finds the sender by that address.
"""

from __future__ import annotations

import pytest
from lab.agent import Agent
from lab.load import check_oracle, counters, drain, fresh, send_once
from labkit.target import Unit

from prtrace.linux.sgio import SgDevice
from prtrace.probe import pins

pytestmark = [pytest.mark.machine(nexuses=2), pytest.mark.timeout(300)]

_KEYS = range(1, 5)


def register(device: SgDevice) -> None:
    """One registration after the other."""
    for key in _KEYS:
        send_once(device, 6, bytes(8), key.to_bytes(8, "big")).expect_good("REGISTER")


def test_nobody_is_named_where_the_submission_was_not_seen(unit: Unit) -> None:
    """Four commands with the program at the submission, then four without it."""
    fresh()
    with Agent() as agent, SgDevice(unit.paths[0].block) as device:
        agent.settled(30)
        drain(device)
        register(device)
        agent.kill()
        (pins.epochs()[-1].generations[-1].path / "pr_submit").unlink()
        register(device)
        agent.start()
        sent = [each for each in agent.events() if each["command"] == "PR OUT"]
        print([(each["comm"], each["head"], each["start_ns"], each["effect"]) for each in sent])
        seen, unseen = sent[: len(_KEYS)], sent[len(_KEYS) :]
        assert [int(each["sa_key"], 16) for each in seen] == [*_KEYS]
        # Where the list lies is read at submission.
        assert all(each["data"] == "" and each["problem"] for each in unseen)
        assert all(each["pid"] and each["head"] == each["data"] for each in seen)
        assert all(each["pid"] is None and not each["head"] for each in unseen)
        assert all("in doubt" in each["effect"] for each in unseen)
        assert counters(agent)["not_submitted"] == len(unseen)
        assert "replaced programs that lacked pr_submit" in agent.log
        [shown] = agent.settled(30)
        check_oracle(shown, unit)
        assert "Traceback" not in agent.log
