"""Who uses which nexus, kept in the run directory, so that a restart does not forget it.

The attribution records alone would not do: they are rotated, and a registration can be older
than the oldest of them.  A line is appended before a command is sent, and after what ends a
use, with one write each, so a killed proxy leaves whole lines; at the start the file is written
anew with what still holds.  A file of another boot is of no use: its process numbers and its
SCSI addresses belong to nobody now.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from prtrace.errors import UnavailableError
from prtrace.linux.process import boot_id
from prtrace.prhelper.guard import User

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NAME: Final = "guard.jsonl"
SCHEMA: Final = "prtrace.guard/1"
_MOST: Final = 1 << 20
"""A file longer than this many bytes is written anew, and more of one is not read."""
_MOST_TEXT: Final = 512
_MOST_KEYS: Final = 4096


class GuardBook:
    """The file; used by one thread at a time.

    Raises UnavailableError where the directory cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME
        self._boot = boot_id()
        self._fd = -1
        self._size = 0

    def load(self) -> list[tuple[tuple[str, ...], User]]:
        """The uses that had begun and not ended, each with the keys of its nexus.

        A line that is damaged is left out.
        """
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._refused(error) from error
        with open(fd, "rb") as file:
            text = file.read(2 * _MOST)
        users: dict[tuple[str, tuple[int, int]], User] = {}
        first, *lines = text.split(b"\n")
        if _given(first) != {"schema": SCHEMA, "boot": self._boot}:
            return []
        for line in lines:
            if line:
                _apply(_given(line), users)
        return [((key,), user) for (key, _), user in users.items()]

    def begin(self, users: Iterable[tuple[str, User]]) -> None:
        """Write the file anew with these uses: each a key of a nexus, and its user."""
        lines = [json.dumps({"schema": SCHEMA, "boot": self._boot})]
        lines += [_line((key,), user, using=True) for key, user in users]
        text = ("\n".join(lines) + "\n").encode()
        made = self.path.with_name(f".{NAME}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(made, flags, 0o640)
            try:
                _write(fd, text)
                os.replace(made, self.path)
            except OSError:
                os.close(fd)
                raise
        except OSError as error:
            raise self._refused(error) from error
        self.close()
        self._fd, self._size = fd, len(text)

    def note(self, keys: Sequence[str], user: User, *, using: bool) -> bool:
        """The user is about to use the nexus, or uses it no more; True where begin() is due.

        Raises OSError where it could not be written: then a restart would not know it.
        """
        # A line that was cut off by a full file system ends here.
        text = ("\n" + _line(keys, user, using=using) + "\n").encode()
        _write(self._fd, text)
        self._size += len(text)
        return self._size > _MOST

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _refused(self, error: OSError) -> UnavailableError:
        return UnavailableError(
            f"{self.path} cannot be used: {error.strerror}",
            hint="name a directory of the proxy's own with --run-dir",
        )


def _write(fd: int, text: bytes) -> None:
    if os.write(fd, text) != len(text):
        raise OSError(28, "No space left on device")


def _line(keys: Sequence[str], user: User, *, using: bool) -> str:
    return json.dumps(
        {
            "using": using,
            "keys": list(keys),
            "identity": user.identity,
            "title": user.title,
            "pid": user.pid,
            "start_ns": user.start_ns,
            "claimed": user.claimed,
        }
    )


def _given(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _apply(given: Any, users: dict[tuple[str, tuple[int, int]], User]) -> None:
    """Take one line into the uses; one that is damaged changes nothing."""
    if not isinstance(given, dict):
        return
    keys, using = given.get("keys"), given.get("using")
    texts: list[Any] = [given.get(name) for name in ("identity", "title", "claimed")]
    numbers: list[Any] = [given.get(name) for name in ("pid", "start_ns")]
    if (
        not isinstance(keys, list)
        or len(keys) > _MOST_KEYS
        or not isinstance(using, bool)
        or not all(isinstance(each, str) and len(each) <= _MOST_TEXT for each in (*keys, *texts))
        or not all(type(each) is int and 0 <= each < 1 << 63 for each in numbers)
    ):
        return
    identity, title, claimed = texts
    user = User(identity, title, numbers[0], numbers[1], claimed)
    for key in keys:
        place = key, user.process
        if using:
            users[place] = user
        else:
            users.pop(place, None)
