"""The agent names the guest that a command came from: the proxy alone, and a helper behind it.

The first unit is used by its map, the second by its first path.  The clients are processes that
look like QEMU: a copy of the interpreter with QEMU's name and command line.  Nothing vouches for
what they call themselves, so they are shown as claimed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from beside import resident
from commands import DEADLINE, GOOD, KEYS, read
from helpers import CHECKOUT, proxy, qemu_helper
from lab.agent import Agent, cli
from labkit.kernels import SERIES
from labkit.target import Target, Unit
from proxy_kernels import PROXY_KERNELS

from prtrace.prhelper.attribution_log import NAME

WISHES = {"luns": 2, "nexuses": 2, "multipath": True}
EVERY_DAY = pytest.mark.machine(kernels=PROXY_KERNELS, **WISHES)
IN_TROUBLE = pytest.mark.machine(kernels=SERIES, **WISHES)
pytestmark = pytest.mark.timeout(300)

GUESTS = {"waldi": "5c6f9c4e-0d1f-4c52-8b5b-0c4a5f7d9f11", "bello": ""}
SCRIPT = """
import os, sys; sys.path[:0] = sys.argv[1:4]
from commands import *
path, node, code = sys.argv[4:7]
p, fd = Path(path), os.open(node, os.O_RDWR | os.O_NONBLOCK)
print(eval(code))
"""
HUGE = 8 << 30


class Guest:
    """Processes that look like one QEMU."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.uuid = name, GUESTS[name]
        # Its command line alone says so.
        self.title = f"(claimed) {name}"
        self._program = folder / "qemu-system-x86_64"
        if not self._program.exists():
            shutil.copy(os.path.realpath(sys.executable), self._program)
        self.pid = 0

    def run(self, path: Path, node: str, code: str) -> str:
        """One expression of the module commands' words; p is the socket, fd the device."""
        command = [
            self._program,
            "-c",
            SCRIPT,
            str(Path(__file__).parent),
            str(CHECKOUT),
            str(CHECKOUT / "tools"),
        ]
        command += [str(path), node, code, "-name", f"guest={self.name},debug-threads=on"]
        command += ["-uuid", self.uuid] if self.uuid else []
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
            self.pid = running.pid
            told, _ = running.communicate(timeout=DEADLINE)
        return told.strip()


def newest(agent: Agent, node: str, count: int = 1) -> list[dict[str, Any]]:
    return list(agent.events(devices=[node], last=count))


def named(event: dict[str, Any]) -> tuple[str, str, int]:
    return event["guest"], event["uuid"], event["client_pid"]


@dataclass(frozen=True, slots=True)
class House:
    """An agent that watches, and two proxies: one alone, one with a helper behind it."""

    folder: Path
    agent: Agent
    first: subprocess.Popen[bytes]
    helper: subprocess.Popen[bytes]
    waldi: Guest
    bello: Guest
    mapped: Unit
    node: str

    @property
    def ways(self) -> Iterator[tuple[Path, int, Guest]]:
        """Each proxy's socket, who sends its commands, and a guest of its own."""
        yield self.folder / "first", self.first.pid, self.waldi
        yield self.folder / "second", self.helper.pid, self.bello


