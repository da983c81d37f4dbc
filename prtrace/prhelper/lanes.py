"""A thread of its own for every device that has work, so that a dead one stalls no other.

One thread a device: its commands keep their order, and a claim covers no more than one of them
at a time.  A thread that finds nothing to do for IDLE_SECONDS ends.
"""

from __future__ import annotations

import queue
import signal
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

IDLE_SECONDS: Final = 10.0
STACK_BYTES: Final = 512 << 10


class Lanes:
    """At most limit threads at a time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._lanes: dict[Hashable, queue.SimpleQueue[Callable[[], None]]] = {}

    def __len__(self) -> int:
        return len(self._lanes)

    def submit(self, key: Hashable, job: Callable[[], None]) -> bool:
        """Run job on key's thread, after what is queued there; False where none can be had."""
        with self._lock:
            lane = self._lanes.get(key)
            if lane is None:
                if len(self._lanes) >= self._limit:
                    return False
                lane = queue.SimpleQueue()
                try:
                    self._start(key, lane)
                except RuntimeError:  # no more threads from the system
                    return False
                self._lanes[key] = lane
            lane.put(job)
            return True

    def _start(self, key: Hashable, lane: queue.SimpleQueue[Callable[[], None]]) -> None:
        threading.Thread(target=self._run, args=(key, lane), daemon=True).start()

    def _run(self, key: Hashable, lane: queue.SimpleQueue[Callable[[], None]]) -> None:
        # The sg driver's SG_IO ends on a signal and is then started again: the command is sent
        # twice.  The main thread is there for signals.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            try:
                job = lane.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if not lane.empty():
                        continue
                    del self._lanes[key]
                    return
            ended = False
            try:
                job()
                ended = True
            finally:
                if not ended:
                    # A fault of ours ends the thread, not the service of the device.
                    self._start(key, lane)
