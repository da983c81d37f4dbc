"""Debian roots of their own: a release with chosen packages, and nothing of this machine's.

A root is made once of the packages that the machine's mirror gives, by mmdebstrap, and kept in the
cache; what runs in it writes to an overlay (labkit.machine) or to a copy (tools/package).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from labkit import places
from labkit.failure import LabError
from labkit.mirror import Archive

RELEASES = ("bookworm", "trixie")

SYSTEM = ("systemd", "systemd-sysv", "dbus", "udev", "kmod", "iproute2", "procps", "sg3-utils",
          "python3", "ca-certificates")  # fmt: skip
"""What a machine that starts with systemd has, before anything of prtrace is installed."""

LIBVIRT = ("libvirt-daemon-system", "libvirt-clients", "python3-libvirt", "qemu-system-x86",
           "qemu-utils", "iproute2", "procps", "python3", "python3-click", "python3-construct",
           "python3-psutil", "libbpf1", "sg3-utils", "strace")  # fmt: skip
"""A host with libvirt, and what prtrace depends on."""

_TIMEOUT_S = 1800


def root(release: str, packages: Iterable[str]) -> Path:
    """The folder of a root of release with packages and what they depend on; made when missing.

    Raises LabError where mmdebstrap fails; its messages are in the error.
    """
    if release not in RELEASES:
        raise LabError(f"{release} is none of {', '.join(RELEASES)}")
    wanted = sorted(set(packages))
    recipe = hashlib.sha256(
        "\n".join((Path(__file__).read_text(), release, *wanted)).encode()
    ).hexdigest()[:16]
    folder = places.cache() / "roots"
    made = folder / f"{release}-{recipe}"
    with places.locked(folder / f"{release}-{recipe}.lock"):
        if made.is_dir():
            return made
        part = made.with_name(f"{made.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        archive = Archive()
        _make(archive, release, wanted, part)
        part.rename(made)
    return made


def _make(archive: Archive, release: str, packages: list[str], into: Path) -> None:
    if shutil.which("mmdebstrap") is None:
        raise LabError("mmdebstrap is not installed", hint="run ./tools/setup")
    sources = archive.sources(release)
    done = subprocess.run(
        [
            "mmdebstrap",
            *("--mode=root", "--variant=minbase", "--format=directory"),
            f"--include={','.join(packages)}",
            # The mirror may be a snapshot whose dates are past; signatures are still checked.
            '--aptopt=Acquire::Check-Valid-Until "false"',
            "--aptopt=Apt::Install-Recommends false",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            *(release, str(into), *sources),
        ],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        shutil.rmtree(into, ignore_errors=True)
        told = [line for line in done.stderr.splitlines() if line.startswith(("E:", "W:"))]
        raise LabError(f"mmdebstrap {release}: " + ("\n".join(told[-8:]) or done.stderr[-2000:]))
