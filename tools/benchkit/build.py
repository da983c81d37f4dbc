"""Compile the C programs of the benchmarks, into the cache."""

from __future__ import annotations

import os
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


def reads() -> Path:
    """The program that reads; static, so that it starts anywhere."""
    source, made = _HERE / "reads.c", _folder() / "reads"
    if _outdated(made, source):
        subprocess.run(
            ["gcc", "-static", "-O2", "-Wall", "-o", str(made), str(source)], check=True
        )
    return made


def empty_object() -> Path:
    """The pair of empty raw tracepoint programs."""
    source, made = _HERE / "empty.bpf.c", _folder() / "empty.bpf.o"
    if _outdated(made, source):
        command = ["clang", "-target", "bpf", "-O2", "-g", "-mcpu=v3"]
        include = f"-I/usr/include/{os.uname().machine}-linux-gnu"
        subprocess.run([*command, include, "-c", str(source), "-o", str(made)], check=True)
    return made
