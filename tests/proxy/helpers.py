"""Starting the proxy and QEMU's helper for a test, and ending them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from lab.forking import forking
from labkit.processes import Process

CHECKOUT = Path(__file__).parents[2]
QEMU_HELPER = "/usr/bin/qemu-pr-helper"
START_SECONDS = 180


@contextlib.contextmanager
def proxy(
    socket_path: Path, *options: str, log: Path | None = None, itself: bool = False
) -> Iterator[Process]:
    """`prtrace proxy` at socket_path; what it says goes to log, where one is named.

    A test's process comes more often than a guest.  itself: a Python of its own, for whoever
    measures it; otherwise it is a fork (lab.forking).
    """
    words = ["proxy", "--arrivals-of-process", "65536", "--listen", str(socket_path), *options]
    with contextlib.ExitStack() as stack:
        told = sys.__stderr__ if log is None else stack.enter_context(log.open("ab"))
        assert told is not None
        if itself:
            command = [sys.executable, "-m", "prtrace", *words]
            running: Process = subprocess.Popen(command, env=_environment(), stderr=told)
        else:
            running = forking().start(words, told, told)
    with listening(running, socket_path):
        yield running


@contextlib.contextmanager
def qemu_helper(socket_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """qemu-pr-helper at socket_path."""
    with process([QEMU_HELPER, "-q", "-k", str(socket_path)], socket_path) as running:
        yield running


@contextlib.contextmanager
def process(
    command: list[str], socket_path: Path, checkout: Path = CHECKOUT
) -> Iterator[subprocess.Popen[bytes]]:
    """Run command until the with statement ends; it listens at socket_path when that begins."""
    running = subprocess.Popen(command, env=_environment(checkout))
    with listening(running, socket_path):
        yield running


def _environment(checkout: Path = CHECKOUT) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(checkout)}


@contextlib.contextmanager
def listening(running: Process, socket_path: Path) -> Iterator[None]:
    """End what was started with the with statement, which begins when it listens."""
    try:
        _await_listener(running, socket_path)
        yield
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(30)
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGKILL)
            running.wait()


def _await_listener(running: Process, path: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if (status := running.poll()) is not None:
            raise RuntimeError(f"what was to listen at {path} ended with {status}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except OSError:
                select.select([], [], [], 0.02)
                continue
            return
    raise TimeoutError(f"nobody listens at {path}")
