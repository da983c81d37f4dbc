"""The Debian archive: the machine's own mirror, the lab's own apt folder.

The mirror's address comes from the machine's apt sources.  The suites are the lab's: kernels come
from releases that the machine itself may not follow.  Signatures are checked; release dates are
not, because a mirror may be a snapshot of the past.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from labkit import places
from labkit.failure import LabError

_HOST_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_RELEASES = ("bookworm", "trixie")
_OWN = ("bookworm", "bookworm-updates")
_FOREIGN = ("bullseye", "bookworm-backports", "trixie-backports")
_NEWER = ("trixie",)
_SECURITY = "bookworm-security"
_ONE_LINE = re.compile(r"^deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)")


@dataclass(frozen=True, slots=True)
class Addresses:
    """The machine's Debian mirrors; security is None where it follows no security suite."""

    archive: str
    security: str | None


def _sources(etc: Path) -> Iterator[tuple[str, str]]:
    """(address, suite) of every binary entry in apt's sources, in both formats."""
    folder = etc / "sources.list.d"
    for file in (etc / "sources.list", *sorted(folder.glob("*.list"))):
        if file.is_file():
            for line in file.read_text().splitlines():
                if entry := _ONE_LINE.match(line):
                    yield entry[1], entry[2]
    for file in sorted(folder.glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", file.read_text()):
            fields: dict[str, str] = {}
            name = ""
            for line in stanza.splitlines():
                if line.startswith("#"):
                    continue
                if line[:1].isspace():
                    fields[name] = f"{fields.get(name, '')} {line.strip()}"
                elif ":" in line:
                    name, _, value = line.partition(":")
                    name = name.lower()
                    fields[name] = value.strip()
            if fields.get("enabled", "yes") == "no":
                continue
            for address in fields.get("uris", "").split():
                for suite in fields.get("suites", "").split():
                    yield address, suite


def addresses(etc: Path = Path("/etc/apt")) -> Addresses:
    """Where this machine gets Debian from; LabError when it follows no Debian release."""
    archive = security = None
    for address, suite in _sources(etc):
        if suite in _RELEASES:
            archive = archive or address
        elif suite.removesuffix("-security") in _RELEASES:
            security = security or address
    if archive is None:
        raise LabError(
            "this machine's apt sources name no Debian release",
            hint="the lab needs a Debian 12 or 13 mirror in the machine's apt sources",
        )
    return Addresses(archive, security)


class Archive:
    """The lab's own view of the archive: lists and downloads of its own, nothing installed.

    newer adds the packages of the next release, under which those of this one disappear.
    """

    def __init__(self, *, newer: bool = False) -> None:
        self._folder = places.cache() / ("apt-newer" if newer else "apt")
        self._foreign = _NEWER if newer else _FOREIGN
        self._keyring = _HOST_KEYRING

    @contextmanager
    def alone(self) -> Iterator[None]:
        """For as long as the lists, a download or the keyring are used: one process at a time.

        Another one's update() takes all three away for a moment.
        """
        with places.locked(self._folder / "lock"):
            yield

    def update(self) -> None:
        """Fetch the package lists; within alone().

        The machine's keyring may be older than the keys of a newer release: the newest keyring
        package of the release that it does know is the trusted way to them.
        """
        for folder in ("state/lists/partial", "cache/archives/partial", "keyring"):
            (self._folder / folder).mkdir(parents=True, exist_ok=True)
        (self._folder / "state/status").touch()
        self._write_sources(_OWN)
        self._apt("apt-get", "update", timeout=600)
        for old in self._folder.glob("*.deb"):
            old.unlink()
        for package in self.download(["debian-archive-keyring"], self._folder):
            unpack(package, self._folder / "keyring")
            package.unlink()
        self._keyring = self._folder / "keyring" / _HOST_KEYRING.relative_to("/")
        self._write_sources((*_OWN, *self._foreign))
        self._apt("apt-get", "update", timeout=600)

    def sources(self, release: str, more: Iterable[str] = ()) -> list[str]:
        """The apt source lines of release, its updates and its security suite; within alone().

        more: names of other suites.
        """
        if not any(self._folder.glob("keyring/**/*.gpg")):
            self.update()
        keyring = self._folder / "keyring" / _HOST_KEYRING.relative_to("/")
        mirror = addresses()
        lines = [
            f"deb [signed-by={keyring}] {mirror.archive} {suite} main"
            for suite in (release, f"{release}-updates", *more)
        ]
        if mirror.security:
            lines.append(f"deb [signed-by={keyring}] {mirror.security} {release}-security main")
        return lines

    def _write_sources(self, suites: tuple[str, ...]) -> None:
        mirror = addresses()
        options = f"[arch=amd64 signed-by={self._keyring}]"
        lines = [f"deb {options} {mirror.archive} {suite} main" for suite in suites]
        if mirror.security:
            lines.append(f"deb {options} {mirror.security} {_SECURITY} main")
        (self._folder / "sources.list").write_text("\n".join(lines) + "\n")
        (self._folder / "apt.conf").write_text(
            f'Dir::State "{self._folder}/state";\n'
            f'Dir::State::status "{self._folder}/state/status";\n'
            f'Dir::Cache "{self._folder}/cache";\n'
            f'Dir::Etc::SourceList "{self._folder}/sources.list";\n'
            'Dir::Etc::SourceParts "-";\n'
            'Acquire::Check-Valid-Until "false";\n'
            'Acquire::Languages "none";\n'
            'Acquire::Retries "3";\n'
            'APT::Architecture "amd64";\n'
            # The folder may belong to one user only, whom apt's own unprivileged user is not.
            'APT::Sandbox::User "root";\n'
            "#clear Acquire::IndexTargets::deb::DEP-11;\n"
            "#clear Acquire::IndexTargets::deb::CNF;\n"
            "#clear APT::Update::Post-Invoke-Success;\n"
        )

    def _apt(self, *command: str, cwd: Path | None = None, timeout: float = 120) -> str:
        done = subprocess.run(
            command,
            env={**os.environ, "APT_CONFIG": str(self._folder / "apt.conf"), "LC_ALL": "C"},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            complaints = [line for line in done.stderr.splitlines() if line.startswith("E:")]
            raise LabError(
                f"{' '.join(command[:2])}: {' '.join(complaints) or done.stderr.strip()}",
                hint=f"the mirror is {addresses().archive}, from the machine's own apt sources",
            )
        return done.stdout

    def names(self, prefix: str) -> list[str]:
        """The names of the packages that begin with prefix."""
        return self._apt("apt-cache", "pkgnames", prefix).split()

    def depends(self, package: str) -> list[str]:
        """The names in the Depends field of package's newest version."""
        for line in self._apt("apt-cache", "show", "--no-all-versions", package).splitlines():
            if line.startswith("Depends:"):
                return re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9+.-]+)", line.partition(":")[2])
        return []

    def download(self, packages: list[str], into: Path) -> list[Path]:
        """Download the newest version of packages; the files."""
        before = set(into.glob("*.deb"))
        self._apt("apt-get", "download", *packages, cwd=into, timeout=1800)
        return sorted(set(into.glob("*.deb")) - before)


def unpack(package: Path, into: Path) -> None:
    """Unpack a package's files, without its scripts."""
    done = subprocess.run(
        ["dpkg-deb", "-x", package, into], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise LabError(f"{package.name}: {done.stderr.strip()}")
