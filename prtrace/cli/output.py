"""Files that a command writes."""

from __future__ import annotations

import os
import stat
import tempfile
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


def write_whole(output: Path, text: str, mode: int = 0o600) -> None:
    """Write output whole or not at all: it is there when it is complete and on disk.

    mode: the permission bits of the file.  PrtraceError says why it cannot be written, UsageError
    where something else than a regular file is there.
    """
    require_replaceable(output)
    try:
        fd, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fchmod(fd, mode)
                os.fsync(fd)
            Path(name).replace(output)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise PrtraceError(
            f"{output} cannot be written: {os.strerror(error.errno or 0)}"
        ) from error
