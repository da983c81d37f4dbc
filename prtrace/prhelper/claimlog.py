"""Claims on their way to whoever joins them with the kernel's records: a log in the run directory.

A file and not a socket: the agent may be down while commands pass, and finds both the kernel's
records and the claims when it comes back.  Lines are appended with one write each, so a killed
proxy leaves whole lines.  At ROTATE_SIZE the file becomes NAME.1, of which there is one.

Whoever may write there can name any guest, so the reader takes nothing from a directory or a
file that somebody else than its owners could have written, and reads what is there in bounded
steps: no claim is a loss of attribution, never of the event.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prtrace.errors import UnavailableError
from prtrace.prhelper.claim import LATE_NS, Claim, parse_lines

if TYPE_CHECKING:
    from collections.abc import Collection

NAME: Final = "claims.jsonl"
ROTATE_SIZE: Final = 8 << 20
_CHUNK: Final = 256 << 10
"""Longer than any line: a chunk of one line only is none of ours."""
_MOST_BEHIND: Final = 2 * ROTATE_SIZE
"""What is further from a file's end is left out; a log that is rotated has none of it."""
_MOST_EACH: Final = 2 * _MOST_BEHIND
"""What one call reads at most, however fast somebody writes."""
_FILE_COST: Final = 64 << 10
"""What opening a file counts for in that."""
_ROOM: Final = 16 << 20
_CLAIM_SIZE: Final = 1024
_ALIKE: Final = 256
_HEAD: Final = 10
"""The bytes of a PERSISTENT RESERVE CDB; clients pad it to 16."""

Key = tuple[int, int, int]


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


@dataclass(frozen=True, slots=True)
class _File:
    """An open file (fd -1: none) and which one it is: device and inode."""

    fd: int
    identity: tuple[int, int]


