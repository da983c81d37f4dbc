"""A lock on a file: one process has it at a time; the kernel drops it when that process dies."""

from __future__ import annotations

import fcntl
import os
import struct
from typing import TYPE_CHECKING, Final

from prtrace.linux.closing import Descriptor

if TYPE_CHECKING:
    from pathlib import Path

_LONGEST: Final = 32
"""Bytes of a process number and the end of its line, and room."""


_FLOCK: Final = "hhqqi"
"""struct flock of fcntl(2): type, whence, start, length, process id; padded as C does it."""


def record_lock_holder(path: Path) -> int | None:
    """The process that holds a record lock (fcntl(2), F_SETLK) on a file, None where none does.

    The kernel says it, and drops the lock when that process dies: it is never another process
    that has its number by now.  A lock of this process's own does not count.  OSError where the
    file cannot be opened.
    """
    wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, wanted))
    finally:
        os.close(fd)
    return None if kind == fcntl.F_UNLCK else int(pid)


class HeldError(Exception):
    """Another process holds the lock.

    holder: its process number as the file has it, "unknown" where the file is empty.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


class LockFile(Descriptor):
    """The lock on a file, which is made (mode 0600) and says which process holds it.

    Raises HeldError, and OSError where the file cannot be opened or written.
    """

    __slots__ = ()

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
