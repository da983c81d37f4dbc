"""One agent for each state directory, by a lock that the kernel drops when the agent dies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from prtrace.errors import StoreError
from prtrace.linux.closing import Closing
from prtrace.linux.lockfile import HeldError, LockFile

FILE: Final = "agent.lock"


class StateDirLock(Closing):
    """Makes the state directory (mode 0700) and holds the lock on it; a context manager.

    Raises StoreError where another agent holds it (the message names its process), and where
    the directory cannot be made or used.
    """

    __slots__ = ("_lock",)

    def __init__(self, directory: Path) -> None:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = LockFile(directory / FILE)
        except HeldError as error:
            raise StoreError(
                f"{directory} is in use by another agent, process {error.holder}",
                hint="stop that agent: a host has one",
            ) from error
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

    def close(self) -> None:
        """Give the directory free; a second call does nothing."""
        self._lock.close()