class ClaimReader:
    """The reader, for the agent.  It reads on until it has what is asked for, then stops there.

    owners: the users whose directory and files are believed, None for whoever's.  claims: those
    read so far, by key; the oldest are dropped where there are too many.  disbelieved: what was
    found and not believed, "" for nothing.
    """

    def __init__(self, directory: Path, owners: Collection[int] | None = None) -> None:
        self._directory = directory
        self._owners = owners
        self._file = _File(-1, (0, 0))
        self._offset = 0
        self._skipping = False
        self._spent = 0
        self._newest_ns = 0
        self._room = _ROOM
        self._sizes: dict[Key, int] = {}
        self._of_comm: dict[tuple[int, str], Key] = {}
        self._alike: dict[tuple[str, bytes], deque[Key]] = {}
        self.claims: dict[Key, Claim] = {}
        self.disbelieved = ""

    def read(self) -> list[Claim]:
        """Take in all that is there; the claims that are new or have ended."""
        self._spent = 0
        changed: list[Claim] = []
        while (more := self._advance()) is not None:
            changed += more
        return changed

    def of_comm(self, pid: int, comm: str) -> Claim | None:
        """The claim under whose name a thread of the process pid sent a command."""
        self._spent = 0
        while (key := self._of_comm.get((pid, comm))) is None:
            if self._advance() is None:
                return None
        return self.claims[key]

    def of_helper(self, nexus: str, cdb: bytes, start_ns: int) -> Claim | None:
        """The claim for a command that a helper sent: its nexus, CDB and time of submission."""
        self._spent = 0
        # Claims are written when they begin: behind a later one there is none that fits.
        while self._newest_ns <= start_ns:
            if self._advance() is None:
                break
        for key in reversed(self._alike.get((nexus, cdb[:_HEAD]), ())):
            claim = self.claims[key]
            end = claim.end_ns or claim.begin_ns + LATE_NS
            if claim.begin_ns <= start_ns <= end:
                return claim
        return None

    def close(self) -> None:
        """Close the file.  Whoever reads on begins anew."""
        if self._file.fd >= 0:
            os.close(self._file.fd)
        self._file = _File(-1, (0, 0))

    def _advance(self) -> list[Claim] | None:
        """Read one step further; what changed, None where there is no more."""
        while self._spent < _MOST_EACH:
            if raw := self._chunk():
                return self._keep(raw)
            following = self._following()
            if following is None:
                return None
            # Lines can have come before it was rotated, and none can come now.
            if raw := self._chunk():
                os.close(following.fd)
                return self._keep(raw)
            self.close()
            self._file, self._offset, self._skipping = following, 0, False
        return None

    def _chunk(self) -> bytes:
        """Whole lines from here on, b"" where there are none (yet)."""
        if self._file.fd < 0:
            return b""
        size = os.fstat(self._file.fd).st_size
        if not 0 <= size - self._offset <= _MOST_BEHIND:
            self._offset = max(0, size - _MOST_BEHIND)
            self._skipping = self._offset > 0
        while self._spent < _MOST_EACH:
            raw = os.pread(self._file.fd, _CHUNK, self._offset)
            self._spent += len(raw)
            if self._skipping and raw:
                end = raw.find(b"\n") + 1
                self._skipping = not end
                self._offset += end or len(raw)
                continue
            end = raw.rfind(b"\n") + 1
            self._offset += end
            if end or len(raw) < _CHUNK:
                return raw[:end]
            self._skipping = True
        return b""

    def _following(self) -> _File | None:
        """The file that comes after the present one, open; None where that is the last."""
        self._spent += _FILE_COST
        newest = self._open(NAME)
        if newest is None:
            return None
        if newest.identity == self._file.identity:
            os.close(newest.fd)
            return None
        old = self._open(f"{NAME}.1")
        if old is None:
            return newest
        if old.identity == self._file.identity:
            os.close(old.fd)
            return newest
        # The first time, or rotated more than once since.
        os.close(newest.fd)
        return old

    def _open(self, name: str) -> _File | None:
        """None where there is none, or none that is believed."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        place = fd = -1
        try:
            place = os.open(self._directory, flags | os.O_DIRECTORY)
            fd = os.open(name, flags, dir_fd=place)
            status = os.fstat(fd)
            if self._believes(os.fstat(place), status):
                kept, fd = fd, -1
                return _File(kept, (status.st_dev, status.st_ino))
            self.disbelieved = f"{self._directory / name} is not the proxy's alone to write"
        except OSError:
            return None
        finally:
            for each in (place, fd):
                if each >= 0:
                    os.close(each)
        return None

    def _believes(self, directory: os.stat_result, file: os.stat_result) -> bool:
        if not stat.S_ISREG(file.st_mode):
            return False
        return self._owners is None or all(
            each.st_uid in self._owners and not each.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            for each in (directory, file)
        )

    def _keep(self, raw: bytes) -> list[Claim]:
        changed = parse_lines(raw, self.claims)
        for claim in changed:
            key = claim.key
            if key not in self._sizes:
                self._newest_ns = max(self._newest_ns, claim.begin_ns)
                self._index(claim)
            size = len(claim.parameter) + len(claim.shown) + len(claim.answered) + _CLAIM_SIZE
            self._room += self._sizes.get(key, 0) - size
            self._sizes[key] = size
        while self._room < 0:
            self._drop(next(iter(self.claims)))
        return changed

    def _index(self, claim: Claim) -> None:
        if claim.comm:
            self._of_comm[claim.issuer_pid, claim.comm] = claim.key
        elif claim.issued:
            for nexus in claim.nexuses:
                alike = self._alike.setdefault((nexus, claim.cdb[:_HEAD]), deque(maxlen=_ALIKE))
                alike.append(claim.key)

    def _drop(self, key: Key) -> None:
        claim = self.claims.pop(key)
        self._room += self._sizes.pop(key)
        if self._of_comm.get((claim.issuer_pid, claim.comm)) == key:
            del self._of_comm[claim.issuer_pid, claim.comm]
        for nexus in claim.nexuses:
            place = nexus, claim.cdb[:_HEAD]
            alike = self._alike.get(place)
            if alike is not None and key in alike:
                alike.remove(key)
                if not alike:
                    del self._alike[place]
