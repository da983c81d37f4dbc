"""Closes descriptors that strangers sent, where it hurts nobody that close() does not return.

close() calls the file's flush, which for FUSE asks a server, and lingers on some sockets and
terminals (close(2)).  So it happens on threads of its own, of which each user has a few.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prtrace.prhelper.fds import OwnedFd

_IDLE_SECONDS: Final = 10.0
THREADS: Final = 4
"""Of one user."""
PENDING: Final = 64
MOST_PENDING: Final = 1024
STUCK_SECONDS: Final = 1.0
"""With PENDING descriptors of one user waiting, none of which closed for STUCK_SECONDS, or with
MOST_PENDING, the user is not served."""


class Closer:
    """Call it from one thread only, the event loop's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: Counter[int] = Counter()
        self._threads: Counter[int] = Counter()
        self._moved: dict[int, float] = {}
        self._queues: dict[int, queue.SimpleQueue[OwnedFd]] = {}

    def overdrawn(self, uid: int) -> bool:
        """Whether too many of the user's descriptors do not let themselves be closed."""
        pending = self._pending[uid]
        if pending < PENDING:
            return False
        return pending >= MOST_PENDING or time.monotonic() - self._moved[uid] > STUCK_SECONDS

    @property
    def pending(self) -> int:
        """How many descriptors wait."""
        return self._pending.total()

    def close(self, uid: int, fds: Iterable[OwnedFd]) -> None:
        """Close the descriptors some time soon."""
        for fd in fds:
            with self._lock:
                waiting = self._queues.setdefault(uid, queue.SimpleQueue())
                if not self._pending[uid]:
                    self._moved[uid] = time.monotonic()
                self._pending[uid] += 1
                waiting.put(fd)
                if self._threads[uid] >= min(THREADS, self._pending[uid]):
                    continue
                thread = threading.Thread(target=self._run, args=(uid, waiting), daemon=True)
                self._threads[uid] += 1
            try:
                thread.start()
            except RuntimeError:  # no more threads from the system: the next one tries again
                with self._lock:
                    self._threads[uid] -= 1

    def _run(self, uid: int, waiting: queue.SimpleQueue[OwnedFd]) -> None:
        while True:
            try:
                fd = waiting.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if not waiting.empty():
                        continue
                    self._threads[uid] -= 1
                    if not self._threads[uid] and not self._pending[uid]:
                        del self._queues[uid], self._threads[uid], self._pending[uid]
                        self._moved.pop(uid, None)
                    return
            fd.close()
            with self._lock:
                self._pending[uid] -= 1
                self._moved[uid] = time.monotonic()
