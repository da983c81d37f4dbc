"""The attribution records on their way to the agent: a log in the run directory.

A file and not a socket: the agent may be down while commands pass, and finds both the kernel's
records and these when it comes back.  Lines are appended with one write each, so a killed proxy
leaves whole lines.  At ROTATE_SIZE the file becomes NAME.1, of which there is one.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prtrace.errors import UnavailableError

if TYPE_CHECKING:
    from prtrace.prhelper.sparing_log import SparingLog

NAME: Final = "attribution.jsonl"
ROTATE_SIZE: Final = 8 << 20
_LOOK_EACH: Final = 64
"""So many lines are written between two looks whether the file still has a name."""


class AttributionLog:
    """The writer; called by any thread.

    Raises UnavailableError where the directory cannot be written when it is opened.
    """

    def __init__(self, directory: Path, sparing: SparingLog) -> None:
        self.path = directory / NAME
        self._log = sparing
        self._lock = threading.Lock()
        self._fd = -1
        self._size = 0
        self._lines = 0
        self._torn = False
        self.failures = 0
        """Lines in a row that were not written whole."""
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
            self._lines += 1
            if self._size >= ROTATE_SIZE or not self._lines % _LOOK_EACH:
                self._renew()
            if self._torn:
                # What was cut off is a line of its own, which no reader takes for a record.
                line = b"\n" + line
            try:
                written = os.write(self._fd, line)
            except OSError as error:
                self._failed(f"{error.strerror}")
                return
            self._size += written
            self._torn = written < len(line)
            if self._torn:
                self._failed("the file system is full")
            elif self.failures:
                self._log.say(
                    logging.WARNING, "attribution",
                    f"{self.path} is written again; {self.failures} lines were lost",
                )  # fmt: skip
                self.failures = 0

    def close(self) -> None:
        """Close the file; nothing may be written after."""
        os.close(self._fd)

    def _renew(self) -> None:
        """Begin a new file where the present one is full or has no name any more.

        Where none can be had, the present one is written on, and the next line tries again.
        """
        try:
            named = os.fstat(self._fd).st_nlink > 0
            if named and self._size < ROTATE_SIZE:
                return
            if named and self._is_ours():
                os.replace(self.path, self.path.with_name(f"{NAME}.1"))
            self._open()
        except OSError as error:
            self._log.say(
                logging.WARNING, "attribution", f"{self.path} cannot be renewed: {error.strerror}"
            )

    def _is_ours(self) -> bool:
        """Whether the path still leads to the open file, and not to what was put there since."""
        try:
            there, here = os.stat(self.path, follow_symlinks=False), os.fstat(self._fd)
        except FileNotFoundError:
            return False
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def _failed(self, why: str) -> None:
        self.failures += 1
        self._log.say(
            logging.ERROR, "attribution",
            f"{self.path} cannot be written, so nobody can say which guest sends what: {why}",
        )  # fmt: skip

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        # The old file stays open until there is a new one: its number must not become another's.
        fd, old = os.open(self.path, flags, 0o640), self._fd
        self._fd, self._size = fd, os.fstat(fd).st_size
        if old >= 0:
            os.close(old)
