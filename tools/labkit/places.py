"""Where the lab keeps its things: the cache, the checkout, the running machines."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent.parent


def cache() -> Path:
    """The cache folder; tools/setup decides it and passes it on as PRTRACE_CACHE."""
    named = os.environ.get("PRTRACE_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "prtrace"


def venv() -> Path:
    return cache() / "venv"


def kernels() -> Path:
    return cache() / "kernels"


def standing(name: str) -> Path:
    """The folder of the standing machine called name.

    Not under the cache: a Unix socket's path has 107 bytes at most, and the user names the cache.
    """
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    return Path(base) / f"prtrace-lab-{os.getuid()}" / name


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the lock file, made when missing: one process at a time, the others wait."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
