"""The agent names the guest that a command came from: the proxy alone, and a helper behind it.

    ./tools/lab run --luns 2 --nexuses 2 --multipath -- python3 tests/proxy/attribution.py [PART]

PART: names, what events and show say; trouble, agents and proxies that are killed, and records
that others could have written, which takes minutes; both without.
The first unit is used by its map, the second by its first path.  The clients are processes that
look like QEMU: a copy of the interpreter with QEMU's name and command line.  Prints "N passed, N
failed"; exits 1 when something failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "kernel/inside"))
sys.path.insert(0, str(Path(__file__).parent))

import lab_check
from agent import Agent, cli
from beside import resident
from helpers import CHECKOUT, proxy, qemu_helper
from lab_check import DEADLINE, GOOD, check

from prtrace.prhelper.attribution_log import NAME

GUESTS = {"waldi": "5c6f9c4e-0d1f-4c52-8b5b-0c4a5f7d9f11", "bello": ""}
SCRIPT = """
import sys; sys.path[:0] = sys.argv[1:3]
from lab_check import *
path, node, code = sys.argv[3:6]
p, fd = Path(path), os.open(node, os.O_RDWR | os.O_NONBLOCK)
print(eval(code))
"""
HUGE = 8 << 30


class Guest:
    """Processes that look like one QEMU."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.uuid = name, GUESTS[name]
        # Its command line alone says so.
        self.title = f"{name} (claimed)"
        self._program = folder / "qemu-system-x86_64"
        if not self._program.exists():
            shutil.copy(os.path.realpath(sys.executable), self._program)
        self.pid = 0

    def run(self, path: Path, node: str, code: str) -> str:
        """One expression of lab_check's words; p is the socket, fd the device."""
        command = [self._program, "-c", SCRIPT, str(Path(__file__).parent), str(CHECKOUT)]
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


def check_disk(agent: Agent, way: Path, node: str, issuer: int, guest: Guest) -> None:
    """One guest's commands on a disk, as events and show have them."""
    told = guest.run(way, node, "out(p, fd, REGISTER, 0, 0xA).status,"
                     "out(p, fd, RESERVE, 0xA, 0, WERO).status, keys(p, fd),"
                     "out(p, fd, CLEAR, 0xB).status")  # fmt: skip
    check("commands", told, "(0, 0, [10], 24)")
    wanted = guest.title, guest.uuid or None, guest.pid, issuer
    for event in newest(agent, node, 4):
        check(event["action"], (*named(event), event["pid"]), wanted)
        check("what was asked was issued", (event["asked"], event["asked_data"]), ("", ""))
    (unit,) = agent.show(node)
    for fact in (unit["registrations"][0], unit["reservation"]):
        check("show --json", (*named(fact["by"]), fact["by"]["pid"]), wanted)
    text = cli("show", node).stdout
    check("show", text.count(f"guest {guest.title}"), 2)
    text = cli("events", node, "--last", "1", "-v").stdout
    check("events", f"guest {guest.title}" in text and str(guest.pid) in text, True)
    check("clear", guest.run(way, node, "out(p, fd, CLEAR, 0xA).status"), "0")


def check_bystanders(agent: Agent, way: Path, helper: Path, node: str, guest: Guest) -> None:
    """Who does not come through the proxy is not called a guest, between a guest's commands."""
    code = "[read(p, fd, KEYS).status for _ in range(5)]"
    guest.run(way, node, code)
    subprocess.run(["sg_persist", "-n", "-i", "-k", node], check=True, capture_output=True)
    (event,) = newest(agent, node)
    check("sg_persist", (named(event), event["comm"]), ((None, None, None), "sg_persist"))
    fd = os.open(node, os.O_RDWR | os.O_NONBLOCK)
    lab_check.read(helper, fd, lab_check.KEYS)
    os.close(fd)
    (event,) = newest(agent, node)
    check("the helper's", (named(event), event["comm"]), ((None, None, None), "qemu-pr-helper"))
    guest.run(way, node, code)
    check("all of them", {named(event) for event in newest(agent, node, 5)},
          {(guest.title, guest.uuid or None, guest.pid)})  # fmt: skip


