"""Claims on their way to whoever joins them with the kernel's records: a log in the run directory.

A file and not a socket: the agent may be down while commands pass, and finds both the kernel's
records and the claims when it comes back.  Lines are appended with one write each, so a killed
proxy leaves whole lines.  At ROTATE_SIZE the file becomes NAME.1, of which there is one.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final

from prtrace.errors import UnavailableError
from prtrace.proxy.claim import Claim, parse_lines

NAME: Final = "claims.jsonl"
ROTATE_SIZE: Final = 8 << 20


class ClaimLog:
    """The writer; safe to call from any thread.

    Raises UnavailableError where the directory cannot be written when it is opened.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME
        self._lock = threading.Lock()
        self._fd = -1
        self._size = 0
        self.failures = 0
        try:
            self._open()
        except OSError as error:
            raise UnavailableError(
                f"{self.path} cannot be written: {error.strerror}",
                hint="name a directory of the proxy's own with --run-dir",
            ) from error

    def write(self, line: bytes) -> None:
        """Append one line.  A full file system costs the attribution, not the command."""
        with self._lock:
            try:
                if self._size >= ROTATE_SIZE:
                    os.replace(self.path, self.path.with_name(f"{NAME}.1"))
                    self._open()
                self._size += os.write(self._fd, line)
            except OSError:
                self.failures += 1

    def close(self) -> None:
        """Close the file; nothing may be written after."""
        os.close(self._fd)

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        # The old file stays open until there is a new one: its number must not become another's.
        fd, old = os.open(self.path, flags, 0o640), self._fd
        self._fd, self._size = fd, os.fstat(fd).st_size
        if old >= 0:
            os.close(old)


class ClaimReader:
    """The reader, for the agent: read() whenever a record needs a name.

    claims: by key, the latest CAPACITY of them.
    """

    CAPACITY: Final = 16384

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._file: tuple[int, int] | None = None
        self._offset = 0
        self.claims: dict[tuple[int, int, int], Claim] = {}

    def read(self) -> list[Claim]:
        """Take in what was written since the last call; the claims that are new or have ended."""
        changed: list[Claim] = []
        old = self._path.with_name(f"{NAME}.1")
        if self._file is None or self._identity(self._path) != self._file:
            # Rotated, or never seen: the rest of the old file comes first.
            if self._file is None or self._identity(old) == self._file:
                changed += self._take(old)
            self._offset = 0
        changed += self._take(self._path)
        self._file = self._identity(self._path)
        while len(self.claims) > self.CAPACITY:
            del self.claims[next(iter(self.claims))]
        return changed

    def of_comm(self, pid: int, comm: str) -> Claim | None:
        """The claim under whose name a thread of the process pid sent a command."""
        for claim in reversed(self.claims.values()):
            if claim.comm == comm and claim.issuer_pid == pid:
                return claim
        return None

    def _take(self, path: Path) -> list[Claim]:
        try:
            with path.open("rb") as file:
                file.seek(self._offset)
                raw = file.read()
        except FileNotFoundError:
            return []
        whole = raw.rpartition(b"\n")[0]
        self._offset += len(whole) + 1 if whole else 0
        return parse_lines(whole, self.claims)

    @staticmethod
    def _identity(path: Path) -> tuple[int, int] | None:
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino
