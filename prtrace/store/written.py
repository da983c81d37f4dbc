"""Whether what was written to the database reaches the disk."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from pathlib import Path
from typing import Final, NamedTuple

from prtrace.errors import StoreError
from prtrace.store.failure import OF_THE_DISK, readonly

_SUFFIXES: Final = ("", "-wal")
_TOLD_AFTER_S: Final = 20.0
"""Seconds that a disk may take for what was written to it before the log is told."""
_TOLD_EVERY_S: Final = 600.0

_log = logging.getLogger("prtrace.store")


class Unanswered(NamedTuple):
    """Since when somebody waits for the disk."""

    since: int
    """Nanoseconds since the epoch."""
    since_ns: int
    """The same on CLOCK_MONOTONIC."""


class Written:
    """The database's file and its log, each with a descriptor that hears of every failure.

    A write that succeeds is in the page cache.  Where it cannot go to the disk, the kernel tells
    whoever waits for it by fdatasync() on a descriptor that was open meanwhile, once, and forgets
    the page.  SQLite waits when it carries the log over into the database, and ignores what it is
    told when that follows a commit; then it goes on with what is in memory, until there is none.
    ext4 gets there by errors=remount-ro: Linux 6.12 marks the mount as read-only no more
    (d3476f3dad4a), and 6.1 lets writes to an open file succeed.

    To be used by one thread at a time, not the one that may not wait for a disk; but for waiting,
    which any thread may look at.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: dict[str, int] = {}
        self._told_at = -_TOLD_EVERY_S
        self.waiting: Unanswered | None = None

    def failure(self) -> StoreError | None:
        """Wait until all is on the disk; what was wrong where it is not.  Not told again.

        A disk that does not answer is told to the log by a thread of its own: every other one may
        have to wait for that disk by then.
        """
        self.waiting = Unanswered(time.time_ns(), time.monotonic_ns())
        teller = threading.Timer(_TOLD_AFTER_S, self._tell)
        teller.daemon = True
        # Without a thread to spare the status alone tells.
        with contextlib.suppress(RuntimeError):
            teller.start()
        try:
            return self._failure()
        finally:
            teller.cancel()
            self.waiting = None

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told_at >= _TOLD_EVERY_S:
            self._told_at = now
            _log.error(
                "%s: what was written waits for the disk for %d s now, and nothing is stored until"
                " the disk has it: see the kernel's log for why",
                self._path,
                _TOLD_AFTER_S,
            )

    def _failure(self) -> StoreError | None:
        for suffix in _SUFFIXES:
            try:
                os.fdatasync(self._descriptor(suffix))
            except FileNotFoundError:
                pass  # no log yet, or a file that was deleted: File tells
            except OSError as error:
                # A file system that an error has made read-only, whatever its mount shows.
                if error.errno == errno.EROFS:
                    return readonly(self._path)
                return StoreError(
                    f"{self._path}: what is written never reaches the disk: {error.strerror}",
                    hint=OF_THE_DISK,
                )
        return None

    def _descriptor(self, suffix: str) -> int:
        found = self._open.get(suffix)
        if found is None:
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            found = self._open[suffix] = os.open(f"{self._path}{suffix}", flags)
        return found
