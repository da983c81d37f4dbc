"""Round trip of READ KEYS through qemu-pr-helper and through the proxy, on one logical unit.

    ./tools/lab run --icount --luns 1 --nexuses 1 -- python3 tests/proxy/bench.py [--rounds N]

The ways take turns (A B C C B A), so that what the machine does meanwhile hits all of them.
Between two requests there is a pause in which a server does what it left for later.
Prints a median for each and its ratio to the helper's own: with --icount in instructions, which
repeat; else in time.  Without $LAB_TARGET the command goes to /dev/null, which answers at once.
"""

from __future__ import annotations

import argparse
import array
import contextlib
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from helpers import proxy, qemu_helper
from streams import PR_IN, REPLY, cdb

AIMS = {"proxy": 1.6, "proxy, helper behind": 2.2}
"""The most that a round trip may take, in the helper's own."""
PAUSE_SECONDS = 0.002
WARM = 20
"""Rounds that are not counted."""


def connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(60)
    sock.connect(str(path))
    _receive(sock, 4)
    sock.sendall(bytes(4))
    return sock


def _receive(sock: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        part = sock.recv(size - len(got))
        if not part:
            raise ConnectionResetError
        got += part
    return got


def round_trip(sock: socket.socket, rights: list[tuple[int, int, array.array[int]]]) -> float:
    request = cdb(PR_IN, 0, 255)
    start = time.perf_counter()
    sock.sendmsg([request], rights)
    _, size, _ = REPLY.unpack(_receive(sock, REPLY.size))
    _receive(sock, size)
    return time.perf_counter() - start


def measure(node: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of each round trip, by way."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        fd = os.open(node, os.O_RDWR)
        stack.callback(os.close, fd)
        stack.enter_context(qemu_helper(folder / "helper"))
        stack.enter_context(proxy(folder / "proxy", "--run-dir", str(folder), itself=True))
        (folder / "second").mkdir()
        behind = ["--run-dir", str(folder / "second"), "--upstream", str(folder / "helper")]
        stack.enter_context(proxy(folder / "both", *behind, itself=True))
        ways = {
            name: stack.enter_context(connect(folder / path))
            for name, path in {"helper": "helper", "proxy": "proxy",
                               "proxy, helper behind": "both"}.items()
        }  # fmt: skip
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        times: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds + WARM):
            order = list(ways) if number % 2 else list(reversed(ways))
            for name in order:
                time.sleep(PAUSE_SECONDS)
                taken = round_trip(ways[name], rights)
                if number >= WARM:
                    times[name].append(taken)
    return times


def ratios(times: dict[str, list[float]]) -> dict[str, float]:
    """Medians, in the helper's."""
    base = statistics.median(times["helper"])
    return {name: statistics.median(taken) / base for name, taken in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=500)
    asked = parser.parse_args()
    node = "/dev/null"
    if "LAB_TARGET" in os.environ:
        target = json.loads(Path(os.environ["LAB_TARGET"]).read_text())
        node = target["units"][0]["paths"][0]["block"]
    times = measure(node, asked.rounds)
    for name, ratio in ratios(times).items():
        tail = statistics.quantiles(times[name], n=100)[-1]
        aim = f", at most {AIMS[name]}" if name in AIMS else ""
        print(f"{name}: median {statistics.median(times[name]) * 1e6:.0f} us, "
              f"99 % {tail * 1e6:.0f} us, ratio {ratio:.2f}{aim}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
