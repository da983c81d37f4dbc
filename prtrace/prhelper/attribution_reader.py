"""The attribution records read back: what the agent joins with the kernel's records.

Whoever may write the log can name any guest, so nothing is taken from a directory or a file that
somebody else than its owners could have written.  One call reads a bounded number of bytes and
parses a bounded number of lines: a record that is not found is a loss of attribution, never of
the event, and what a broken proxy writes must not stop the agent.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from prtrace.prhelper.attribution import LATE_NS, LINE_BEGINNING, Attribution, parse_lines
from prtrace.prhelper.attribution_log import NAME, ROTATE_SIZE
from prtrace.scsi.forms import PR_OUT_CDB

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

_CHUNK: Final = 256 << 10
"""Bytes of one read; longer than any line, so a full one without a newline is skipped."""
_MOST_BEHIND: Final = 2 * ROTATE_SIZE
"""What is further from a file's end is left out; a log that is rotated has none of it."""
_MOST_EACH: Final = 2 * _MOST_BEHIND
"""What one call spends at most, in bytes read and their like, however fast somebody writes."""
_FILE_COST: Final = 64 << 10
"""What opening a file counts for in that."""
_LINE_COST: Final = 512
"""What parsing a line counts for in that."""
_ROOM: Final = 16 << 20
"""What the records that are kept may take, in bytes."""
_RECORD_SIZE: Final = 1024
"""What a record takes without its data."""
_ALIKE: Final = 256
"""Records kept for one nexus and CDB."""
_HEAD: Final = PR_OUT_CDB.size
"""The bytes of a PERSISTENT RESERVE CDB; clients pad it to 16."""

Key = tuple[int, int, int]


class _File(NamedTuple):
    """A file that may be open, and which one it is."""

    fd: int
    """-1: none is open."""
    identity: tuple[int, int]
    """Device and inode."""


def open_records(directory: Path, name: str) -> tuple[int, int]:
    """Descriptors of a proxy's run directory, and of the file of that name in it; OSError."""
    place = os.open(directory, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        return place, os.open(name, flags, dir_fd=place)
    except OSError:
        os.close(place)
        raise


class AttributionReader:
    """Reads on until it has what is asked for, then stops there.

    owners: the users whose directory and files are believed, None for everybody's.  opened: opens
    a file of the directory, for whoever may not.
    """

    def __init__(
        self,
        directory: Path,
        owners: Collection[int] | None = None,
        opened: Callable[[Path, str], tuple[int, int]] = open_records,
    ) -> None:
        self._directory = directory
        self._opened = opened
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
        self.attributions: dict[Key, Attribution] = {}
        """Those read so far, by key; the oldest are dropped where there are too many."""
        self.disbelieved = ""
        """What was found and not believed, "" for nothing."""

    def read(self) -> list[Attribution]:
        """Take in all that is there; the attributions that are new or have ended."""
        self._spent = 0
        changed: list[Attribution] = []
        while (more := self._advance()) is not None:
            changed += more
        return changed

    def of_comm(self, pid: int, comm: str) -> Attribution | None:
        """The attribution under whose name a thread of the process pid sent a command."""
        self._spent = 0
        while (key := self._of_comm.get((pid, comm))) is None:
            if self._advance() is None:
                return None
        return self.attributions[key]

    def of_helper(self, nexus: str, cdb: bytes, start_ns: int) -> Attribution | None:
        """The attribution of a command that a helper sent, by nexus, CDB and submission time."""
        self._spent = 0
        # Attributions are written when they begin: behind a later one there is none that fits.
        while self._newest_ns <= start_ns:
            if self._advance() is None:
                break
        for key in reversed(self._alike.get((nexus, cdb[:_HEAD]), ())):
            attribution = self.attributions[key]
            end = attribution.end_ns or attribution.begin_ns + LATE_NS
            if attribution.begin_ns <= start_ns <= end:
                return attribution
        return None

    def close(self) -> None:
        """Close the file.  Whoever reads on begins anew."""
        if self._file.fd >= 0:
            os.close(self._file.fd)
        self._file = _File(-1, (0, 0))

    def _advance(self) -> list[Attribution] | None:
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
        """The file of that name; None where there is none, or it is not believed."""
        place = fd = -1
        try:
            place, fd = self._opened(self._directory, name)
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

    def _keep(self, raw: bytes) -> list[Attribution]:
        # Parsing a line takes as long as reading so many bytes, whatever it says.
        self._spent += raw.count(LINE_BEGINNING) * _LINE_COST
        changed = parse_lines(raw, self.attributions)
        for attribution in changed:
            key = attribution.key
            if key not in self._sizes:
                self._newest_ns = max(self._newest_ns, attribution.begin_ns)
                self._index(attribution)
            size = (
                len(attribution.parameter)
                + len(attribution.shown)
                + len(attribution.answered)
                + _RECORD_SIZE
            )
            self._room += self._sizes.get(key, 0) - size
            self._sizes[key] = size
        while self._room < 0:
            self._drop(next(iter(self.attributions)))
        return changed

    def _index(self, attribution: Attribution) -> None:
        if attribution.comm:
            self._of_comm[attribution.issuer_pid, attribution.comm] = attribution.key
        elif attribution.issued:
            for nexus in attribution.nexuses:
                alike = self._alike.setdefault(
                    (nexus, attribution.cdb[:_HEAD]), deque(maxlen=_ALIKE)
                )
                alike.append(attribution.key)

    def _drop(self, key: Key) -> None:
        attribution = self.attributions.pop(key)
        self._room += self._sizes.pop(key)
        if self._of_comm.get((attribution.issuer_pid, attribution.comm)) == key:
            del self._of_comm[attribution.issuer_pid, attribution.comm]
        for nexus in attribution.nexuses:
            place = nexus, attribution.cdb[:_HEAD]
            alike = self._alike.get(place)
            if alike is not None and key in alike:
                alike.remove(key)
                if not alike:
                    del self._alike[place]
