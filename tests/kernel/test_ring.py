"""Rings that overflow, and a reader that stands still."""

from __future__ import annotations

import random
import signal
import time
from dataclasses import replace
from pathlib import Path

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
from labkit import sysfs
from labkit.target import Target, Unit
from labkit.waiting import await_that

pytestmark = pytest.mark.machine(luns=2, nexuses=4, needs=("load",))

_SMALL = ("--ring-size", "65536")
_BURST = 150  # on each of four nexuses; the small ring holds about a hundred


@pytest.mark.timeout(480)
def test_what_a_full_ring_drops_is_in_doubt_by_name(target: Target, seed: int) -> None:
    """Lose records to a stopped, to a killed and to a busy agent."""
    chance = random.Random(seed)
    touched, other = target.units[:2]
    fresh()
    for how in ("stopped", "killed", "busy"):
        with Agent(*_SMALL) as agent:
            agent.settled(60)
        with Agent(*_SMALL, "--read-in-doubt", "no") as agent:
            assert not any(unit["doubt"] for unit in agent.show())
            mark, before = newest(agent), counters(agent)
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
            agent.caught_up()
            units = {unit["lu"]: unit for unit in agent.show()}
            after = counters(agent)
            events = list(agent.events(since_seq=mark))
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


@pytest.mark.timeout(480)
def test_a_loss_is_told_of_whoever_has_the_address_now(target: Target, seed: int) -> None:
    """Two units at one H:C:T:L, one after the other; records of both find no room."""
    first, then = target.units[:2]
    at = first.paths[0]
    port = Path(at.tpg) / "lun" / f"lun_{at.hctl.rpartition(':')[2]}" / "port"
    fresh()
    with Agent(*_SMALL) as agent:
        agent.settled(60)
        lost = []
        for unit in (first, then):
            if unit is then:
                link(port, then, at.hctl)
            told = await_path(agent, unit, at.hctl)
            agent.settled(60)
            mark = newest(agent)
            load = Load(replace(unit, paths=(replace(at, block=told.block),)), seed)
            agent.send(signal.SIGSTOP)
            load.burst(4 * _BURST)
            load.end()
            agent.send(signal.SIGCONT)
            agent.caught_up()
            lost.append({e["lu"] for e in agent.events(since_seq=mark) if e["command"] == "LOST"})
        link(port, first, at.hctl)
        print(lost)
        assert lost[0] == {first.lu}
        assert then.lu in lost[1]
        for unit in (first, then):
            check_oracle({each["lu"]: each for each in agent.settled(60)}[unit.lu], unit)


def link(port: Path, unit: Unit, hctl: str) -> None:
    """Have LIO's port lead to unit, at the same address."""
    port.unlink()
    await_that(f"{hctl} is gone", lambda: hctl not in sysfs.addresses())
    port.symlink_to(unit.directory)
    sysfs.await_disk(hctl)


def await_path(agent: Agent, unit: Unit, hctl: str) -> sysfs.Disk:
    """The disk at an address, once the agent knows that it leads to unit."""

    def known() -> bool:
        shown = {each["lu"]: each for each in agent.show()}
        return hctl in {path["nexus"] for path in shown[unit.lu]["nexuses"]}

    await_that(f"{hctl} leads to {unit.lu}", known)
    return sysfs.await_disk(hctl)


def stopped(built: Unit, seed: int, commands: int) -> None:
    """Nothing of what happened while the reader stood still is lost."""
    chance = random.Random(seed)
    fresh()
    with Agent() as agent:
        agent.settled(60)
        mark = newest(agent)
        load = Load(built, chance.randrange(1 << 30))
        agent.send(signal.SIGSTOP)
        begun = time.monotonic()
        load.burst(commands // 4)
        took = time.monotonic() - begun
        total = load.end()
        agent.send(signal.SIGCONT)
        begun = time.monotonic()
        agent.caught_up(1500)
        drained = time.monotonic() - begun
        print(f"{load.sent} PR OUTs took {took:.1f} s, drained in {drained:.1f} s, {dict(total)}")
        units = {unit["lu"]: unit for unit in agent.settled(60)}
        figures = counters(agent)
        assert figures["ring_full"] == figures["missed"] == 0, figures
        events = list(agent.events(since_seq=mark))
        check_history(list(agent.events()), figures["seen"])
        check_answers(events, total)
        assert load.generations() == total["registers_good"]
        check_oracle(units[built.lu], built)


@pytest.mark.timeout(480)
def test_a_stopped_reader_loses_nothing(unit: Unit, seed: int) -> None:
    stopped(unit, seed, 1600)


@pytest.mark.slow
@pytest.mark.timeout(2800)
def test_a_stopped_reader_loses_nothing_of_16384(unit: Unit, seed: int) -> None:
    stopped(unit, seed, 16384)
