"""In the machine: an agent, its processor time and its memory."""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from labkit.processes import Program

from prtrace.api.client import Client
from prtrace.probe import pins

_STEP_SECONDS = 0.1
_STEPS = 100
"""Looks at the status before the self-test counts as failed."""


def cpu_ns(pid: int) -> int:
    """What the process's threads have used, those that ended included."""
    # The clock of another process, as clock_getcpuclockid(3) makes it.
    return time.clock_gettime_ns((~pid << 3) | 2)


def memory(pid: int) -> dict[str, int]:
    """VmRSS and VmHWM in bytes."""
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmHWM"):
            found[name] = int(value.split()[0]) * 1024
    return found


def context_switches(pid: int) -> int:
    """How often the process's threads gave up the processor by themselves: wake-ups."""
    return sum(
        int(line.split()[1])
        for status in Path(f"/proc/{pid}/task").glob("*/status")
        for line in status.read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches")
    )


class Agent:
    """A fresh agent in a folder of its own; a context manager that leaves no program behind."""

    def __init__(self, *options: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="bench-", dir="/run"))
        # The agent gives root up: its user has to reach the files in this folder.
        self._folder.chmod(0o711)
        self.socket = str(self._folder / "socket")
        self._ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ready.bind(str(self._folder / "notify"))
        (self._folder / "notify").chmod(0o777)
        self._log = (self._folder / "log").open("wb")
        self._program = Program.start(
            [
                *(sys.executable, "-m", "prtrace", "agent", "--socket", self.socket),
                *("--state-dir", str(self._folder / "state"), *options),
            ],
            env={**os.environ, "NOTIFY_SOCKET": str(self._folder / "notify")},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        self.pid = self._program.process.pid

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self._program.end()
        self._ready.close()
        self._log.close()
        shutil.rmtree(self._folder)
        for epoch in pins.epochs():
            pins.remove(epoch.path)

    def await_ready(self) -> None:
        """Wait until the agent says that it is attached and listens."""
        ended = os.pidfd_open(self.pid)
        # No deadline: a clock driven by instructions jumps while the disk works.
        ready = select.select([self._ready.fileno(), ended], [], [])[0]
        os.close(ended)
        if self._ready.fileno() not in ready:
            raise SystemExit(f"the agent ended\n{(self._folder / 'log').read_text()}")
        self._ready.recv(4096)

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = Client(self.socket).call("Status")["status"]
        return status

    def await_self_test(self) -> None:
        """Wait until the agent has seen a command of its own, and nothing is in doubt."""
        status: dict[str, Any] = {}
        for _ in range(_STEPS):
            status = self.status()
            if status["self_test"]["result"] == "passed" and not status["in_doubt"]:
                return
            time.sleep(_STEP_SECONDS)
        raise SystemExit(f"no self-test: {status}\n{(self._folder / 'log').read_text()}")
