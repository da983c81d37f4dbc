"""The end of processes: of a program with all that it has started, and of a fork of a test.

A program that is killed cannot end the processes that it forked: they see that it is gone, and end
by themselves a moment later.  Until then they hold its files, write its log and remove its
sockets; whoever clears its folder or starts the next program meanwhile meets them.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from labkit import pace
from labkit.failure import LabError


def fork(work: Callable[[], object]) -> int:
    """Run work in a child process; its pid.

    The child ends with work, whatever comes of that, and never goes on as a second run of the
    tests.  Its exit status is the number that work returns, 0 for anything else, and 99 where work
    raises, with a traceback on standard error.
    """
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        told = work()
        status = told if isinstance(told, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


class Process(Protocol):
    """What is needed of a program's first process: a subprocess.Popen, say."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int, /) -> None: ...


class Program:
    """One program that runs; its processes are those of the session that the first one leads."""

    def __init__(self, process: Process) -> None:
        self.process = process

    @classmethod
    def start(cls, command: Sequence[str], **words: Any) -> Program:
        """words: more of what subprocess.Popen takes.  OSError as there."""
        return cls(subprocess.Popen(command, start_new_session=True, **words))

    def end(self, number: int = signal.SIGKILL, *, seconds: float = 60) -> int:
        """Send the first process a signal, and wait until all of them are over.

        Returns the first one's exit status, which may have been there before.  seconds: of an idle
        machine, for each of them.  LabError where one is still there then.
        """
        self.process.send_signal(number)
        try:
            status = self.process.wait(pace.limit(seconds))
        except subprocess.TimeoutExpired as error:
            raise LabError(f"a program goes on in spite of signal {number}: {error}") from error
        self.await_over(seconds=seconds)
        return status

    def await_over(self, *, seconds: float = 60) -> None:
        """Wait until all processes are over; LabError where one is still there in the end."""
        deadline = time.monotonic() + pace.limit(seconds)
        while left := self._left():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    _await_end(pid, deadline)

    def _left(self) -> list[int]:
        found = []
        for each in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has ended by now
                state, _, _, session = each.read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.process.pid and state not in _OVER:
                    found.append(int(each.parent.name))
        return found


_OVER = "ZX"
"""States of a process that has ended, and that nobody has asked for its status yet."""


def _await_end(pid: int, deadline: float) -> None:
    """Until a process has ended; ProcessLookupError where it has been reaped, too."""
    ended = os.pidfd_open(pid)
    try:
        if not select.select([ended], [], [], max(0.0, deadline - time.monotonic()))[0]:
            told = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            raise LabError(f"process {pid} outlives the program that it belongs to: {told}")
    finally:
        os.close(ended)
