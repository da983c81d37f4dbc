"""How many connections there may be at once, and how many of them one user and one process has."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from functools import partial
from typing import NamedTuple

from prtrace.api.calls import Refusal
from prtrace.api.interface import Fault
from prtrace.linux.closer import Closer
from prtrace.linux.peer import Peer


class ConnectionLimits(NamedTuple):
    """How many connections there may be at once."""

    total: int = 256
    """Of everybody together."""
    others: int = 192
    """Of all uids but 0 together."""
    each: int = 32
    """Of one uid that is not 0."""
    process: int = 8
    """Of one process of such a uid."""
    unsent: int = 16 << 20
    """Bytes that may wait to be sent before others than root are asked to wait."""


class Room:
    """Counts connections by who has them, until they are closed.

    enter() and is_left_for() are for one thread, leave() is for any: close() of what a peer has
    sent can take long.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._of_uid: Counter[int] = Counter()
        self._of_process: Counter[tuple[int, int]] = Counter()
        """By uid and pid: who is in no PID namespace of this process's has pid 0 like others."""

    @property
    def taken(self) -> int:
        """How many connections there are."""
        with self._lock:
            return sum(self._of_uid.values())

    def is_left_for(self, peer: Peer) -> bool:
        """Whether peer may have one more."""
        limits = self._limits
        with self._lock:
            # What was refused to a user, and is not closed, takes nobody else's place.
            others = sum(min(n, limits.each) for uid, n in self._of_uid.items() if uid)
            others = min(others, limits.others)
            total = others + self._of_uid[0]
            if peer.uid == 0:
                return total < limits.total
            return (
                total < limits.total
                and others < limits.others
                and self._of_uid[peer.uid] < limits.each
                and self._of_process[peer.uid, peer.pid] < limits.process
            )

    def enter(self, peer: Peer) -> None:
        """Peer has one more connection, whether there was room for it or not."""
        with self._lock:
            self._of_uid[peer.uid] += 1
            self._of_process[peer.uid, peer.pid] += 1

    def leave(self, peer: Peer) -> None:
        """One connection of peer is closed."""
        with self._lock:
            self._of_uid[peer.uid] -= 1
            self._of_uid += Counter()  # drops uids without connections
            self._of_process[peer.uid, peer.pid] -= 1
            self._of_process += Counter()


def send_away(accepted: socket.socket, peer: Peer, room: Room, closer: Closer) -> None:
    """Say that there are too many connections already, to peer, which has just connected.

    It has a place of its user's until it is closed, whether there was room or not.
    """
    room.enter(peer)
    text = {"message": "too many connections", "hint": "close some, or wait"}
    with contextlib.suppress(OSError):
        accepted.setblocking(False)
        accepted.send(Refusal(Fault.BUSY, text).reply)
    closer.close(accepted, peer.uid, partial(room.leave, peer))
