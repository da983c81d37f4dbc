"""In the machine: save on one nexus, prepare and load on the other, of all units side by side.

The argument is the number of rounds.  Prints a JSON object: nanoseconds of each round for all
units, and the most PR OUT and PR IN that any unit was sent within the pause.  What an agent
observed before the pause is read beforehand.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from labkit.target import Target, Unit

from benchkit.agent import Agent
from prtrace.api.client import Client
from prtrace.linux.sgio import SgDevice
from prtrace.model import Action, Outcome, ReservationType
from prtrace.move.carry import MoveOptions
from prtrace.move.verbs import Moves
from prtrace.scsi.cdb import PrOutCdb
from prtrace.scsi.parameter import BasicList

_KEY, _KIND = 0x4B4B, ReservationType.WERO
_TEST_UNIT_READY = bytes(6)
_HERE, _THERE = 0, 1
_THREADS = 32
_SETTLE_S = 300


def main() -> None:
    units = Target.load(os.environ["LAB_TARGET"]).units
    found: dict[str, list[int]] = {
        name: []
        for name in (
            "save",
            "prepare",
            "load",
            "sg_persist",
            "sg_io",
            "before the pause of the agent",
            "load of the agent",
            "commands",
        )
    }
    writes = reads = 0
    for _ in range(1 + int(sys.argv[1])):
        prepare(units)
        most = by_api(units, found)
        writes, reads = max(writes, most[0]), max(reads, most[1])
        prepare(units)
        found["sg_persist"].append(used(lambda: side_by_side(by_program, units)))
        prepare(units)
        found["sg_io"].append(timed(lambda: side_by_side(in_process, units)))
    with Agent("--engine", "core") as agent:
        agent.await_ready()
        for _ in range(1 + int(sys.argv[1])):
            prepare(units)
            settle(agent)
            by_agent(units, agent, found)
            prepare(units)
            settle(agent)
            found["commands"].append(used(lambda: by_command(units, agent)))
    # The first round brings programs and modules from the disk, and is not counted.
    warm = {name: times[1:] for name, times in found.items()}
    json.dump({**warm, "writes": writes, "reads": reads}, sys.stdout)


def by_api(units: tuple[Unit, ...], found: dict[str, list[int]]) -> tuple[int, int]:
    """One load of a prepared move by prtrace.move; the most PR OUT and PR IN of a unit."""
    moves = Moves(MoveOptions(state_dir=Path(tempfile.mkdtemp(prefix="pause-"))))
    begun = time.monotonic_ns()
    file = moves.save([unit.paths[_HERE].block for unit in units], host="lab")
    saved = time.monotonic_ns()
    mapping = {unit.lu: unit.paths[_THERE].block for unit in units}
    if not moves.prepare(file, mapping).good:
        raise SystemExit("not prepared")
    prepared = time.monotonic_ns()
    report = moves.load(file)
    loaded = time.monotonic_ns()
    if not report.good:
        raise SystemExit(f"not loaded: {report.to_json()}")
    found["save"].append(saved - begun)
    found["prepare"].append(prepared - saved)
    found["load"].append(loaded - prepared)
    return max(unit.writes for unit in report.units), max(unit.reads for unit in report.units)


def settle(agent: Agent) -> None:
    """Wait until the agent knows what was prepared."""
    client = Client(agent.socket, timeout=_SETTLE_S)
    end = time.monotonic() + _SETTLE_S
    while any(unit["doubt"] for unit in client.call("Show")["units"]):
        if time.monotonic() > end:
            raise SystemExit("the agent stays in doubt")
        time.sleep(0.1)


def by_agent(units: tuple[Unit, ...], agent: Agent, found: dict[str, list[int]]) -> None:
    """One Save, Prepare and Load over the agent's socket, as the service of libvirt's hosts calls
    it: what the plugin waits for in the pause is the last of them."""
    client = Client(agent.socket, timeout=_SETTLE_S)
    begun = time.monotonic_ns()
    file = client.call("Save", devices=[unit.paths[_HERE].block for unit in units])["file"]
    mapping = {unit.lu: unit.paths[_THERE].block for unit in units}
    *_, last = client.stream("Prepare", file=file, devices=mapping)
    prepared = time.monotonic_ns()
    *_, last = client.stream("Load", file=file)
    loaded = time.monotonic_ns()
    if not last["report"]["good"]:
        raise SystemExit(f"not loaded: {last}")
    found["before the pause of the agent"].append(prepared - begun)
    found["load of the agent"].append(loaded - prepared)


def by_command(units: tuple[Unit, ...], agent: Agent) -> None:
    """One prtrace save, prepare and load."""
    prtrace = [sys.executable, "-m", "prtrace"]
    environment = {**os.environ, "PRTRACE_SOCKET": agent.socket}
    devices = [unit.paths[_HERE].block for unit in units]
    saved = subprocess.run(
        [*prtrace, "save", *devices], check=True, env=environment, stdout=subprocess.PIPE
    ).stdout
    mapping = [f"--device={unit.lu}={unit.paths[_THERE].block}" for unit in units]
    for verb in ("prepare", "load"):
        command = [*prtrace, verb, "-", "--json", *mapping]
        subprocess.run(
            command, check=True, env=environment, input=saved, stdout=subprocess.DEVNULL
        )


def timed(work: Callable[[], None]) -> int:
    begun = time.monotonic_ns()
    work()
    return time.monotonic_ns() - begun


def used(work: Callable[[], None]) -> int:
    """Processor time of work and of the programs that it runs.

    The wall clock is not used: a clock driven by instructions jumps while a program is fetched
    from the host's disk.  What the kernel's own threads do for the programs is not counted.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.process_time_ns()
    work()
    own = time.process_time_ns() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    children = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return own + int(children * 1e9)


def side_by_side(work: Callable[[Unit], None], units: tuple[Unit, ...]) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(work, units))


def by_program(unit: Unit) -> None:
    """What QEMU sends, by sg_persist."""
    for words in (
        f"--register --param-sark={_KEY:x}",
        f"--preempt --param-rk={_KEY:x} --param-sark={_KEY:x} --prout-type={int(_KIND)}",
    ):
        command = ["sg_persist", "--out", *words.split(), unit.paths[_THERE].block]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def in_process(unit: Unit) -> None:
    """What QEMU sends, by SG_IO."""
    with SgDevice(unit.paths[_THERE].block) as device:
        send(device, Action.REGISTER, 0, _KEY)
        send(device, Action.PREEMPT, _KEY, _KEY, _KIND)


def prepare(units: tuple[Unit, ...]) -> None:
    """A guest on the first nexus that holds, and no unit attention that waits."""
    for unit in units:
        with (
            SgDevice(unit.paths[_HERE].block) as here,
            SgDevice(unit.paths[_THERE].block) as there,
        ):
            send(here, Action.REGISTER_AND_IGNORE, 0, _KEY)
            send(here, Action.CLEAR, _KEY, 0)
            send(here, Action.REGISTER, 0, _KEY)
            send(here, Action.RESERVE, _KEY, 0, _KIND)
            for device in (here, there):
                while device.send(_TEST_UNIT_READY).attention:
                    pass


def send(
    device: SgDevice, action: Action, key: int, sa_key: int, kind: ReservationType | None = None
) -> None:
    """Send a PR OUT until no unit attention is delivered instead; it must succeed."""
    cdb, sent = PrOutCdb(action, type=kind).build(), BasicList(key, sa_key).build()
    while (reply := device.send(cdb, sent)).attention:
        pass
    if reply.outcome is not Outcome.DONE:
        raise SystemExit(f"{action}: {reply.outcome}")


main()
