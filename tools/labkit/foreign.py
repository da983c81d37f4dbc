"""Programs that others wrote and tools/setup does not install: fetched once, kept in the cache.

fence-agents depends on 2 GB of libraries for agents that no test uses; the one agent that
speaks PERSISTENT RESERVE needs python3-pexpect and python3-pycurl, which tools/setup installs.
blkpr is newer than Debian 12: it comes from the next release, with that one's C library.
promtool comes with the server of Prometheus.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from labkit import places
from labkit.failure import LabError
from labkit.mirror import Archive, unpack


@dataclass(frozen=True, slots=True)
class FenceScsi:
    """The program fence_scsi, and the folder of the modules that it imports."""

    program: Path
    library: Path

    @property
    def command(self) -> str:
        """How a shell in the lab's machine calls it."""
        return f"PYTHONPATH={self.library} /usr/bin/python3 {self.program}"

    @property
    def key_file(self) -> Path:
        """Where it keeps the node's own key, with which it fences; its "on" writes it.

        The folder is chosen when fence-agents is built, and differs between distributions.
        """
        found = re.search(r'^STORE_PATH = "(.+)"$', self.program.read_text(), re.MULTILINE)
        if found is None:
            raise LabError(f"{self.program} does not say where it keeps the node's key")
        return Path(f"{found[1]}.key")


def _unpacked(name: str, packages: list[str], *, newer: bool = False) -> Path:
    """The folder with the packages' files."""
    folder = places.cache() / "foreign" / name
    with places.locked(folder.with_name(f"{name}.lock")):
        if not folder.exists():
            archive = Archive(newer=newer)
            with archive.alone(), tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
                archive.update()
                part = Path(temporary) / "files"
                part.mkdir()
                for file in archive.download(packages, Path(temporary)):
                    unpack(file, part)
                shutil.move(part, folder)
    return folder


def fence_scsi() -> FenceScsi:
    """Fence_scsi of fence-agents; LabError where it cannot be fetched."""
    folder = _unpacked("fence-agents", ["fence-agents"])
    return FenceScsi(folder / "usr/sbin/fence_scsi", folder / "usr/share/fence")


def blkpr() -> Path:
    """A root directory with /usr/sbin/blkpr and its libraries; LabError where it cannot be."""
    return _unpacked("blkpr", ["util-linux-extra", "libc6"], newer=True)


def promtool() -> Path:
    """The program that checks metrics and alert rules; LabError where it cannot be fetched."""
    return _unpacked("prometheus", ["prometheus"]) / "usr/bin/promtool"


def prometheus() -> Path:
    """The server that scrapes, for a test on loopback; LabError where it cannot be fetched."""
    return _unpacked("prometheus", ["prometheus"]) / "usr/bin/prometheus"


def sos() -> Path:
    """A root directory with sos and what it imports; LabError where it cannot be fetched."""
    return _unpacked("sos", ["sosreport", "python3-magic", "python3-packaging"])
