"""The journal of one handover: what was about to be sent, on disk before it is sent.

One file for each (move, role, logical unit), one JSON object a line, each made durable
before the command goes out.  A last line that is cut off was never acted on.  Next to it
lies the logical unit's lock: one move of a unit at a time on this host.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

from prtrace.errors import MalformedError, PrtraceError, StoreError
from prtrace.move.handover import Result, Role
from prtrace.move.memory import Memory
from prtrace.state.event import rfc3339

STATE_DIR: Final = Path("/var/lib/prtrace")
SCHEMA: Final = "prtrace.journal/1"
_FOLDER: Final = "move"
_NAME_LIMIT: Final = 120


class UnderWayError(PrtraceError):
    """Another process moves the same logical unit now."""


class Journal:
    """The journal of one unit, and the lock on it; a context manager.

    Raises UnderWayError where another process holds the lock, StoreError where the journal
    cannot be written, and MalformedError where it holds what this program did not write.
    last, result, requests: of the newest line that an earlier run left, None without one.
    """

    __slots__ = ("_fd", "_lock", "_lu", "_role", "last", "path", "requests", "result")

    def __init__(self, state_dir: Path, move: str, role: Role, lu: str) -> None:
        folder = state_dir / _FOLDER
        name = quote(lu, safe=".:-_")[:_NAME_LIMIT]
        self.path = folder / f"{move}.{role.value}.{name}.journal"
        self._lu, self._role = lu, role
        self._fd = -1
        self.last: Memory | None = None
        self.requests: int | None = None
        self.result: Result | None = None
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(
                folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise _unusable(folder, error) from error
        try:
            self._take_lock()
            self._fd = os.open(
                self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
            self._read()
            _sync_folder(folder)
        except OSError as error:
            self.close()
            raise _unusable(self.path, error) from error
        except PrtraceError:
            self.close()
            raise

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
        """Give the unit free; a second call does nothing."""
        for fd in (self._fd, self._lock):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock = -1

    def write(
        self, time: int, following: str, memory: Memory, requests: int | None = None
    ) -> None:
        """Write down what comes next; time in nanoseconds since the epoch.

        requests: how many the kernel had sent through the lead's nexus before.
        """
        self._append(
            {
                "time": rfc3339(time),
                "next": following,
                "requests": requests,
                "memory": memory.to_json(),
            }
        )

    def end(self, time: int, result: Result, memory: Memory) -> None:
        """Write down how it ended."""
        self._append(
            {
                "time": rfc3339(time),
                "next": "end",
                "result": result.value,
                "memory": memory.to_json(),
            }
        )

    def _append(self, fields: dict[str, Any]) -> None:
        line = {"schema": SCHEMA, "lu": self._lu, "role": self._role.value, **fields}
        raw = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        try:
            if os.write(self._fd, raw) != len(raw):
                raise StoreError(f"{self.path}: the disk is full")
            os.fdatasync(self._fd)
        except OSError as error:
            raise _unusable(self.path, error) from error

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip()
            raise UnderWayError(
                f"{self._lu} is being moved by process {holder or 'unknown'}",
                hint="wait until that process has ended, then try again",
            ) from error
        os.truncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _read(self) -> None:
        raw = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
        whole, _, cut = raw.rpartition(b"\n")
        if cut:
            os.ftruncate(self._fd, len(raw) - len(cut))
        if not whole:
            return
        try:
            last = json.loads(whole.rpartition(b"\n")[2])
            fits = (last["schema"], last["lu"], last["role"])
            ended = last.get("result")
            self.result = None if ended is None else Result(ended)
            requests = last.get("requests")
            self.requests = None if requests is None else int(requests)
            self.last = Memory.from_json(last["memory"])
        except (KeyError, TypeError, ValueError) as error:
            raise MalformedError(
                f"journal {self.path}", str(error)[:200], hint="move the file aside to begin anew"
            ) from error
        if fits != (SCHEMA, self._lu, self._role.value):
            raise MalformedError(f"journal {self.path}", "it belongs to another move")


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _unusable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{path} cannot be used: {os.strerror(error.errno or 0)}",
        hint="run as root, or name another --state-dir",
    )
