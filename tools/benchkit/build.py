"""Compile the C programs of the benchmarks, into the cache."""

from __future__ import annotations

import subprocess
from pathlib import Path

from labkit import places

_HERE = Path(__file__).parent


def _folder() -> Path:
    folder = places.cache() / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _outdated(made: Path, source: Path) -> bool:
    return not made.exists() or made.stat().st_mtime < source.stat().st_mtime


def requests() -> Path:
    """The program that sends one request again and again; static, so that it starts anywhere."""
    source, made = _HERE / "requests.c", _folder() / "requests"
    if _outdated(made, source):
        subprocess.run(
            ["gcc", "-static", "-O2", "-Wall", "-o", str(made), str(source)], check=True
        )
    return made
