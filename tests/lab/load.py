"""Load on the target, flat out, and what it came to; see load.c."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections import Counter
from pathlib import Path
from typing import Any, Self

from lab.agent import STATE_DIR, Agent
from labkit import needs
from labkit.oracle import oracle
from labkit.target import Target, Unit

from prtrace.linux.sgio import Reply, SgDevice
from prtrace.probe import libbpf, pins
from prtrace.probe.ring import Ring

_BURST = 20


def target() -> Target:
    """What the lab built."""
    return Target.load(os.environ["LAB_TARGET"])


def run(*arguments: object) -> dict[str, int]:
    """One run of the load program to its end."""
    done = subprocess.run(
        [needs.load(), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    return _figures(done.stdout)


def _figures(output: str) -> dict[str, int]:
    words = output.strip().splitlines()[-1].split()
    return {name: int(count) for name, count in (word.split("=") for word in words)}


def unread() -> int:
    """Bytes in the pinned ring of PR records that no agent has given back."""
    epoch = pins.epochs()[-1]
    fd = libbpf.bpf_obj_get(str(epoch.path / "maps" / "pr_events"))
    try:
        with Ring(fd, libbpf.bpf_map_get_info(fd).max_entries) as ring:
            return ring.unread
    finally:
        os.close(fd)


class Load:
    """A process on each path of a unit that sends PR OUT flat out, as long as it is fed."""

    def __init__(self, unit: Unit, seed: int) -> None:
        self.unit = unit
        self.sent = 0
        self.before = oracle(unit.directory).generation
        self._stop = threading.Event()
        self._feeder: threading.Thread | None = None
        self._processes = [
            subprocess.Popen(
                [needs.load(), "out", path.block, str(number), str(seed + number)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number, path in enumerate(unit.paths, 1)
        ]

    def burst(self, commands: int) -> None:
        """So many commands on each path at the same time; returns when all are done."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{commands}\n")
            process.stdin.flush()
        for process in self._processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "done\n"
        self.sent += commands * len(self._processes)

    def feed(self, room: int) -> Self:
        """Keep sending, but let no more than about room bytes wait in the ring."""

        def keep() -> None:
            while not self._stop.is_set():
                if unread() < room:
                    self.burst(_BURST)
                else:
                    self._stop.wait(0.02)

        self._feeder = threading.Thread(target=keep, daemon=True)
        self._feeder.start()
        return self

    def end(self) -> Counter[str]:
        """Stop, and count what was answered."""
        self._stop.set()
        if self._feeder is not None:
            self._feeder.join()
        total: Counter[str] = Counter()
        for process in self._processes:
            output, _ = process.communicate(timeout=120)
            total.update(_figures(output))
        assert sum(total.values()) == self.sent, (total, self.sent)
        return total

    def generations(self) -> int:
        """How far LIO's PRGENERATION has gone since the start."""
        return oracle(self.unit.directory).generation - self.before


def newest(agent: Agent) -> int:
    """The number of the newest event: where the history ends now."""
    return max((event["seq"] for event in agent.events(last=1)), default=0)


def counters(agent: Agent) -> dict[str, int]:
    """The counters of status."""
    figures: dict[str, int] = agent.status()["status"]["counters"]
    return figures


def check_history(events: list[dict[str, Any]], seen: int) -> None:
    """Every record is there once, none is missing, and each nexus's REGISTERs are in order.

    events: the whole history of an agent since fresh().  seen: the records that the programs had
    made before that was asked for.
    """
    records = [(event["epoch"], event["record"]) for event in events if event["record"]]
    assert len(records) == len(set(records)), "a record was stored twice"
    assert len({epoch for epoch, _ in records}) == 1, "the programs were attached anew"
    numbers = {record for _, record in records}
    check_counted(events, set(range(1, max(numbers | {seen}) + 1)) - numbers)
    check_order(events)


