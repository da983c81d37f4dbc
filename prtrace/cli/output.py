"""Files that a command writes."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prtrace.errors import PrtraceError, UsageError


def require_replaceable(output: Path) -> None:
    """UsageError where output is there and is no regular file: it would be replaced by one.

    For root /dev/null and a disk's node are names like any other, and so is a symbolic link, of
    which nobody can say whether the link or what it leads to is meant.
    """
    try:
        mode = output.lstat().st_mode
    except OSError:
        return  # nothing is there; whoever writes it is told what else is wrong
    if not stat.S_ISREG(mode):
        raise UsageError(f"{output} is there and is no regular file", hint="name a file")


@contextmanager
def whole(output: Path, mode: int = 0o600) -> Iterator[Callable[[str], None]]:
    """Write output whole or not at all, by the call that is yielded: it is there when the with
    statement ends, complete and on disk, and as it was where nothing was written.

    What can be seen to be wrong with output is raised before anything else is done.  mode: the
    permission bits of the file.  PrtraceError says why it cannot be written, UsageError where
    something else than a regular file is there.
    """
    require_replaceable(output)
    texts: list[str] = []
    with _told(output):
        fd, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            yield texts.append
            with _told(output):
                file.writelines(texts)
                file.flush()
                os.fchmod(fd, mode)
                os.fsync(fd)
        if texts:
            with _told(output):
                Path(name).replace(output)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def _told(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PrtraceError(
            f"{output} cannot be written: {os.strerror(error.errno or 0)}"
        ) from error


def write_whole(output: Path, text: str, mode: int = 0o600) -> None:
    """Write text to output, see whole."""
    with whole(output, mode) as write:
        write(text)
