"""A real agent in the lab's machine: started, killed, asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.forking import forking
from labkit import pace
from labkit.processes import Process, Program
from labkit.waiting import await_that

from prtrace.api.client import Client
from prtrace.errors import AgentUnreachableError

STATE_DIR = Path("/run/prtrace-test")
"""On the machine's own file system: SQLite's log needs shared memory, which 9p has not."""


class Agent:
    """One agent and its socket; a context manager that kills what it started."""

    program: tuple[str, ...] = ()
    """What a Python of its own is given to run; nothing: the agent is a fork (lab.forking)."""

    def __init__(
        self,
        *options: str,
        state_dir: Path = STATE_DIR,
        socket: Path | None = None,
        log: Path | None = None,
        patience: float = 60.0,
    ) -> None:
        """log: where it says something; in state_dir where none is given.  patience: seconds that
        a start may take, on an idle machine.
        """
        self.state_dir = state_dir
        self.socket = socket or state_dir / "io.prtrace"
        self.options = options
        self.patience = patience
        self._log = log or state_dir / "agent.log"
        self._program: Program | None = None

    def __enter__(self) -> Agent:
        try:
            self.start()
        except BaseException:
            # Nobody else would end it, and the machine's next test could start none.
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def process(self) -> Process | None:
        """The agent's own process, which the others serve; None after kill()."""
        return None if self._program is None else self._program.process

    @property
    def log(self) -> str:
        """What all agents here have said so far."""
        return self._log.read_text(errors="replace")

    def start(self, *, wait: bool = True, timeout: float | None = None) -> None:
        """Start an agent; with wait, return when it answers."""
        if self._program is not None:
            # It ended by itself, and the processes that served it may do so later.
            self._program.await_over()
        self.state_dir.mkdir(parents=True, exist_ok=True)
        words = ["--state-dir", str(self.state_dir), "--socket", str(self.socket), *self.options]
        with self._log.open("ab") as log:
            if self.program:
                self._program = Program.start(
                    [sys.executable, *self.program, "agent", *words],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            else:
                self._program = Program(forking().start(["agent", *words], log, log))
        if wait:
            self.wait_ready(self.patience if timeout is None else timeout)

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Until the agent answers a call."""
        await_that("the agent answers", self._answers, timeout, told=lambda: self.log)

    def _answers(self) -> bool:
        try:
            self.call("Show", devices=[])
        except AgentUnreachableError:
            assert self.process is None or self.process.poll() is None, self.log
            return False
        return True

    def await_said(self, text: str, times: int = 1) -> None:
        """Until the agents here have said something, so often at least, in their log.

        What an agent says of something is written after it has happened, so who sees it happen
        has yet to wait for the line.
        """
        await_that(
            f"the agent says {text!r}",
            lambda: self.log.count(text) >= times,
            told=lambda: self.log,
        )

    def send(self, number: int) -> None:
        """Send the agent a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self, number: int = signal.SIGKILL) -> int:
        """End the agent with a signal, and wait until all of its processes are over.

        Returns the exit status of the agent's own one.
        """
        if self._program is None:
            return 0
        status = self._program.end(number)
        self._program = None
        return status

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One call of io.prtrace."""
        return self.client().call(method, **parameters)

    def client(self) -> Client:
        """A client that waits as long as this machine needs it to."""
        return Client(str(self.socket), timeout=pace.limit(30))

    def show(self, *devices: str) -> list[dict[str, Any]]:
        """The units, by prtrace.show/1."""
        units: list[dict[str, Any]] = self.call("Show", devices=list(devices))["units"]
        return units

    def events(self, **query: Any) -> Iterator[dict[str, Any]]:
        """Stored events, by prtrace.event/1."""
        query.setdefault("devices", [])
        for reply in self.client().stream("Events", **query):
            yield from reply.get("events", ())

    def status(self) -> dict[str, Any]:
        """The prtrace.status/1 object."""
        return self.call("Status")

    def caught_up(self, timeout: float = 60.0) -> None:
        """Until the agent has taken all that had happened; fails after timeout seconds."""
        end = time.monotonic() + pace.limit(timeout)
        while any(
            "not current" in doubt["reason"] for unit in self.show() for doubt in unit["doubt"]
        ):
            assert time.monotonic() < end, f"still behind after {timeout} s"

    def settled(self, timeout: float = 60.0) -> list[dict[str, Any]]:
        """The units, once nothing is in doubt any more; fails after timeout seconds."""
        end = time.monotonic() + pace.limit(timeout)
        while True:
            units = self.show()
            doubts = [(unit["lu"], unit["doubt"]) for unit in units if unit["doubt"]]
            if not doubts:
                return units
            assert time.monotonic() < end, f"still in doubt after {timeout} s: {doubts}"
            time.sleep(0.05)


def cli(
    *arguments: str, socket: Path = STATE_DIR / "io.prtrace"
) -> subprocess.CompletedProcess[str]:
    """Run the prtrace command as a user would, but for the start of an interpreter."""
    return forking().run(
        arguments, None, {**os.environ, "PRTRACE_SOCKET": str(socket)}, pace.limit(120)
    )
