"""One agent for each state directory, by a lock that the kernel drops when the agent dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from prtrace.errors import StoreError

FILE: Final = "agent.lock"


class StateDirLock:
    """Makes the state directory (mode 0700) and holds the lock on it; a context manager.

    Raises StoreError where another agent holds it (the message names its process), and where
    the directory cannot be made or used.
    """

    __slots__ = ("_fd", "directory")

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._fd = -1
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(directory / FILE, flags, 0o600)
        except (FileExistsError, NotADirectoryError) as error:
            raise StoreError(
                f"{directory} is not a directory", hint="name another --state-dir"
            ) from error
        except PermissionError as error:
            raise StoreError(
                f"{directory} may not be used: {os.strerror(error.errno or 0)}",
                hint="run as root, or name a --state-dir of your own",
            ) from error
        except OSError as error:
            raise StoreError(
                f"{directory} cannot be used: {os.strerror(error.errno or 0)}"
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # What a process that died left behind is overwritten.
            os.truncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise StoreError(
                f"{directory} is in use by another agent, process {holder or 'unknown'}",
                hint="stop that agent: a host has one",
            ) from error
        except OSError as error:
            os.close(fd)
            raise StoreError(
                f"{directory / FILE} cannot be written: {os.strerror(error.errno or 0)}"
            ) from error
        self._fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the directory free; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
