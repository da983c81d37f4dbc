"""Files that a command writes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from prtrace.errors import PrtraceError


def write_whole(output: Path, text: str, mode: int = 0o600) -> None:
    """Write output whole or not at all: it is there when it is complete and on disk.

    mode: the permission bits of the file.  PrtraceError says why it cannot be written.
    """
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
