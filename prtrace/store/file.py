"""Whether the database file is still the one that was opened."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final, NamedTuple, Self

from prtrace.errors import StoreError
from prtrace.linux.closing import Closing
from prtrace.store.failure import OF_THE_DISK, damaged, readonly
from prtrace.store.schema import APPLICATION_ID

_MAGIC: Final = b"SQLite format 3\0"  # https://www.sqlite.org/fileformat2.html 1.3
_APPLICATION: Final = slice(68, 72)
_HEADER: Final = 100


class _Place(NamedTuple):
    """What a file is known by for as long as somebody has it open."""

    device: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """OSError where there is no file, or a symbolic link."""
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        return cls(found.st_dev, found.st_ino)


class File(Closing):
    """The database file behind a path and its log, as they were when the database was opened.

    No descriptor of the file is closed while SQLite uses it: a process that closes one loses all
    the locks that it has on the file, SQLite's among them.  Then the next program that looks into
    the database takes itself for the only one, and deletes the log at its end, to which this one
    goes on writing (https://www.sqlite.org/howtocorrupt.html 2.2).
    """

    __slots__ = ("_descriptor", "_log", "_path", "_place")

    def __init__(self, path: Path) -> None:
        """Raises StoreError where there is no file."""
        self._path = path
        self._descriptor: int | None = None
        try:
            self._place = _Place.of(path)
        except OSError as error:
            raise _gone(path, error) from error
        try:
            self._log: _Place | None = _Place.of(_log_of(path))
        except OSError:
            self._log = None  # nobody writes

    def close(self) -> None:
        """Give the descriptor back, after SQLite has; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def require_same(self) -> None:
        """Raise StoreError where the path is gone, another file, or no database of prtrace.

        And where its file system is read-only, or cannot be read: see Written for what neither
        the mount nor a reader is told.
        """
        _require(self._path, self._place)
        if self._log is not None:
            _require(_log_of(self._path), self._log)
        try:
            header = os.pread(self._opened(), _HEADER, 0)
            flags = os.statvfs(self._path).f_flag
        except OSError as error:
            raise StoreError(
                f"{self._path}: its header cannot be read: {error.strerror}", hint=OF_THE_DISK
            ) from error
        if header[: len(_MAGIC)] != _MAGIC or (
            int.from_bytes(header[_APPLICATION], "big") != APPLICATION_ID
        ):
            raise damaged(self._path, "its header was overwritten")
        if flags & os.ST_RDONLY:
            raise readonly(self._path)

    def _opened(self) -> int:
        if self._descriptor is None:
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            self._descriptor = os.open(self._path, flags)
        return self._descriptor


def _log_of(path: Path) -> Path:
    return Path(f"{path}-wal")


def _require(path: Path, place: _Place) -> None:
    try:
        found = _Place.of(path)
    except OSError as error:
        raise _gone(path, error) from error
    if found != place:
        raise ReplacedError(
            f"{path} was replaced by another file while the agent used it", hint=_HINT
        )


class ReplacedError(StoreError):
    """What is stored from now on is in a file that nobody finds again."""


_HINT: Final = "an agent that starts takes the file that is there, or makes one, and reads anew"


def _gone(path: Path, error: OSError) -> StoreError:
    if isinstance(error, FileNotFoundError):
        return ReplacedError(f"{path} was deleted while the agent used it", hint=_HINT)
    return StoreError(
        f"{path} cannot be looked at: {os.strerror(error.errno or 0)}",
        hint=f"see whether the file system of {path.parent} is there and who may use it",
    )
