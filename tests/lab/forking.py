"""The program as a process of its own, forked from one that has imported it.

Starting Python and importing the program takes ten times as long as most commands, and five to ten
seconds on an emulated processor.  Everything else is as in a real start: standard input, output
and error are files, the process leads a session, its exit status is its own, and each has an
environment and a working directory of its own.  What else a process has from its parent (its
control group, limits, capabilities) is of the process that forks.  Some tests start the program
itself.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import IO, Any, Final, NamedTuple

from labkit import pace
from labkit.failure import LabError

from prtrace.cli.main import main

MOST: Final = 1 << 20
"""Bytes of one request: arguments and environment."""

_LEARNT: Final = 1 << 16
"""Bytes of the names of the modules that a run has imported: what a pipe holds."""

_IMPORTS: Final = {
    "agent": (
        *("prtrace.cli.agent", "prtrace.agent.service", "prtrace.api.interface"),
        *("concurrent.futures.thread", "psutil"),
    ),
    "proxy": ("prtrace.cli.proxy",),
}
"""What brings with it all that a daemon imports until it answers: it ends too late to tell."""


class Forked:
    """A process that was forked, with what subprocess.Popen has."""

    def __init__(self, told: int) -> None:
        """told: a pipe from the process that forks it: its pid, and then its exit status."""
        self._told = open(told)  # noqa: SIM115 - until it has ended
        self.returncode: int | None = None
        self.pid = self._number()

    def _number(self) -> int:
        line = self._told.readline()
        if not line:
            raise LabError("the process that forks the program has ended")
        return int(line)

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        if self.returncode is None and select.select([self._told], [], [], 0)[0]:
            self._ended()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """As subprocess.Popen.wait does."""
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self._ended()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """As subprocess.Popen.send_signal does: nothing, once it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def _ended(self) -> None:
        self.returncode = self._number()
        self._told.close()


class Forking:
    """Runs the program; a context manager.

    before: words that start another program, which starts this one with other rights, say.
    """

    def __init__(self, *before: str) -> None:
        self._before = before

    def __enter__(self) -> Forking:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Every argument of a run is in one packet.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MOST)
        self._process = subprocess.Popen(
            [*self._before, sys.executable, "-m", "lab.forking", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
        )
        theirs.close()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.wait(pace.limit(30))

    def run(
        self,
        arguments: Sequence[str],
        stdin: str | None,
        environment: Mapping[str, str],
        timeout: float,
    ) -> subprocess.CompletedProcess[str]:
        """As subprocess.run does, with text.  A run that hangs is ended by SIGALRM."""
        with (
            tempfile.TemporaryFile("w+") as given,
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
        ):
            given.write(stdin or "")
            given.seek(0)
            files = (given, out, err)
            running = self._fork(arguments, environment, files, seconds=int(timeout))
            status = running.wait(timeout + pace.limit(30))
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(arguments, status, out.read(), err.read())

    def start(
        self, arguments: Sequence[str], out: IO[str] | IO[bytes], err: IO[str] | IO[bytes]
    ) -> Forked:
        """Start a daemon: nothing is its standard input, and it has as long as it likes."""
        with open(os.devnull) as nothing:
            return self._fork(arguments, os.environ, (nothing, out, err))

    def _fork(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        files: Sequence[IO[str] | IO[bytes]],
        *,
        seconds: int = 0,
    ) -> Forked:
        """seconds: after which it is ended, 0 for never."""
        request = [list(arguments), dict(environment), os.getcwd(), seconds]
        told, telling = os.pipe()
        try:
            fds = [*(each.fileno() for each in files), telling]
            socket.send_fds(self._socket, [json.dumps(request).encode()], fds)
        finally:
            os.close(telling)
        return Forked(told)


@functools.cache
def forking() -> Forking:
    """This process's own: from the first that it forks on, until this process ends."""
    return Forking().__enter__()


class _Child(NamedTuple):
    """One that was forked.  telling: where its exit status is told.

    learnt: a pipe with the names of the modules that it has imported, once it has ended by itself.
    """

    pid: int
    telling: int
    learnt: int

    def ended(self) -> list[str]:
        """Tell its exit status; what it has imported."""
        _, status = os.waitpid(self.pid, 0)
        with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
            os.write(self.telling, f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os.close(self.telling)
        try:
            # Written at once, and a process that it left behind may still have the other end.
            names = os.read(self.learnt, _LEARNT).decode()
        except BlockingIOError:
            return []
        finally:
            os.close(self.learnt)
        return names.split()


def serve(requests: socket.socket) -> None:
    """Fork what is asked for until the other side closes, and tell how each has ended.

    A command imports its modules when it is wanted.  What one run imported, this process imports
    before the next: a command that is run once costs what a start costs.
    """
    children: dict[int, _Child] = {}
    known: list[str] = []
    while True:
        ready, _, _ = select.select([requests, *children], [], [])
        for pidfd in children.keys() & set(ready):
            known += children.pop(pidfd).ended()
            os.close(pidfd)
        if requests in ready:
            raw, files, _, _ = socket.recv_fds(requests, MOST, 4)
            if not raw:
                return
            request = json.loads(raw)
            _import([*known, *_IMPORTS.get(" ".join(request[0][:1]), ())])
            known.clear()
            child = _forked(request, files)
            children[os.pidfd_open(child.pid)] = child


def _import(names: Sequence[str]) -> None:
    for name in names:
        with contextlib.suppress(ImportError):
            import_module(name)


def _forked(request: list[Any], files: list[int]) -> _Child:
    *standard, telling = files
    learnt, names = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    pid = os.fork()
    if pid == 0:
        _become_the_program(request, standard, names)
    for fd in (*standard, names):
        os.close(fd)
    os.write(telling, f"{pid}\n".encode())
    return _Child(pid, telling, learnt)


def _become_the_program(request: list[Any], standard: list[int], names: int) -> None:
    arguments, environment, folder, seconds = request
    status = 99
    try:
        os.setsid()
        for place, fd in enumerate((*standard, names)):
            os.dup2(fd, place)
        os.closerange(len(standard) + 1, os.sysconf("SC_OPEN_MAX"))
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        signal.alarm(seconds)
        sys.argv[:] = ["prtrace", *arguments]
        status = main(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(len(standard), "\n".join([*sys.modules]).encode()[:_LEARNT])
    finally:
        os._exit(status)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
