"""Kill the agent at random moments under load: nothing is missing, nothing is there twice.

restart.py KILLS ROOM [SEED]: ROOM is how many bytes of records may wait in the ring.
"""

from __future__ import annotations

import sys
import time

from agent import Agent
from load import (
    Load,
    Mark,
    check_answers,
    check_history,
    check_oracle,
    counters,
    fresh,
    seeded,
    target,
)

# Seconds that an agent may live once it answers.
_LIFE = 3.0


def main(kills: int, room: int, arguments: list[str]) -> None:
    """Kill so often, then compare everything with everything."""
    chance = seeded(arguments)
    built = target().units[0]
    fresh()
    with Agent() as agent:
        agent.settled(30)
        mark = Mark.now(agent)
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
        events = list(agent.events(since_seq=mark.seq))
        print(f"{kills} kills, {early} of them during start-up; start-up takes {up:.1f} s")
        print(f"{load.sent} commands, {dict(total)}, {len(events)} events, {figures}")
        assert figures["ring_full"] == figures["missed"] == 0, figures
        assert figures["seen"] == figures["submitted"]
        check_history(events, mark, figures["seen"])
        check_answers(events, total)
        assert load.generations() == total["registers_good"]
        check_oracle(units[built.lu], built)
        assert "Traceback" not in agent.log
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
