"""Kill the agent at random moments under load: nothing is missing, nothing is there twice."""

from __future__ import annotations

import random
import time

import pytest
from lab.agent import Agent
from lab.load import (
    Load,
    check_answers,
    check_history,
    check_oracle,
    counters,
    fresh,
    newest,
)
from labkit.kernels import SERIES
from labkit.target import Unit

pytestmark = pytest.mark.machine(luns=2, nexuses=4, needs=("load",))

# Seconds that an agent may live once it answers.
_LIFE = 3.0


def killed(built: Unit, seed: int, *, kills: int, room: int) -> None:
    """Kill so often, with at most room bytes in the ring; then compare all with all."""
    chance = random.Random(seed)
    fresh()
    with Agent() as agent:
        agent.settled(30)
        mark = newest(agent)
        agent.kill()
        begun = time.monotonic()
        agent.start()
        up = time.monotonic() - begun
        load = Load(built, chance.randrange(1 << 30)).feed(room)
        early = 0
        for number in range(kills):
            agent.kill()
            said = agent.log.count("listening on")
            agent.start(wait=False)
            if chance.random() < 0.5:
                time.sleep(chance.uniform(0, up))
            else:
                agent.wait_ready(300)
                time.sleep(chance.uniform(0, _LIFE))
            assert agent.process is not None
            assert agent.process.poll() is None, agent.log
            early += agent.log.count("listening on") == said
            if number % 10 == 9:
                print(f"{number + 1} kills, {load.sent} commands", flush=True)
        agent.kill()
        total = load.end()
        begun = time.monotonic()
        agent.start(timeout=300)
        agent.call("Show", devices=[])
        print(f"drained after {time.monotonic() - begun:.1f} s")
        units = {unit["lu"]: unit for unit in agent.settled(60)}
        figures = counters(agent)
        events = list(agent.events(since_seq=mark))
        print(f"{kills} kills, {early} of them during start-up; start-up takes {up:.1f} s")
        print(f"{load.sent} commands, {dict(total)}, {len(events)} events, {figures}")
        assert figures["ring_full"] == figures["missed"] == 0, figures
        assert figures["seen"] == figures["submitted"]
        check_history(list(agent.events()), figures["seen"])
        check_answers(events, total)
        assert load.generations() == total["registers_good"]
        check_oracle(units[built.lu], built)
        assert "Traceback" not in agent.log


@pytest.mark.timeout(780)
def test_killed_under_load(unit: Unit, seed: int) -> None:
    killed(unit, seed, kills=5, room=100_000)


@pytest.mark.slow
@pytest.mark.timeout(7000)
@pytest.mark.machine(kernels=SERIES)
def test_killed_a_hundred_times(unit: Unit, seed: int) -> None:
    killed(unit, seed, kills=100, room=500_000)
