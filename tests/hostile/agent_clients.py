"""Bad clients of the agent's socket, several connections each.  Nothing of prtrace is used.

    python3 tests/hostile/agent_clients.py KIND SOCKET [--connections N] [--seconds S]

Kinds: "history" asks for all of the history again and again, and reads no answer; "followers"
follow and do not read; "garbage" sends what is no call, or too much of one; "names" asks for names
that lead elsewhere; "floods" connects and leaves; "half" leaves calls unfinished.  Prints as JSON
how many connections it made, how many were closed on it, and how many bytes it sent and got.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import select
import socket
import time
from collections.abc import Callable, Iterator

PREFIX = "io.prtrace."
NINES = b"9" * 5000


def call(method: str, *, more: bool = False, **parameters: object) -> bytes:
    document = {"method": PREFIX + method, "parameters": parameters, "more": more}
    return json.dumps(document).encode() + b"\0"


def history() -> Iterator[bytes]:
    yield from itertools.cycle(
        (
            call("Events", more=True, changes=True),
            call("Events", more=True, last=1 << 62),
            call("Events", more=True, since_time="9999-12-31T23:59:59Z"),
            call("Events", more=True, since_time="0001-01-01T00:00:00Z", limit=1 << 62),
            call("Events", more=True, last=500, changes=True),
            call("Show") + call("Status"),
        )
    )


def followers() -> Iterator[bytes]:
    yield call("Events", more=True, follow=True)
    yield from itertools.repeat(b"")


def garbage() -> Iterator[bytes]:
    deep = b"[" * 60_000
    yield from itertools.cycle(
        (
            deep + b"\0",
            b'{"method":"io.prtrace.Show","parameters":{"devices":' + b"[" * 20_000 + b"\0",
            b'{"method":"io.prtrace.Events","parameters":{"last":1e400},"more":true}\0',
            b'{"method":"io.prtrace.Events","parameters":{"last":' + NINES + b'},"more":true}\0',
            b'{"method":"io.prtrace.Show","parameters":{"devices":["\\ud800"]}}\0',
            call("Show", devices=["\0", "a" * 60_000]),
            call("Save", devices=["/dev/sda"]) + call("Finish", file={}),
            b'{"method":"io.prtrace.__init__"}\0',
            b"\xff\xfe\0" * 1000,
            b"\0" * 5000,
            b"x" * 70_000 + b"\0",
        )
    )  # fmt: skip


def names() -> Iterator[bytes]:
    odd = ("/dev/../etc/shadow", "/run/hung/x", "/dev/shm/link", "/proc/1/mem", "/dev/fd/0",
           "naa." + "0" * 9000, "/dev/" + "a/../" * 2000, "1:2:3:4", "../../x")  # fmt: skip
    for name in itertools.cycle(odd):
        yield call("Resolve", name=name) + call("Show", devices=[name])
        yield call("Check", devices=[name])


def floods() -> Iterator[bytes]:
    while True:
        yield b""
        yield call("Status")
        raise LeaveError


def half() -> Iterator[bytes]:
    yield b'{"method":"io.prtrace.Sta'
    yield from itertools.repeat(b"")


class LeaveError(Exception):
    """The client closes its connection by itself."""


KINDS: dict[str, Callable[[], Iterator[bytes]]] = {
    each.__name__: each for each in (history, followers, garbage, names, floods, half)
}
READS = {"garbage", "names"}
"""Who takes its answers, so that it can go on asking."""


class Client:
    def __init__(self, kind: str, path: str, told: dict[str, int]) -> None:
        self._kind, self._path, self._told = kind, path, told
        self._connect()

    def _connect(self) -> None:
        self._says = KINDS[self._kind]()
        self._rest = b""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.setblocking(False)
        # A full backlog, or an agent that is being started: the next act shows it.
        with contextlib.suppress(OSError):
            self.sock.connect(self._path)
        self._told["connections"] += 1

    def again(self) -> None:
        self.sock.close()
        self._connect()

    def act(self) -> None:
        """Do one thing; OSError where the connection has ended."""
        if self._kind in READS:
            with contextlib.suppress(BlockingIOError):
                got = self.sock.recv(1 << 16)
                if not got:
                    raise ConnectionResetError
                self._told["got"] += len(got)
        self._rest = self._rest or next(self._says)
        if self._rest:
            with contextlib.suppress(BlockingIOError):
                sent = self.sock.send(self._rest)
                self._rest = self._rest[sent:]
                self._told["sent"] += sent


def run(kind: str, path: str, connections: int, seconds: float) -> dict[str, int]:
    told = dict.fromkeys(("connections", "closed", "sent", "got"), 0)
    clients = [Client(kind, path, told) for _ in range(connections)]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for client in clients:
            try:
                client.act()
            except LeaveError:
                client.again()
            except OSError:
                told["closed"] += 1
                client.again()
        # Not busier than a client can be that waits for the socket: the machine has one processor.
        select.select([], [], [], 0.01)
    return told


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("socket")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60)
    given = parser.parse_args()
    print(json.dumps(run(given.kind, given.socket, given.connections, given.seconds)))


if __name__ == "__main__":
    main()
