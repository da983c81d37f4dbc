"""Programs replaced while commands are under way, and what cannot be taken over."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from lab.agent import STATE_DIR, Agent
from lab.load import (
    Load,
    check_answers,
    check_history,
    check_oracle,
    counters,
    fresh,
    newest,
)
from labkit.target import Target, Unit
from labkit.waiting import await_that

from prtrace.probe import objectfile, pins
from prtrace.probe.record import ABI

pytestmark = pytest.mark.machine(luns=2, nexuses=4, needs=("load",))

_ROOM = 200_000
_OBJECT = STATE_DIR.with_name("prtrace-upgrade.o")
_VARIABLE = "PRTRACE_BPF_OBJECT"


def another_object(number: int) -> None:
    """An object with a digest of its own: bytes behind the end of an ELF file mean nothing."""
    os.environ.pop(_VARIABLE, None)
    _OBJECT.write_bytes(objectfile.object_path().read_bytes() + bytes([number]))
    os.environ[_VARIABLE] = str(_OBJECT)


def attached() -> int:
    """How many generations of the programs the kernel runs."""
    told = subprocess.run(
        ["bpftool", "prog", "show", "--json"], capture_output=True, check=True, timeout=60
    )
    return sum(program.get("name") == "pr_submit" for program in json.loads(told.stdout))


def wait_single() -> None:
    """Until one generation is left."""
    await_that(
        "one generation is left",
        lambda: attached() == 1 and len(pins.epochs()[-1].generations) == 1,
        told=lambda: (attached(), pins.epochs()),
    )


def replaced(agent: Agent, built: Unit, upgrades: int, seed: int) -> None:
    """No record is missing and none is there twice, whichever programs made it."""
    chance = random.Random(seed)
    agent.settled(60)
    mark = newest(agent)
    epoch = pins.epochs()[-1].name
    load = Load(built, chance.randrange(1 << 30)).feed(_ROOM)
    for number in range(1, upgrades + 1):
        agent.kill()
        another_object(number)
        if number % 2:
            # Killed at some moment of the upgrade, which the next agent has to finish.
            agent.start(wait=False)
            time.sleep(chance.uniform(1, 8))
            agent.kill()
        agent.start(timeout=300)
        digest = agent.status()["status"]["digest"]
        assert digest == objectfile.digest()
        wait_single()
    total = load.end()
    units = {unit["lu"]: unit for unit in agent.settled(60)}
    status = agent.status()["status"]
    figures = counters(agent)
    events = list(agent.events(since_seq=mark))
    print(f"{upgrades} upgrades, generation {status['generation']}, {dict(total)}, {figures}")
    assert [each.name for each in pins.epochs()] == [epoch]
    assert status["generation"] > upgrades
    assert figures["ring_full"] == figures["missed"] == 0
    check_history(list(agent.events()), figures["seen"])
    check_answers(events, total)
    assert load.generations() == total["registers_good"]
    check_oracle(units[built.lu], built)


def reshape(epoch: pins.Epoch) -> None:
    """Put a map with other values in the place of one of this version's."""
    path = epoch.path / "maps" / "pr_pendings"
    path.unlink()
    subprocess.run(
        [
            *("bpftool", "map", "create", str(path), "type", "hash"),
            *("key", "8", "value", "112", "entries", "64", "name", "pr_pendings"),
        ],
        check=True,
        timeout=60,
    )


def unknown(agent: Agent, target: Target, why: str) -> str:
    """A start after which everything that was known is in doubt, and then is read.

    Returns what the agent says of that start.
    """
    quiet = Agent("--read-in-doubt", "no")
    quiet.start(timeout=300)
    note: str = quiet.status()["status"]["note"]
    units = quiet.show()
    quiet.kill()
    assert {unit["lu"] for unit in units} == {unit.lu for unit in target.units}
    for unit in units:
        doubts = [(doubt["what"], doubt["reason"]) for doubt in unit["doubt"]]
        facts = {"registrations", "reservation", "generation"}
        assert {what for what, _ in doubts} == facts, (why, doubts)
        # Beside it, where another store had records: that their numbers are missing.
        assert "nobody was watching" in {reason for _, reason in doubts}, (why, doubts)
    agent.start(timeout=300)
    known = {unit["lu"]: unit for unit in agent.settled(60)}
    for built in target.units:
        check_oracle(known[built.lu], built)
    wait_single()
    return note


@pytest.mark.timeout(500)
def test_upgrade_under_load(unit: Unit, seed: int) -> None:
    fresh()
    with Agent() as agent:
        replaced(agent, unit, 2, seed)


@pytest.mark.slow
@pytest.mark.timeout(3400)
def test_many_upgrades_under_load(unit: Unit, seed: int) -> None:
    fresh()
    with Agent() as agent:
        replaced(agent, unit, 20, seed)


@pytest.mark.timeout(500)
def test_what_cannot_go_on_puts_everything_in_doubt(target: Target) -> None:
    """Programs of another ABI, maps of another layout, records that another store has had."""
    fresh()
    with Agent() as agent:
        agent.settled(60)
        agent.kill()
        old = pins.epochs()[-1]
        old.path.rename(old.path.with_name(f"abi99-{old.name}"))
        unknown(agent, target, "another ABI")
        assert [each.abi for each in pins.epochs()] == [ABI]

        agent.kill()
        reshape(pins.epochs()[-1])
        note = unknown(agent, target, "another layout")
        assert "pr_pendings has keys of 8 and values of 112 bytes" in note
        assert pins.unlike(pins.epochs()[-1]) == ""

        agent.kill()
        elsewhere = Path("/run/prtrace-elsewhere")
        shutil.rmtree(elsewhere, ignore_errors=True)
        with Agent(state_dir=elsewhere) as visitor:
            visitor.settled(60)
            told = sorted(visitor.events(), key=lambda each: each["seq"])
            assert "another store had the records" in visitor.log
        for built in target.units:
            first = next(each for each in told if each["lu"] == built.lu)
            assert first["problem"] == "nobody was watching", first
        unknown(agent, target, "another store")
        assert "Traceback" not in agent.log
