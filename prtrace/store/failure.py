"""What SQLite's errors mean to whoever runs the agent."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from prtrace.errors import StoreError

_FULL: Final = (sqlite3.SQLITE_FULL,)
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_REFUSED: Final = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH)

OF_THE_DISK: Final = (
    "see the kernel's log for why, mend that, and restart the agent: it says what is missing, "
    "where the disk has at least the beginning of the file"
)
"""The hint where the disk or its file system fails."""


@contextmanager
def as_store_error(path: Path, doing: str) -> Iterator[None]:
    """Turn SQLite's errors into StoreError: what could not be done to path, and what helps.

    And those of the kernel: the file may be gone since SQLite has opened it.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _store_error(path, doing, error) from error
    except OSError as error:
        raise StoreError(
            f"{path} cannot be {doing}: {error.strerror}",
            hint=f"see whether the file system of {path.parent} is there and who may use it",
        ) from error


class DamagedError(StoreError):
    """What the database has is not what was written."""


def damaged(path: Path, problem: str) -> DamagedError:
    """The error for a database that contradicts itself."""
    return DamagedError(
        f"{path} is damaged: {problem[:200]}",
        hint=f"stop the agent, move {path}* aside (keep it: sqlite3's .recover may save the "
        "history) and start the agent: it reads the devices anew",
    )


def readonly(path: Path) -> StoreError:
    """The error for a file system to which nothing can be written any more."""
    return StoreError(
        f"the file system of {path} is read-only",
        hint="see the kernel's log for why, make it writable, and restart the agent",
    )


def _store_error(path: Path, doing: str, error: sqlite3.Error) -> StoreError:
    # The low byte is the result code, the rest says where it happened.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _DAMAGED:
        failing = _unreadable(path)
        return damaged(path, str(error)) if failing is None else failing
    if code in _FULL:
        return StoreError(
            f"{path} cannot be written: the disk is full",
            hint=f"make room below {path.parent}; nothing that was stored is lost",
        )
    if code == sqlite3.SQLITE_IOERR:
        return StoreError(
            f"{path} cannot be {doing}: {error}",
            hint=f"see whether the file system of {path.parent} is full or failing",
        )
    if code in _REFUSED:
        return StoreError(
            f"{path} may not be {doing}: {error}",
            hint=f"run as the owner of {path.parent}, usually root",
        )
    if code == sqlite3.SQLITE_CANTOPEN:
        return StoreError(
            f"{path} cannot be opened",
            hint=f"see whether {path.parent} exists and who may use it",
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreError(
            f"{path} is in use by another program",
            hint="stop whatever else has it open (lsof shows it)",
        )
    return StoreError(f"{path} cannot be {doing}: {error}")


def _unreadable(path: Path) -> StoreError | None:
    """The error for a database on a file system that fails readers, which SQLite calls damaged.

    ext4 of Linux 6.6 to 6.14 is one after an error of its own.  The log is tried: SQLite has no
    locks on it that the process would lose by closing it (see File).
    """
    try:
        with Path(f"{path}-wal").open("rb", buffering=0) as log:
            log.read(1)
    except FileNotFoundError:
        pass
    except OSError as error:
        return StoreError(f"{path} cannot be read: {error.strerror}", hint=OF_THE_DISK)
    return None