def check_map(agent: Agent, way: Path, unit: dict[str, Any], issuer: int, guest: Guest) -> None:
    """A map: the paths' commands are the guest's, and what it had asked for shows."""
    node, paths = unit["multipath"], len(unit["paths"])
    check("register", guest.run(way, node, "out(p, fd, REGISTER, 0, 0xA).status"), str(GOOD))
    found = [event for event in newest(agent, node, 4 * paths) if event["status"] == "GOOD"]
    found = [event for event in found if event["command"] == "PR OUT"]
    check("every path", {event["nexus"] for event in found}, {p["hctl"] for p in unit["paths"]})
    wanted = {(guest.title, guest.uuid or None, guest.pid)}
    check("by the guest", {named(event) for event in found}, wanted)
    check("as asked", {event["asked"] for event in found}, {""})
    # The second path loses its registration: the guest's REGISTER becomes another command there.
    second = unit["paths"][1]["block"]
    subprocess.run(["sg_persist", "-n", "-o", "-G", "-K", "0xa", "-S", "0", second],
                   check=True, capture_output=True)  # fmt: skip
    told = guest.run(way, node, "out(p, fd, REGISTER, 0xA, 0xD).status")
    check("new key", told, str(GOOD))
    other = [event for event in newest(agent, node, 8) if event["asked"]]
    check("another command", [event["action"] for event in other],
          ["REGISTER AND IGNORE EXISTING KEY", "REGISTER"])  # fmt: skip
    for event in other:
        check("by the guest too", named(event), (guest.title, guest.uuid or None, guest.pid))
        check("asked: REGISTER", event["asked"][:4], "5f00")
        check("asked: keys", event["asked_data"][:32], f"{0xA:016x}{0xD:016x}")
    text = cli("events", node, "--last", "8", "-v").stdout
    check("shown", len(re.findall(r"asked +REGISTER a→d", text)), 2)
    check("clear", guest.run(way, node, "out(p, fd, CLEAR, 0xD).status"), str(GOOD))
    check("issuer", newest(agent, node)[0]["pid"], issuer)


def check_restarts(agent: Agent, folder: Path, node: str, guest: Guest) -> None:
    """An agent that was away, a proxy that was killed: later commands have their names."""
    way, run_dir = folder / "third", folder / "third-run"
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
                check(f"restart {round_}", named(event), (guest.title, guest.uuid or None, pid))
                check("the proxy", event["pid"], running.pid)
            running.send_signal(signal.SIGKILL)
            running.wait(30)


def check_hostile(agent: Agent, folder: Path, node: str, guest: Guest) -> None:
    """Records that others could have written, no file at all, one without end."""
    way, run_dir = folder / "open", folder / "third-run"
    log = run_dir / NAME
    with proxy(way, "--run-dir", str(run_dir)) as running:

        def seen(what: str, wanted: str | None) -> None:
            start = time.monotonic()
            guest.run(way, node, "read(p, fd, KEYS).status")
            (event,) = newest(agent, node)
            check(f"{what}: named", event["guest"], wanted)
            check(f"{what}: the process", event["pid"], running.pid)
            check(f"{what}: in time", time.monotonic() - start < 20, True)

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
        check("memory", resident(agent.process.pid) - before < 32 << 20, True)
        log.unlink()
        kept.rename(log)
        seen("in its place again", guest.title)


def main(part: str = "") -> int:
    units = json.loads(Path(os.environ["LAB_TARGET"]).read_text())["units"]
    node = units[1]["paths"][0]["block"]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        run_dirs = [folder / f"{name}-run" for name in ("first", "second", "third")]
        options = []
        for run_dir in run_dirs:
            run_dir.mkdir()
            options += ["--claims", str(run_dir)]
        waldi, bello = Guest(folder, "waldi"), Guest(folder, "bello")
        helper = stack.enter_context(qemu_helper(folder / "helper"))
        first = stack.enter_context(proxy(folder / "first", "--run-dir", str(run_dirs[0])))
        stack.enter_context(
            proxy(folder / "second", "--run-dir", str(run_dirs[1]), "--upstream",
                  str(folder / "helper"))
        )  # fmt: skip
        agent = stack.enter_context(Agent("--read-in-doubt", "no", *options))
        if part != "trouble":
            check_disk(agent, folder / "first", node, first.pid, waldi)
            check_disk(agent, folder / "second", node, helper.pid, bello)
            check_bystanders(agent, folder / "first", folder / "helper", node, waldi)
            check_bystanders(agent, folder / "second", folder / "helper", node, bello)
            if units[0]["multipath"]:
                check_map(agent, folder / "first", units[0], first.pid, waldi)
        if part != "names":
            check_restarts(agent, folder, node, waldi)
            check_hostile(agent, folder, node, waldi)
    print(f"{len(lab_check.passed)} passed, {len(lab_check.failures)} failed")
    return 1 if lab_check.failures else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
