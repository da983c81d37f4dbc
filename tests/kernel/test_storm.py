"""A storm of RESERVATION CONFLICTs at the rate of the I/O itself."""

from __future__ import annotations

import os
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
    pr_out,
    run,
)
from labkit.target import Target
from labkit.waiting import await_that

from prtrace.linux.sgio import SgDevice
from prtrace.probe import libbpf, pins
from prtrace.probe.record import Cause, Counts

pytestmark = pytest.mark.machine(luns=2, nexuses=4, needs=("load",))

_EXCLUSIVE_ACCESS = 3
_KEY = (0xEA).to_bytes(8, "big")
_THREADS = 4
_ROOM = 200_000
_PER_SECOND = 10


def counted(nexus: str) -> int:
    """The kernel's own count of a nexus."""
    fd = libbpf.bpf_obj_get(str(pins.epochs()[-1].path / "maps" / "pr_counts"))
    all_counts = [Counts.parse(key, value) for key, value in libbpf.map_items(fd)]
    os.close(fd)
    return sum(each.count[Cause.CONFLICT] for each in all_counts if each.nexus == nexus)


def told(agent: Agent, nexus: str, since: int) -> int:
    """What the events say."""
    return sum(
        event["count"]
        for event in agent.events(since_seq=since)
        if event["command"] == "CONFLICT" and event["nexus"] == nexus
    )


def storm(target: Target, seed: int, reads: int) -> None:
    """Excluded readers on one unit, PR OUTs on another."""
    chance = random.Random(seed)
    excluded, busy = target.units[:2]
    holder, reader = excluded.paths[:2]
    fresh()
    # Closing a node makes the kernel look for partitions when it is opened again.
    nodes = [os.open(path.block, os.O_RDONLY | os.O_NONBLOCK) for path in excluded.paths]
    with Agent() as agent, SgDevice(holder.sg) as device:
        agent.settled(60)
        pr_out(device, 6, sa_key=_KEY).expect_good("REGISTER")
        pr_out(device, 1, _KEY, type_=_EXCLUSIVE_ACCESS).expect_good("RESERVE")
        mark, before = newest(agent), counters(agent)
        base = counted(reader.hctl)
        load = Load(busy, chance.randrange(1 << 30)).feed(_ROOM)
        begun = time.monotonic()
        found = run("read", reader.block, reads, _THREADS)
        took = time.monotonic() - begun
        total = load.end()
        await_that(
            "all conflicts are told", lambda: told(agent, reader.hctl, mark) >= found["conflict"]
        )
        units = {unit["lu"]: unit for unit in agent.settled(60)}
        after = counters(agent)
        events = list(agent.events(since_seq=mark))
        samples = after["samples"] - before["samples"]
        print(f"{found} in {took:.1f} s, {samples} samples, {dict(total)}, {after}")
        assert found["conflict"] == reads, found
        assert told(agent, reader.hctl, mark) == reads
        assert counted(reader.hctl) - base == reads
        assert samples <= _PER_SECOND * (int(took) + 2), samples
        assert after["ring_full"] == after["missed"] == after["count_map_full"] == 0
        check_history(list(agent.events()), after["seen"])
        check_answers([event for event in events if event["lu"] == busy.lu], total)
        check_oracle(units[busy.lu], busy)
        check_oracle(units[excluded.lu], excluded)
        pr_out(device, 3, _KEY).expect_good("CLEAR")
        assert "Traceback" not in agent.log
    for node in nodes:
        os.close(node)


@pytest.mark.timeout(480)
def test_conflicts_are_counted_and_push_nothing_out(target: Target, seed: int) -> None:
    storm(target, seed, 20_000)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_hundred_thousand_conflicts(target: Target, seed: int) -> None:
    storm(target, seed, 100_000)
