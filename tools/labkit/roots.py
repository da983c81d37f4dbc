"""Debian roots of their own: a release with chosen packages, and nothing of this machine's.

A root is made once of the packages that the machine's mirror gives, by mmdebstrap, and kept in the
cache; what runs in it writes to an overlay: a machine's (labkit.machine), or run's.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
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

QEMU_11 = tuple(
    f"{name}/trixie-backports"
    for name in ("qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios")
)
"""The QEMU that moves a reservation by itself (migrate-pr), for a root of trixie."""

_TIMEOUT_S = 1800

# The root is the lower layer of a file system that is thrown away; the network is not there.
_ENTER = """\
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 work "$WORK"
mkdir "$WORK/upper" "$WORK/work" "$WORK/root"
mount -t overlay -o "lowerdir=$ROOT,upperdir=$WORK/upper,workdir=$WORK/work" root "$WORK/root"
mount -t proc proc "$WORK/root/proc"
mount --bind /dev "$WORK/root/dev"
mkdir -p "$WORK/root/build" "$WORK/root/out"
mount --bind "$OUT" "$WORK/root/out"
cp -a "$SOURCE" "$WORK/root/build/prtrace"
chown -R 0:0 "$WORK/root/build"
ip link set lo up 2>/dev/null || true
chroot "$WORK/root" \\
    /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/build LC_ALL=C.UTF-8 \\
    sh -euc "cd /build/prtrace; $SCRIPT"
"""


def root(release: str, packages: Iterable[str]) -> Path:
    """The folder of a root of release with packages and what they depend on; made when missing.

    A package of another suite is "NAME/SUITE", and so is each that it needs from there.  Raises
    LabError where mmdebstrap fails; its messages are in the error.
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
        with archive.alone():
            _make(archive, release, wanted, part)
        part.rename(made)
    return made


def run(made: Path, script: str, out: Path) -> str:
    """Run script by sh in a copy of a root that is thrown away; returns what it printed.

    It begins in the work tree's files, all that git knows, at /build/prtrace.  /out is the folder
    out, where build.log has what it printed, too.  Raises LabError with the log's end where the
    script fails.
    """
    log = out / "build.log"
    with tempfile.TemporaryDirectory(prefix="prtrace-root-") as folder:
        source, work = Path(folder) / "source", Path(folder) / "work"
        work.mkdir()
        _copy_tree(source)
        with log.open("wb") as written:
            done = subprocess.run(
                ["unshare", "--mount", "--net", "--pid", "--fork", "sh", "-c", _ENTER],
                env={
                    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                    "ROOT": str(made),
                    "SOURCE": str(source),
                    "WORK": str(work),
                    "OUT": str(out),
                    "SCRIPT": script,
                },
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
                timeout=_TIMEOUT_S,
                check=False,
            )
    told = log.read_text(errors="replace")
    if done.returncode:
        tail = "\n".join(told.splitlines()[-40:])
        raise LabError(f"it failed in {made.name}, see {log}\n{tail}")
    return told


def _copy_tree(into: Path) -> None:
    """The files that git knows, as they are in the work tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=places.CHECKOUT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (places.CHECKOUT / name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(places.CHECKOUT / name, into / name)


def _make(archive: Archive, release: str, packages: list[str], into: Path) -> None:
    if shutil.which("mmdebstrap") is None:
        raise LabError("mmdebstrap is not installed", hint="run ./tools/setup")
    suites = {suite for _, _, suite in (name.partition("/") for name in packages) if suite}
    sources = archive.sources(release, sorted(suites))
    done = subprocess.run(
        [
            "mmdebstrap",
            *("--mode=root", "--variant=minbase", "--format=directory"),
            f"--include={','.join(packages)}",
            # The mirror may be a snapshot whose dates are past; signatures are still checked.
            '--aptopt=Acquire::Check-Valid-Until "false"',
            "--aptopt=Apt::Install-Recommends false",
            # The keyring is in a cache that apt's own unprivileged user may not reach: /root is
            # its owner's alone.
            '--aptopt=APT::Sandbox::User "root"',
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
