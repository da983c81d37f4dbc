"""A lock on a file: one process has it at a time; the kernel drops it when that process dies."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Final

from prtrace.linux.closing import Closing

if TYPE_CHECKING:
    from pathlib import Path

_LONGEST: Final = 32
"""Bytes of a process number and the end of its line, and room."""


class HeldError(Exception):
    """Another process holds the lock.

    holder: its process number as the file has it, "unknown" where the file is empty.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


class LockFile(Closing):
    """The lock on a file, which is made (mode 0600) and says which process holds it.

    Raises HeldError, and OSError where the file cannot be opened or written.
    """

    __slots__ = ("_fd",)

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # What a process that died left behind is overwritten.
            os.truncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            holder = os.pread(self._fd, _LONGEST, 0).decode("ascii", "replace").strip()
            self.close()
            raise HeldError(holder or "unknown") from None
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Give the lock up; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
