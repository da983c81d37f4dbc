"""Whether the database file is still the one that was opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple, Self

from prtrace.errors import StoreError
from prtrace.store.failure import OF_THE_DISK, damaged, readonly
from prtrace.store.schema import APPLICATION_ID

_MAGIC: Final = b"SQLite format 3\0"  # https://www.sqlite.org/fileformat2.html 1.3
_APPLICATION: Final = slice(68, 72)
_HEADER: Final = 100


class File(NamedTuple):
    """The file behind a path, as it was when the database was opened."""

    device: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """Look at the file that is there now; StoreError where there is none."""
        try:
            found = path.stat()
        except OSError as error:
            raise _gone(path, error) from error
        return cls(found.st_dev, found.st_ino)

    def require_same(self, path: Path) -> None:
        """Raise StoreError where path is gone, another file, or no database of prtrace.

        And where its file system is read-only, or cannot be read: see Written for what neither
        the mount nor a reader is told.
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise _gone(path, error) from error
        try:
            found = os.fstat(fd)
            if (found.st_dev, found.st_ino) != (self.device, self.inode):
                raise ReplacedError(
                    f"{path} was replaced by another file while the agent used it",
                    hint=_HINT,
                )
            header = os.pread(fd, _HEADER, 0)
            flags = os.fstatvfs(fd).f_flag
        except OSError as error:
            raise StoreError(
                f"{path}: its header cannot be read: {error.strerror}", hint=OF_THE_DISK
            ) from error
        finally:
            os.close(fd)
        if header[: len(_MAGIC)] != _MAGIC or (
            int.from_bytes(header[_APPLICATION], "big") != APPLICATION_ID
        ):
            raise damaged(path, "its header was overwritten")
        if flags & os.ST_RDONLY:
            raise readonly(path)


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
