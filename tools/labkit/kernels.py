"""Debian's kernels, unpacked to CACHE/kernels/<release>/: the bare image and the modules."""

from __future__ import annotations

import lzma
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from labkit import initramfs, places, vmlinux
from labkit.failure import LabError
from labkit.mirror import Archive, unpack

SERIES = ("6.1", "6.12", "7")
"""Every kernel that core is tested on."""

OLD = "5.10"
"""Debian 11's: bcc alone can carry it."""

FLAVOURS = ("6.1-rt", "6.1-cloud", "7-rt", "7-cloud")
"""The same releases, built otherwise."""

# A release has three numbers at least: linux-image-6.12-amd64 depends on the newest kernel.
_RELEASE = re.compile(r"\d+\.\d+\.\d+[^-]*(-\d+)?(-rt|-cloud)?-amd64")

# The modules of a target, its devices and its initiators: loaded in every machine, so
# decompressed once here.
_WANTED = (
    *("configfs", "sd_mod", "sg", "target_core_mod", "target_core_file", "target_core_iblock"),
    *("tcm_loop", "iscsi_target_mod", "iscsi_tcp", "dm_multipath", "dm_round_robin", "dm_mod"),
    "virtio_net",
)


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel: its release as uname -r says it, and the folder that it was unpacked to."""

    release: str
    folder: Path

    @property
    def image(self) -> Path:
        return self.folder / "vmlinux"

    @property
    def modules(self) -> Path:
        """The folder that /lib/modules/<release> is to be."""
        return _modules_root(self.folder) / "lib" / "modules" / self.release

    @property
    def headers(self) -> bool:
        return (self.folder / "usr" / "src" / f"linux-headers-{self.release}").is_dir()

    @property
    def shares(self) -> str:
        """The file system by which it reaches folders of the host: "9p" or "virtiofs"."""
        return initramfs.shares(_modules_root(self.folder), self.release)

    def initramfs(self) -> Path:
        return initramfs.build(_modules_root(self.folder), self.release)


def _modules_root(folder: Path) -> Path:
    """Newer packages keep their modules under usr/."""
    return folder if (folder / "lib" / "modules").is_dir() else folder / "usr"


def numbers(release: str) -> tuple[int, ...]:
    """A release as numbers, for sorting: 6.12.117+deb12-amd64 is (6, 12, 117, 12, 64)."""
    return tuple(int(number) for number in re.findall(r"\d+", release))


def _flavour(name: str) -> str:
    """The "-rt" of 6.1.0-56-rt-amd64 and of the series 6.1-rt; "" of the ordinary flavour."""
    match = re.search(r"-(rt|cloud)(?=-amd64$|$)", name)
    return match[0] if match else ""


def of_series(release: str, series: str) -> bool:
    """Whether a kernel of that release is one of the series ("6.1", "6.1-rt", a whole release)."""
    wanted = numbers(series)
    return numbers(release)[: len(wanted)] == wanted and _flavour(release) == _flavour(series)


def cached() -> list[Kernel]:
    """The kernels that are here, oldest first."""
    found = [
        Kernel(folder.name, folder)
        for folder in places.kernels().glob("*-amd64")
        if (folder / "vmlinux").exists()
    ]
    return sorted(found, key=lambda kernel: numbers(kernel.release))


def find(series: str) -> Kernel:
    """The newest kernel of series ("6.1", "7-rt", a whole release) here; fetched when none is."""
    here = [kernel for kernel in cached() if of_series(kernel.release, series)]
    return here[-1] if here else fetch([series])[0]


def fetch(wanted: list[str], *, headers: bool = False) -> list[Kernel]:
    """Fetch the newest kernel of every series in wanted, with its headers where asked for."""
    with places.locked(places.kernels() / "lock"):
        return _fetch_all(wanted, headers=headers)


def _fetch_all(wanted: list[str], *, headers: bool) -> list[Kernel]:
    archive = Archive()
    with archive.alone():
        _progress("reading the package lists")
        archive.update()
        names = (name.removeprefix("linux-image-") for name in archive.names("linux-image-"))
        releases = [name for name in names if _RELEASE.fullmatch(name)]
        kernels = []
        for series in wanted:
            candidates = [release for release in releases if of_series(release, series)]
            if not candidates:
                raise LabError(f"the mirror has no kernel {series}")
            kernels.append(_fetch(archive, max(candidates, key=numbers), headers=headers))
        return kernels


def _fetch(archive: Archive, release: str, *, headers: bool) -> Kernel:
    kernel = Kernel(release, places.kernels() / release)
    if not kernel.image.exists():
        # Complete or absent: built beside its place, then renamed.
        part = Path(tempfile.mkdtemp(prefix="fetch.", dir=places.kernels()))
        try:
            image = f"linux-image-{release}"
            stem = release.removesuffix("-amd64")
            packages = [image, *(name for name in archive.depends(image) if stem in name)]
            _unpack(archive, packages, part)
            _prepare(part, release)
            part.chmod(0o755)
            part.rename(kernel.folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    if headers and not kernel.headers:
        _unpack(archive, _header_packages(archive, release), kernel.folder)
    return kernel


def _unpack(archive: Archive, packages: list[str], into: Path) -> None:
    _progress(f"downloading {' '.join(packages)}")
    with tempfile.TemporaryDirectory(dir=places.kernels(), prefix="download.") as folder:
        for package in archive.download(packages, Path(folder)):
            unpack(package, into)


def _header_packages(archive: Archive, release: str) -> list[str]:
    """The headers of release, those that all flavours share, and the built tools they link to."""
    found = [f"linux-headers-{release}"]
    wanted = ("linux-headers-", "linux-kbuild-")
    return found + [name for name in archive.depends(found[0]) if name.startswith(wanted)]


def _prepare(folder: Path, release: str) -> None:
    """Make an unpacked kernel ready to start: modules indexed, the image bare."""
    _progress(f"preparing {release}")
    root = _modules_root(folder)
    modules = root / "lib" / "modules" / release
    images = (folder / "boot" / f"vmlinuz-{release}", modules / "vmlinuz")
    image = next((file for file in images if file.exists()), None)
    if image is None:
        raise LabError(f"{release}: the packages hold no kernel image")
    _depmod(root, release)
    packed = [
        file
        for file in initramfs.module_files(
            root, release, (*initramfs.modules(root, release), *_WANTED)
        )
        if file.suffix == ".xz"
    ]
    for file in packed:
        file.with_suffix("").write_bytes(lzma.decompress(file.read_bytes()))
        file.unlink()
    if packed:
        _depmod(root, release)
    vmlinux.extract(image, folder / "vmlinux")


def _depmod(root: Path, release: str) -> None:
    done = subprocess.run(
        ["depmod", "-b", root, release], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise LabError(f"depmod {release}: {done.stderr.strip()}")


def _progress(text: str) -> None:
    print(f"lab: {text}", file=sys.stderr, flush=True)
