"""The program as a process of its own, forked from one that has imported it.

Starting Python and importing the program takes ten times as long as most commands, and five
seconds on an emulated processor.  Everything else is as in a real start: standard input, output
and error are files, the exit status is the process's, and each run has an environment of its own.
Some tests start the program itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module

from labkit import pace

from prtrace.cli.main import main

MOST = 1 << 20
"""Bytes of one request: arguments and environment."""


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
        """As subprocess.run does, with text."""
        with (
            tempfile.TemporaryFile("w+") as given,
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
        ):
            given.write(stdin or "")
            given.seek(0)
            request = json.dumps([list(arguments), dict(environment), timeout]).encode()
            files = [each.fileno() for each in (given, out, err)]
            socket.send_fds(self._socket, [request], files)
            status = int(self._socket.recv(64))
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(arguments, status, out.read(), err.read())


def serve(requests: socket.socket) -> None:
    """Run what is asked for, one after the other, until the other side closes.

    A command imports its modules when it is wanted.  What one run imported, this process imports
    before the next: a command that is run once costs what a start costs.
    """
    imported: list[str] = []
    while True:
        raw, files, _, _ = socket.recv_fds(requests, MOST, 3)
        if not raw:
            return
        for name in imported:
            with contextlib.suppress(ImportError):
                import_module(name)
        arguments, environment, timeout = json.loads(raw)
        names, told = os.pipe()
        child = os.fork()
        if child == 0:
            requests.close()
            os.close(names)
            _become_the_program(arguments, environment, files, int(timeout), told)
        for fd in (*files, told):
            os.close(fd)
        with open(names) as listed:
            imported = listed.read().split()
        _, status = os.waitpid(child, 0)
        requests.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become_the_program(
    arguments: list[str], environment: dict[str, str], files: list[int], timeout: int, told: int
) -> None:
    status = 99
    try:
        for place, fd in enumerate(files):
            os.dup2(fd, place)
            os.close(fd)
        os.environ.clear()
        os.environ.update(environment)
        # A run that hangs is ended by SIGALRM, which is its status then.
        signal.alarm(timeout)
        sys.argv[:] = ["prtrace", *arguments]
        status = main(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(told, "\n".join([*sys.modules]).encode())
    finally:
        os._exit(status)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
