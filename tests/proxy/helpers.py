"""Starting the proxy and QEMU's helper for a test, and ending them."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
QEMU_HELPER = "/usr/bin/qemu-pr-helper"
START_SECONDS = 180


@contextlib.contextmanager
def proxy(
    socket_path: Path, *options: str, log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """`prtrace proxy` at socket_path; what it says goes to log, where one is named.

    A test's process comes more often than a guest.
    """
    command = [sys.executable, "-m", "prtrace", "proxy", "--arrivals-of-process", "65536"]
    command += ["--listen", str(socket_path), *options]
    with process(command, socket_path, log) as running:
        yield running


@contextlib.contextmanager
def qemu_helper(socket_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """qemu-pr-helper at socket_path."""
    with process([QEMU_HELPER, "-q", "-k", str(socket_path)], socket_path) as running:
        yield running


@contextlib.contextmanager
def process(
    command: list[str], socket_path: Path, log: Path | None = None, checkout: Path = CHECKOUT
) -> Iterator[subprocess.Popen[bytes]]:
    """Run command until the with statement ends; it listens at socket_path when that begins."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    with contextlib.ExitStack() as stack:
        told = None if log is None else stack.enter_context(log.open("ab"))
        running = subprocess.Popen(command, env=environment, stderr=told)
    try:
        _await_listener(running, socket_path)
        yield running
    finally:
        running.terminate()
        try:
            running.wait(30)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def _await_listener(process: subprocess.Popen[bytes], path: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args} ended with {process.returncode}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except OSError:
                select.select([], [], [], 0.02)
                continue
            return
    raise TimeoutError(f"nobody listens at {path}")
