"""Clients of the proxy that mean harm, each a program; nothing of prtrace is used.

    python3 tests/hostile/proxy_clients.py KIND SOCKET [--count N] [--seconds S]

idle     N connections that greet and then say nothing
dawdle   N connections, each of which sends a byte a second, and comes again when it is thrown out
stall    N connections that begin a request all at once, are thrown out together, and come again
glut     N connections that send requests and read no reply
throw    descriptors in every number and place, whole requests and broken ones
noise    bytes at random, with and without descriptors
takers   connections as many as can be had, of N processes
"""

from __future__ import annotations

import argparse
import array
import contextlib
import os
import random
import select
import socket
import struct
import sys
import time

PR_IN, PR_OUT = 0x5E, 0x5F
REPLY = struct.Struct(">ii96s")
"""Status, length of the data, sense data; the data follow."""


def read_keys(length: int = 255) -> bytes:
    """The CDB of READ KEYS, as the protocol has it: 16 bytes."""
    return bytes((PR_IN, 0, 0, 0, 0, 0, 0)) + length.to_bytes(2, "big") + bytes(7)


def connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(60)
    sock.connect(path)
    return sock


def send_with(sock: socket.socket, data: bytes, fds: list[int]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([data], rights)


class Crowd:
    """Connections, as many as count again and again."""

    def __init__(self, path: str, count: int) -> None:
        self.path, self.count = path, count
        self.socks: list[socket.socket] = []

    def fill(self) -> list[socket.socket]:
        """Connect as far as the backlog has room; the new ones."""
        new = []
        while len(self.socks) < self.count:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.setblocking(False)
            try:
                sock.connect(self.path)
            except (BlockingIOError, ConnectionRefusedError):
                sock.close()
                break
            self.socks.append(sock)
            new.append(sock)
        return new

    def drop(self, sock: socket.socket) -> None:
        sock.close()
        self.socks.remove(sock)

    def drop_closed(self, milliseconds: int) -> None:
        """Forget those whose other end is gone."""
        poll = select.poll()
        by_number = {sock.fileno(): sock for sock in self.socks}
        for number in by_number:
            poll.register(number, 0)  # the end of the connection alone
        for number, _ in poll.poll(milliseconds):
            self.drop(by_number[number])


def idle(path: str, count: int) -> None:
    crowd = Crowd(path, count)
    while len(crowd.socks) < count:
        for sock in crowd.fill():
            sock.send(bytes(4))
        time.sleep(0.01)
    while True:
        time.sleep(60)


def dawdle(path: str, count: int) -> None:
    r, crowd = random.Random(1), Crowd(path, count)
    while True:
        crowd.fill()
        for sock in r.sample(crowd.socks, len(crowd.socks) // 20):
            try:
                sock.send(bytes((r.choice((0, PR_IN)),)))
            except OSError:
                crowd.drop(sock)
        time.sleep(0.05)


def stall(path: str, count: int) -> None:
    crowd = Crowd(path, count)
    while True:
        for sock in crowd.fill():
            with contextlib.suppress(OSError):
                sock.send(bytes(4) + b"\x5e")
        crowd.drop_closed(10)


def glut(path: str, count: int) -> None:
    crowd = Crowd(path, count)
    fd = os.open("/dev/null", os.O_RDWR)
    while True:
        for sock in crowd.fill():
            with contextlib.suppress(OSError):
                sock.send(bytes(4))
        for sock in list(crowd.socks):
            try:
                send_with(sock, read_keys(), [fd])
            except BlockingIOError:
                continue
            except OSError:
                crowd.drop(sock)
        time.sleep(0.001)


def throw(path: str, count: int) -> None:
    r = random.Random(2)
    ends = os.pipe()
    fds = [os.open("/dev/null", os.O_RDWR), os.open("/", os.O_RDONLY), *ends]
    while True:
        for _ in range(count):
            head, cut = read_keys(), r.randrange(1, 16)
            with connect(path) as sock, contextlib.suppress(OSError):
                sock.send(bytes(4))
                some = [r.choice(fds) for _ in range(r.choice((1, 1, 2, 3, 16, 200)))]
                send_with(sock, head[:cut], some)
                if r.random() < 0.5:
                    sock.send(head[cut:])


def noise(path: str, count: int) -> None:
    r = random.Random(3)
    fd = os.open("/dev/null", os.O_RDWR)
    while True:
        for _ in range(count):
            with connect(path) as sock, contextlib.suppress(OSError):
                for _ in range(r.randrange(1, 6)):
                    send_with(sock, r.randbytes(r.randrange(1, 60)), r.choice(([], [fd])))


def takers(path: str, count: int) -> None:
    """Each child takes places until it is refused, and keeps them."""
    for _ in range(count - 1):
        if not os.fork():
            break
    kept: list[socket.socket] = []
    while True:
        try:
            sock = connect(path)
            sock.send(bytes(4))
            if len(sock.recv(4)) == 4:
                kept.append(sock)
                continue
            sock.close()
        except OSError:
            pass
        time.sleep(0.05)


KINDS = {f.__name__: f for f in (idle, dawdle, stall, glut, throw, noise, takers)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("socket")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=0, help="then end (default: never)")
    asked = parser.parse_args()
    if asked.seconds:
        import signal

        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        signal.setitimer(signal.ITIMER_REAL, asked.seconds)
    KINDS[asked.kind](asked.socket, asked.count)


if __name__ == "__main__":
    sys.exit(main())
