"""How many connections there may be at once, and how many of them one user and one process has."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
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
    """Counts connections by who has them; for one thread at a time."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._of_uid: Counter[int] = Counter()
        self._of_process: Counter[int] = Counter()

    @property
    def taken(self) -> int:
        """How many connections there are."""
        return sum(self._of_uid.values())

    def is_left_for(self, peer: Peer) -> bool:
        """Whether peer may have one more."""
        total = self.taken
        if peer.uid == 0:
            return total < self._limits.total
        others = total - self._of_uid[0]
        return (
            total < self._limits.total
            and others < self._limits.others
            and self._of_uid[peer.uid] < self._limits.each
            and self._of_process[peer.pid] < self._limits.process
        )

    def enter(self, peer: Peer) -> None:
        """Peer has one more connection, whether there was room for it or not."""
        self._of_uid[peer.uid] += 1
        self._of_process[peer.pid] += 1

    def leave(self, peer: Peer) -> None:
        """One connection of peer is gone."""
        self._of_uid[peer.uid] -= 1
        self._of_uid += Counter()  # drops uids without connections
        self._of_process[peer.pid] -= 1
        self._of_process += Counter()


def send_away(accepted: socket.socket, closer: Closer) -> None:
    """Say that there are too many connections already, to whom has just connected."""
    text = {"message": "too many connections", "hint": "close some, or wait"}
    with contextlib.suppress(OSError):
        accepted.setblocking(False)
        accepted.send(Refusal(Fault.BUSY, text).reply)
    closer.close(accepted)