@pytest.fixture(scope="module")
def house(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    options = []
    for name in ("first", "second", "third"):
        (folder / f"{name}-run").mkdir()
        options += ["--claims", str(folder / f"{name}-run")]
    with contextlib.ExitStack() as stack:
        helper = stack.enter_context(qemu_helper(folder / "helper"))
        alone = ["--run-dir", str(folder / "first-run")]
        first = stack.enter_context(proxy(folder / "first", *alone))
        behind = ["--run-dir", str(folder / "second-run"), "--upstream", str(folder / "helper")]
        stack.enter_context(proxy(folder / "second", *behind))
        agent = stack.enter_context(Agent("--read-in-doubt", "no", *options))
        guests = [Guest(folder, name) for name in GUESTS]
        node = target.units[1].paths[0].block
        yield House(folder, agent, first, helper, *guests, target.units[0], node)


@EVERY_DAY
def test_a_disk(house: House) -> None:
    """One guest's commands on a disk, as events and show have them."""
    for way, issuer, guest in house.ways:
        on_a_disk(house.agent, way, house.node, issuer, guest)


def on_a_disk(agent: Agent, way: Path, node: str, issuer: int, guest: Guest) -> None:
    told = guest.run(way, node, "out(p, fd, REGISTER, 0, 0xA).status,"
                     "out(p, fd, RESERVE, 0xA, 0, WERO).status, keys(p, fd),"
                     "out(p, fd, CLEAR, 0xB).status")  # fmt: skip
    assert told == "(0, 0, [10], 24)", "commands"
    wanted = guest.title, guest.uuid or None, guest.pid, issuer
    for event in newest(agent, node, 4):
        assert (*named(event), event["pid"]) == wanted, event["action"]
        assert (event["asked"], event["asked_data"]) == ("", ""), "what was asked was issued"
    (unit,) = agent.show(node)
    for fact in (unit["registrations"][0], unit["reservation"]):
        assert (*named(fact["by"]), fact["by"]["pid"]) == wanted, "show --json"
    text = " ".join(cli("show", node).stdout.split())  # lines end where 80 columns are full
    assert f"guest {guest.title}" in text, "who holds"
    assert text.count("guest (claimed)") == 2, "who registered, too"
    text = cli("events", node, "--last", "1", "-v").stdout
    assert f"guest {guest.title}" in text
    assert str(guest.pid) in text
    assert guest.run(way, node, "out(p, fd, CLEAR, 0xA).status") == "0", "clear"


@EVERY_DAY
def test_bystanders(house: House) -> None:
    """Who does not come through the proxy is not called a guest, between a guest's commands."""
    for way, _, guest in house.ways:
        beside_a_guest(house.agent, way, house.folder / "helper", house.node, guest)


def beside_a_guest(agent: Agent, way: Path, helper: Path, node: str, guest: Guest) -> None:
    code = "[read(p, fd, KEYS).status for _ in range(5)]"
    guest.run(way, node, code)
    subprocess.run(["sg_persist", "-n", "-i", "-k", node], check=True, capture_output=True)
    (event,) = newest(agent, node)
    assert (named(event), event["comm"]) == ((None, None, None), "sg_persist"), "sg_persist"
    fd = os.open(node, os.O_RDWR | os.O_NONBLOCK)
    read(helper, fd, KEYS)
    os.close(fd)
    (event,) = newest(agent, node)
    assert (named(event), event["comm"]) == ((None, None, None), "qemu-pr-helper"), "the helper's"
    guest.run(way, node, code)
    wanted = {(guest.title, guest.uuid or None, guest.pid)}
    assert {named(event) for event in newest(agent, node, 5)} == wanted, "all of them"


@EVERY_DAY
def test_a_map(house: House) -> None:
    """The paths' commands are the guest's, and what it had asked for shows."""
    on_a_map(house.agent, house.folder / "first", house.mapped, house.first.pid, house.waldi)


def on_a_map(agent: Agent, way: Path, unit: Unit, issuer: int, guest: Guest) -> None:
    node, paths = unit.multipath, len(unit.paths)
    assert guest.run(way, node, "out(p, fd, REGISTER, 0, 0xA).status") == str(GOOD), "register"
    found = [event for event in newest(agent, node, 4 * paths) if event["status"] == "GOOD"]
    found = [event for event in found if event["command"] == "PR OUT"]
    assert {event["nexus"] for event in found} == {path.hctl for path in unit.paths}, "every path"
    wanted = {(guest.title, guest.uuid or None, guest.pid)}
    assert {named(event) for event in found} == wanted, "by the guest"
    proof = [event for event in found if event["asked"]]
    # That no peer has taken the key away since the first path accepted it.
    assert [event["nexus"] for event in proof] == [found[0]["nexus"]], "the rest is as asked"
    # The second path loses its registration: the guest's REGISTER becomes another command there.
    second = unit.paths[1].block
    subprocess.run(["sg_persist", "-n", "-o", "-G", "-K", "0xa", "-S", "0", second],
                   check=True, capture_output=True)  # fmt: skip
    told = guest.run(way, node, "out(p, fd, REGISTER, 0xA, 0xD).status")
    assert told == str(GOOD), "new key"
    asked = f"{0xA:016x}{0xD:016x}"
    other = [e for e in newest(agent, node, 8) if e["asked"] and e["asked_data"][:32] == asked]
    by = [(event["nexus"], event["action"], event["key"] or "0x0") for event in other]
    first, second = (path.hctl for path in unit.paths)
    keys = [int(key, 16) for _, _, key in by]
    assert [(nexus, action) for nexus, action, _ in by] == [
        (second, "REGISTER"),
        (first, "REGISTER"),
    ], "another command, and the proof"
    assert keys == [0, 0xD], "over nothing, and by the new key"
    for event in other:
        assert named(event) == (guest.title, guest.uuid or None, guest.pid), "by the guest too"
        assert event["asked"][:4] == "5f00", "asked: REGISTER"
    text = cli("events", node, "--last", "8", "-v").stdout
    assert len(re.findall(r"asked +REGISTER a→d", text)) == 2, "shown"
    assert guest.run(way, node, "out(p, fd, CLEAR, 0xD).status") == str(GOOD), "clear"
    assert newest(agent, node)[0]["pid"] == issuer, "issuer"


@IN_TROUBLE
@pytest.mark.slow
def test_restarts(house: House) -> None:
    """An agent that was away, a proxy that was killed: later commands have their names."""
    agent, node, guest = house.agent, house.node, house.waldi
    way, run_dir = house.folder / "third", house.folder / "third-run"
    code = "[read(p, fd, KEYS).status for _ in range(20)]"
    for round_ in range(2):
        with proxy(way, "--run-dir", str(run_dir)) as running:
            guest.run(way, node, code)
            pids = [guest.pid]
            agent.kill()
            guest.run(way, node, code)
            pids.append(guest.pid)
            agent.start()
            for event, pid in zip(newest(agent, node, 40), [pids[0]] * 20 + [pids[1]] * 20,
                                  strict=True):  # fmt: skip
                assert named(event) == (guest.title, guest.uuid or None, pid), f"restart {round_}"
                assert event["pid"] == running.pid, "the proxy"
            running.send_signal(signal.SIGKILL)
            running.wait(30)


@IN_TROUBLE
@pytest.mark.slow
def test_records_that_others_could_have_written(house: House) -> None:
    """No file at all, and one without end."""
    agent, node, guest = house.agent, house.node, house.waldi
    way, run_dir = house.folder / "open", house.folder / "third-run"
    log = run_dir / NAME
    with proxy(way, "--run-dir", str(run_dir)) as running:

        def seen(what: str, wanted: str | None) -> None:
            start = time.monotonic()
            guest.run(way, node, "read(p, fd, KEYS).status")
            (event,) = newest(agent, node)
            assert event["guest"] == wanted, f"{what}: named"
            assert event["pid"] == running.pid, f"{what}: the process"
            assert time.monotonic() - start < 20, f"{what}: in time"

        seen("as it should be", guest.title)
        run_dir.chmod(0o777)
        agent.kill()
        agent.start()
        seen("a directory for all", None)
        run_dir.chmod(0o755)
        log.chmod(0o666)
        seen("a file for all", None)
        log.chmod(0o640)
        seen("as it should be again", guest.title)
        kept = log.rename(run_dir / "kept")
        os.mkfifo(log, 0o600)
        agent.kill()
        agent.start()
        seen("a FIFO", None)
        log.unlink()
        log.symlink_to(kept)
        seen("a symbolic link", None)
        log.unlink()
        with log.open("wb") as file:
            file.write(b"[" * 100_000 + b"\n")
            file.truncate(HUGE)
        before = resident(agent.process.pid)
        seen("a huge file", None)
        assert resident(agent.process.pid) - before < 32 << 20, "memory"
        log.unlink()
        kept.rename(log)
        seen("in its place again", guest.title)
