"""One command at a time on one I_T nexus, whichever of its nodes the command came by.

A disk, its sg node and every multipath map over it have keys in common (see
prtrace.prhelper.descriptor), so their commands exclude each other.  The guard looks and the
command runs under one hold of the lock; an attribution record for a command that a helper sends
covers no other command on that nexus; and a map's registrations are made on one path after the
other without another command in between.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class NexusLocks:
    """A lock for each key that somebody holds or waits for; none is kept for the others."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._users: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._locks)

    def acquire(self, keys: Sequence[str]) -> bool:
        """Take the locks of all keys; True where another command held one of them.

        keys are sorted: two commands that share several keys take them in the same order, so
        that neither waits for the other for ever.
        """
        with self._mutex:
            wanted = [self._wanted(key) for key in keys]
        waited = False
        for lock in wanted:
            if not lock.acquire(blocking=False):
                waited = True
                lock.acquire()
        return waited

    def release(self, keys: Sequence[str]) -> None:
        """Give back what acquire(keys) took."""
        with self._mutex:
            for key in keys:
                self._locks[key].release()
                self._users[key] -= 1
                if not self._users[key]:
                    del self._locks[key], self._users[key]

    def _wanted(self, key: str) -> threading.Lock:
        """The key's lock, with one more user; called with the mutex held."""
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = threading.Lock()
            self._users[key] = 0
        self._users[key] += 1
        return lock
