"""An agent that finds a storm when it starts: whoever asks meanwhile is answered, and told."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from lab.agent import Agent
from lab.load import (
    Load,
    check_answers,
    check_certain,
    check_history,
    check_oracle,
    counters,
    fresh,
    newest,
)
from labkit import pace
from labkit.target import Unit

from prtrace.errors import AgentUnreachableError

pytestmark = pytest.mark.machine(nexuses=2, needs=("load",))

STATUS_SECONDS = 2.0


def first_status(agent: Agent) -> dict[str, Any]:
    """As soon as the agent answers."""
    end = time.monotonic() + pace.limit(60)
    while True:
        try:
            told: dict[str, Any] = agent.status()["status"]
        except AgentUnreachableError:
            assert time.monotonic() < end, agent.log
            time.sleep(0.05)
        else:
            return told


def adopted(unit: Unit, seed: int, commands: int, *options: str) -> None:
    fresh()
    with Agent(*options) as agent:
        agent.settled(60)
        mark = newest(agent)
        load = Load(unit, random.Random(seed).randrange(1 << 30))
        agent.kill()
        load.burst(commands // 2)
        total = load.end()
        agent.start(wait=False)
        waiting = [first_status(agent)["ring"]["unread"]]
        took, in_doubt = [], []
        while waiting[-1]:
            begun = time.monotonic()
            status = agent.status()["status"]
            took.append(time.monotonic() - begun)
            waiting.append(status["ring"]["unread"])
            if waiting[-1]:
                in_doubt.append(status["in_doubt"])
            time.sleep(0.1)
        print(
            f"{commands} PR OUT; {len(took)} answers meanwhile, the slowest in {max(took):.2f} s"
        )
        print("bytes that waited:", waiting)
        assert in_doubt, "it was over before anybody could ask"
        assert all(in_doubt), "nothing was said of what waits"
        assert max(took) < pace.limit(STATUS_SECONDS)
        agent.caught_up()
        (shown,) = agent.settled(60)
        events = list(agent.events(since_seq=mark))
        check_history(list(agent.events()), counters(agent)["seen"])
        check_answers(events, total)
        check_oracle(shown, unit)
        assert "Traceback" not in agent.log


@pytest.mark.timeout(200)
def test_callers_are_answered_while_a_storm_is_adopted(unit: Unit, seed: int) -> None:
    adopted(unit, seed, 3000)


@pytest.mark.slow
@pytest.mark.timeout(1700)
def test_callers_are_answered_while_60000_are_adopted(unit: Unit, seed: int) -> None:
    adopted(unit, seed, 60_000, "--ring-size", str(64 << 20))


@pytest.mark.timeout(200)
def test_a_unit_is_shown_in_doubt_until_what_happened_is_taken(unit: Unit, seed: int) -> None:
    """A command that is over when somebody asks is in the answer, or the unit is in doubt."""
    fresh()
    with Agent() as agent:
        agent.settled(60)
        load = Load(unit, random.Random(seed).randrange(1 << 30))
        agent.kill()
        load.burst(2500)
        load.end()
        agent.start(wait=False)
        assert first_status(agent)["ring"]["unread"]
        (shown,) = agent.show(unit.lu)
        reasons = {doubt["reason"] for doubt in shown["doubt"]}
        print("shown at first:", reasons)
        check_certain(shown, unit)
        agent.caught_up()
        (shown,) = agent.settled(60)
        check_oracle(shown, unit)
