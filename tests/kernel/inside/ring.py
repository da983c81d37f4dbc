"""Rings that overflow, and a reader that stands still.

ring.py overflow [SEED]           a ring of 64 KiB: what is lost is counted, and in doubt by name
ring.py stopped COMMANDS [SEED]   the default ring: so many PR OUTs wait for a stopped reader
"""

from __future__ import annotations

import signal
import sys
import time

from agent import Agent
from load import (
    Load,
    Mark,
    check_answers,
    check_certain,
    check_history,
    check_oracle,
    counters,
    fresh,
    seeded,
    target,
)

from prtrace.api.client import Client

_SMALL = ("--ring-size", "65536")
_BURST = 150  # on each of four nexuses; the small ring holds about a hundred


def overflow(arguments: list[str]) -> None:
    """Lose records to a stopped, to a killed and to a busy agent."""
    chance = seeded(arguments)
    touched, other = target().units[:2]
    fresh()
    for how in ("stopped", "killed", "busy"):
        with Agent(*_SMALL) as agent:
            agent.settled(60)
        with Agent(*_SMALL, "--read-in-doubt", "no") as agent:
            assert not any(unit["doubt"] for unit in agent.show())
            mark, before = Mark.now(agent), counters(agent)
            load = Load(touched, chance.randrange(1 << 30))
            if how == "stopped":
                agent.send(signal.SIGSTOP)
            elif how == "killed":
                agent.kill()
            load.burst(_BURST)
            total = load.end()
            if how == "stopped":
                agent.send(signal.SIGCONT)
            elif how == "killed":
                agent.start()
            units = {unit["lu"]: unit for unit in agent.show()}
            after = counters(agent)
            events = list(agent.events(since_seq=mark.seq))
            consumed = sum(event["record"] > 0 for event in events)
            dropped = after["ring_full"] - before["ring_full"]
            lost = [event for event in events if event["command"] == "LOST"]
            print(how, total, f"consumed {consumed}, dropped {dropped} of {load.sent}", flush=True)
            assert how == "busy" or dropped > 0
            assert consumed + dropped == load.sent == after["seen"] - before["seen"]
            assert sum(event["count"] for event in lost) == dropped
            assert {event["lu"] for event in lost} <= {touched.lu}
            if dropped:
                facts = {doubt["what"] for doubt in units[touched.lu]["doubt"]}
                assert facts == {"registrations", "reservation", "generation"}, facts
            check_certain(units[touched.lu], touched)
            check_oracle(units[other.lu], other)
    with Agent(*_SMALL) as agent:
        units = {unit["lu"]: unit for unit in agent.settled(60)}
        check_oracle(units[touched.lu], touched)
        assert "Traceback" not in agent.log
    print("1 passed, 0 failed")


def stopped(commands: int, arguments: list[str]) -> None:
    """Nothing of what happened while the reader stood still is lost."""
    chance = seeded(arguments)
    built = target().units[0]
    fresh()
    with Agent() as agent:
        agent.settled(60)
        mark = Mark.now(agent)
        load = Load(built, chance.randrange(1 << 30))
        agent.send(signal.SIGSTOP)
        begun = time.monotonic()
        load.burst(commands // 4)
        took = time.monotonic() - begun
        total = load.end()
        agent.send(signal.SIGCONT)
        begun = time.monotonic()
        Client(str(agent.socket), timeout=1500).call("Show", devices=[])
        drained = time.monotonic() - begun
        print(f"{load.sent} PR OUTs took {took:.1f} s, drained in {drained:.1f} s, {dict(total)}")
        units = {unit["lu"]: unit for unit in agent.settled(60)}
        figures = counters(agent)
        assert figures["ring_full"] == figures["missed"] == 0, figures
        events = list(agent.events(since_seq=mark.seq))
        check_history(events, mark, figures["seen"])
        check_answers(events, total)
        assert load.generations() == total["registers_good"]
        check_oracle(units[built.lu], built)
    print("1 passed, 0 failed")


if __name__ == "__main__":
    if sys.argv[1] == "overflow":
        overflow(sys.argv[2:])
    else:
        stopped(int(sys.argv[2]), sys.argv[3:])
