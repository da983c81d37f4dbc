"""What tests in a machine need beside the machine: fetched or built here, kept in the cache.

A test names its needs in its mark: machine(needs=("headers",)) where it runs in a machine,
needs("headers") where it runs here.  Those of all selected tests are met before the first of them
runs (labkit.pytest_machines), so that no test's limit has a download in it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from labkit import foreign, kernels, places, roots
from labkit.failure import LabError

_COMPILER = ("gcc", "-O2", "-Wall", "-Werror", "-static", "-pthread")
_COMPILE_SECONDS = 120
_INSTALL_SECONDS = 1200
_PROGRAMS = {("chromium", "chromium-driver"): ("chromium", "chromedriver"), ("tmux",): ("tmux",)}
"""What packages bring, by which it shows that they are there."""


def program(source: Path) -> Path:
    """The static program that a C file makes, compiled into the cache; LabError where it fails."""
    version = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    built = places.cache() / "programs" / version / source.stem
    with places.locked(built.parent.with_suffix(".lock")):
        if not built.exists():
            built.parent.mkdir(parents=True, exist_ok=True)
            part = built.with_suffix(".part")
            done = subprocess.run(
                [*_COMPILER, "-o", part, source],
                capture_output=True,
                text=True,
                timeout=_COMPILE_SECONDS,
                check=False,
            )
            if done.returncode:
                raise LabError(f"{source} does not compile:\n{done.stderr}")
            part.rename(built)
    return built


def load() -> Path:
    """The program that sends PERSISTENT RESERVE OUT as fast as it can."""
    return program(places.CHECKOUT / "tests" / "lab" / "load.c")


def doors() -> Path:
    """The program that sends a REGISTER by calls that Python does not have (io_uring, …)."""
    return program(places.CHECKOUT / "tests" / "lab" / "doors.c")


def headers(series: str) -> None:
    """The headers that bcc compiles against."""
    if not kernels.find(series).headers:
        kernels.fetch([series], headers=True)


def installed(*packages: str) -> None:
    """Packages that only one test needs, installed here; LabError where that cannot be."""
    with places.locked(places.cache() / "installed.lock"):
        if all(shutil.which(name) for name in _PROGRAMS[packages]):
            return
        done = subprocess.run(
            ["apt-get", "-q", "-y", "--no-install-recommends", "install", *packages],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
            check=False,
        )
    if done.returncode:
        raise LabError(
            f"apt-get could not install {' '.join(packages)}:\n{done.stderr}",
            hint=f"run as root: apt-get install {' '.join(packages)}",
        )


NEEDS: dict[str, Callable[[str], object]] = {
    "headers": headers,
    "fence_scsi": lambda _series: foreign.fence_scsi(),
    "blkpr": lambda _series: foreign.blkpr(),
    "chromium": lambda _series: installed("chromium", "chromium-driver"),
    "tmux": lambda _series: installed("tmux"),
    "promtool": lambda _series: foreign.promtool(),
    "libvirt": lambda _series: roots.root("bookworm", roots.LIBVIRT),
    "prometheus": lambda _series: foreign.prometheus(),
    "sos": lambda _series: foreign.sos(),
    "load": lambda _series: load(),
    "doors": lambda _series: doors(),
}
"""What a test may ask for, and how it is met for a kernel series."""


@functools.cache
def meet(need: str, series: str) -> None:
    """Make one need available in the cache; at once where it is there."""
    try:
        met = NEEDS[need]
    except KeyError:
        raise LabError(f"no need is called {need!r}", hint=f"one of {', '.join(NEEDS)}") from None
    met(series)