def check_counted(events: list[dict[str, Any]], missing: set[int]) -> None:
    """Exactly the missing records are those that the events with a count stand for.

    Such an event is the agent's own reading.  It stands for earlier ones of the same unit, as long
    as nothing else happened to that unit: for records behind the unit's last other one.
    """
    room: list[tuple[int, int]] = []  # for each record that is counted: (from, to), both excluded
    other: dict[str, int] = {}
    for event in sorted(events, key=lambda event: event["record"]):
        own = event["command"] == "PR IN" and event["comm"] == "prtrace"
        if event["record"] and event["count"] > 1:
            assert own, f"stands for more than itself: {event}"
            room += [(other.get(event["lu"], 0), event["record"])] * (event["count"] - 1)
        elif event["record"] and not own:
            other[event["lu"]] = event["record"]
    assert len(room) == len(missing), (
        f"{len(room)} are counted, missing are {sorted(missing)[:20]}"
    )
    for number in sorted(missing):
        fitting = [each for each in room if each[0] < number < each[1]]
        assert fitting, f"record {number} is missing and not counted"
        # The one that can take the fewest of those that follow.
        room.remove(min(fitting, key=lambda each: each[1]))


def check_order(events: list[dict[str, Any]]) -> None:
    """Each nexus's REGISTERs of the load are in the order of their keys, which only grow."""
    last: dict[tuple[str, str], int] = {}
    for event in events:
        if event["action"] == "REGISTER AND IGNORE EXISTING KEY":
            key = int(event["sa_key"], 16)
            where = event["lu"], event["nexus"]
            assert key > last.get(where, 0), f"out of order: {event}"
            last[where] = key


def check_answers(events: list[dict[str, Any]], total: Counter[str]) -> None:
    """What the events say was answered is what the load was answered."""
    told: Counter[str] = Counter()
    answered = Counter(total)
    for kind in ("", "registers_"):
        # Now and then LIO answers commands that race with other sense data.
        answered[f"{kind}attention"] += answered.pop(f"{kind}other")
    statuses = {"GOOD": "good", "RESERVATION CONFLICT": "conflict", "CHECK CONDITION": "attention"}
    for event in events:
        if event["command"] == "PR OUT":
            register = "registers_" if event["action"].startswith("REGISTER") else ""
            told[register + statuses[event["status"]]] += 1
    assert +told == +answered, (told, total)


def check_oracle(unit: dict[str, Any], built: Unit) -> None:
    """Nothing is in doubt, and it is what LIO has."""
    assert not unit["doubt"], unit["doubt"]
    check_certain(unit, built)


def check_certain(unit: dict[str, Any], built: Unit) -> None:
    """What is not in doubt is what LIO has."""
    doubted = {doubt["what"] for doubt in unit["doubt"]}
    theirs = oracle(built.directory)
    ports = {path.hctl: path.initiator for path in built.paths}
    if "generation" not in doubted:
        assert unit["generation"] == theirs.generation
    if "registrations" not in doubted:
        keys = {ports[each["nexus"]]: int(each["key"], 16) for each in unit["registrations"]}
        assert keys == theirs.keys()
    if "reservation" not in doubted:
        held = unit["reservation"]
        assert (held and held["type_code"]) == theirs.type_code
        if held:
            assert [ports[nexus] for nexus in held["holders"]] == [theirs.holder]


TEST_UNIT_READY = bytes(6)
"""Its CDB: the cheapest command that takes one unit attention."""


def send_once(
    device: SgDevice, action: int, key: bytes = bytes(8), sa_key: bytes = bytes(8), type_: int = 0
) -> Reply:
    """One PR OUT, once; whatever is answered."""
    cdb = bytes((0x5F, action, type_, 0, 0, 0, 0, 0, 24, 0))
    return device.send(cdb, key + sa_key + bytes(8))


def pr_out(
    device: SgDevice, action: int, key: bytes = bytes(8), sa_key: bytes = bytes(8), type_: int = 0
) -> Reply:
    """One PR OUT, sent again while unit attentions answer instead."""
    while (reply := send_once(device, action, key, sa_key, type_)).attention:
        pass
    return reply


def drain(device: SgDevice) -> None:
    """Take the unit attentions that wait for a nexus."""
    while device.send(TEST_UNIT_READY).attention:
        pass


def fresh(state_dir: Path = STATE_DIR) -> None:
    """Clear the units, detach what former agents left attached, forget what they stored."""
    key = (0xC1EA).to_bytes(8, "big")
    for unit in target().units:
        with SgDevice(unit.paths[0].sg) as device:
            pr_out(device, 6, sa_key=key).expect_good("REGISTER")
            pr_out(device, 3, key).expect_good("CLEAR")
    if pins.BASE.is_dir():
        for epoch in pins.epochs():
            pins.remove(epoch.path)
    shutil.rmtree(state_dir, ignore_errors=True)
