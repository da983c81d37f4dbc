"""Who is at the other end of a connection: SO_PEERCRED, then /proc.

The credentials are those of connect().  A process that hands its connection to another keeps
answering for it; that is the kernel's rule for sockets, not ours.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from prtrace.errors import UnavailableError
from prtrace.linux.peer import Peer
from prtrace.linux.process import identify, start_of
from prtrace.prhelper.guard import User


@dataclass(frozen=True, slots=True)
class Guest:
    """The client process, and the guest it runs where it is QEMU.

    pid 0: a process of another PID namespace, which has no number here.  start_ns: CLOCK_BOOTTIME,
    to a clock tick, 0 where unknown.  name, uuid: QEMU's, "" where it has none.
    """

    pid: int
    uid: int
    start_ns: int = 0
    comm: str = ""
    name: str = ""
    uuid: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """What a rule of the policy may call it."""
        return tuple(word for word in (self.name, self.uuid) if word)

    @property
    def title(self) -> str:
        """For people."""
        process = f"{self.comm or 'process'} {self.pid}" if self.pid else "a process elsewhere"
        return f"{self.name or self.uuid} ({process})" if self.names else process

    @property
    def user(self) -> User:
        """As the same-host guard tells guests apart."""
        identity = self.uuid or self.name or f"{self.pid}@{self.start_ns}"
        return User(identity, self.title, self.pid, self.start_ns)


def peer(sock: socket.socket) -> tuple[int, int]:
    """The pid (0 if it has none here) and uid of the process that connected."""
    who = Peer.of(sock)
    return who.pid, who.uid


def start_of_client(pid: int) -> int:
    """When the client's process started; 0 where /proc does not show it."""
    try:
        return (start_of(pid) or 0) if pid else 0
    except UnavailableError:
        return 0


def guest_of_process(pid: int, uid: int, start_ns: int) -> Guest:
    """Look the process up that started then; what /proc does not show is left empty."""
    try:
        known = identify(pid, start_ns) if start_ns else None
    except UnavailableError:
        known = None
    if known is None:
        return Guest(pid, uid, start_ns)
    found = known.guest
    return Guest(
        pid,
        uid,
        known.start_ns,
        known.comm,
        "" if found is None else found.name,
        "" if found is None else found.uuid,
    )


def is_alive(user: User) -> bool:
    """Whether the process still exists; True where nobody can tell."""
    if not user.pid or not user.start_ns:
        return True
    try:
        return start_of(user.pid) == user.start_ns
    except UnavailableError:
        return True


def own_start() -> int:
    """When this process started, as the kernel's records have it; 0 where unknown."""
    return start_of(os.getpid()) or 0
