"""What a crowd of bad clients costs a good one: its 99th percentile beside them, against alone.

    python3 tests/proxy/beside.py [--clients N] [--checkout PATH]…

Needs root (real-time priorities).  The proxy has one processor; all clients have another, where
the measured one goes first; all of them go before whatever else the machine runs.  Each figure is
a median over rounds in which the crowds, and the checkouts that are compared, take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "hostile"))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from helpers import CHECKOUT, process
from proxy_clients import REPLY, read_keys, send_with

ROUNDS = 3
REQUESTS = 1500
CROWDS = {"idle": 0.0, "dawdle": 10.0, "stall": 4.5}
"""What they do, and after how many seconds it has begun."""
DEADLINE = 60.0


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident(pid: int) -> int:
    """Bytes of the process's own memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def good_client(path: Path, rounds: int) -> list[float]:
    """Round trips of one well-behaved client; /dev/null answers at once."""
    times = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(DEADLINE)
        sock.connect(str(path))
        sock.recv(4, socket.MSG_WAITALL)
        sock.sendall(bytes(4))
        fd = os.open("/dev/null", os.O_RDWR)
        for _ in range(rounds):
            start = time.perf_counter()
            send_with(sock, read_keys(), [fd])
            sock.recv(REPLY.size, socket.MSG_WAITALL)
            times.append(time.perf_counter() - start)
            time.sleep(0.0005)
        os.close(fd)
    return times


def tail(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[-1]


@contextlib.contextmanager
def crowd(kind: str, path: Path, pid: int, count: int) -> Iterator[None]:
    """Bad clients in a process of their own, which yields the processor to the measured one."""
    program = Path(__file__).parents[1] / "hostile/proxy_clients.py"
    command = ["chrt", "-r", "1", sys.executable, str(program), kind, str(path),
               "--count", str(count)]  # fmt: skip
    with subprocess.Popen(command) as running:
        try:
            end = time.monotonic() + DEADLINE
            while descriptors(pid) <= count:
                if time.monotonic() > end:
                    raise TimeoutError(f"{descriptors(pid)} descriptors, {count} clients wanted")
                time.sleep(0.05)
            yield
        finally:
            running.kill()


@contextlib.contextmanager
def on_cpu(number: int) -> Iterator[None]:
    """This process, and what it starts meanwhile, runs there, ahead of everything else."""
    cpus, policy = os.sched_getaffinity(0), os.sched_getscheduler(0)
    parameter = os.sched_getparam(0)
    os.sched_setaffinity(0, {number})
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(2))
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameter)
        os.sched_setaffinity(0, cpus)


def measure(checkouts: list[Path], count: int, rounds: int) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    places = {"--connections-of-user", "--connections-of-unit", "--connections-of-process"}
    tails: dict[tuple[Path, str], list[float]] = {}
    memory: dict[tuple[Path, str], int] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        running = {}
        for number, checkout in enumerate(checkouts):
            path = folder / str(number)
            help_text = subprocess.run(
                [sys.executable, "-m", "prtrace", "proxy", "--help"], capture_output=True,
                text=True, env={**os.environ, "PYTHONPATH": str(checkout)}, check=True,
            ).stdout  # fmt: skip
            options = [word for each in sorted(places) if each in help_text
                       for word in (each, str(count + 50))]  # fmt: skip
            command = [sys.executable, "-m", "prtrace", "proxy", "--listen", str(path), *options]
            with on_cpu(cpus[-1]):
                running[checkout] = (
                    path,
                    stack.enter_context(process(command, path, checkout=checkout)),
                )
        stack.enter_context(on_cpu(cpus[0]))
        for _ in range(rounds):
            for checkout, (path, proxy) in running.items():
                before = descriptors(proxy.pid)
                alone = tail(good_client(path, REQUESTS))
                tails.setdefault((checkout, "alone"), []).append(alone)
                memory.setdefault((checkout, "alone"), resident(proxy.pid))
                for kind, seconds in CROWDS.items():
                    with crowd(kind, path, proxy.pid, count):
                        time.sleep(seconds)
                        tails.setdefault((checkout, kind), []).append(
                            tail(good_client(path, REQUESTS))
                        )
                        memory[checkout, kind] = resident(proxy.pid)
                    end = time.monotonic() + DEADLINE
                    while descriptors(proxy.pid) > before:
                        if time.monotonic() > end:
                            raise TimeoutError("it keeps connections whose clients have gone")
                        time.sleep(0.05)
    for checkout in checkouts:
        alone = statistics.median(tails[checkout, "alone"])
        print(f"{checkout}: alone {alone * 1e6:.0f} us, {memory[checkout, 'alone'] >> 10} KiB")
        for kind in CROWDS:
            ratio = statistics.median(tails[checkout, kind]) / alone
            print(f"  beside {count} that {kind}: {ratio:.2f} of that, "
                  f"{memory[checkout, kind] >> 10} KiB")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--checkout", type=Path, action="append")
    asked = parser.parse_args()
    measure(asked.checkout or [CHECKOUT], asked.clients, asked.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
