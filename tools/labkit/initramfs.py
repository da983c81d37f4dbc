"""The first file system of a machine: busybox, the modules that reach the root, one script.

It mounts a root read-only over 9p, or over virtiofs where the kernel has no 9p, and puts a
writable overlay over it: in memory, or on the machine's disk where it has one.  The host's own
root goes on with guest.sh: packages, virtual environment and checkout are simply present.  A root
of its own (labkit.roots) goes on with its systemd, which starts the server of commands as one of
its services; the checkout is at /lab/checkout there.  Nothing that the guest does reaches the
host except by the output folder.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

from labkit.failure import LabError

# Overlay makes the root writable, virtio_console carries the commands.
_ALWAYS = ("virtio_pci", "overlay", "virtio_console")

# What targets are described in, where the kernel has it: a modprobe of its own would take a
# quarter of a second.
_CONFIGFS = "configfs"

_BY_9P = ("9pnet_virtio", "9p")
_BY_VIRTIOFS = ("virtiofs",)

# For a machine with a disk that keeps what it writes; the others do not load them.
_BY_DISK = ("virtio_blk", "ext4")

# cache=loose: the root is read-only, and the host's files hardly change while a machine stands.
# Importing click, psutil, asyncio and sqlite3 takes 1.5 s with it and 2.0 without; the
# second time 1.1 and 1.8.  `lab exec` drops the caches first, to see what was edited.
_INIT = """\
#!/bin/busybox sh
B=/bin/busybox
$B mount -t devtmpfs dev /dev
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
for word in $($B cat /proc/cmdline); do
  case $word in
    lab.script=*) script=${{word#lab.script=}} ;;
    lab.systemd) systemd=1 ;;
    lab.disk) disk=1 ;;
    lab.probe) echo lab-probe-passed >/dev/console; echo o >/proc/sysrq-trigger; $B sleep 60 ;;
  esac
done
{insmods}
share() {{ $B mount -t {mount} "$1" "$2"; }}
share root /host ||
  {{ echo "lab: the host's root cannot be mounted" >/dev/console; exit 1; }}
if [ -n "$disk" ]; then
{disk_insmods}
  $B mount -t ext4 /dev/vda /overlay ||
    {{ echo "lab: the disk cannot be mounted" >/dev/console; exit 1; }}
else
  $B mount -t tmpfs -o mode=755 overlay /overlay
fi
$B mkdir -p /overlay/upper /overlay/work
$B mount -t overlay -o lowerdir=/host,upperdir=/overlay/upper,workdir=/overlay/work root /root ||
  {{ echo "lab: the overlay cannot be mounted" >/dev/console; exit 1; }}
for fs in dev proc sys; do $B mount --move /$fs /root/$fs; done
[ -n "$systemd" ] || exec $B switch_root /root /usr/bin/busybox sh "$script"
release=$($B uname -r)
$B mkdir -p /root/lab/checkout /root/lib/modules/$release
share checkout /root/lab/checkout
share modules /root/lib/modules/$release
$B cp /root/lab/checkout/tools/labkit/lab.service /root/etc/systemd/system/
$B mkdir -p /root/etc/systemd/system/multi-user.target.wants
$B ln -sf ../lab.service /root/etc/systemd/system/multi-user.target.wants/lab.service
exec $B switch_root /root /lib/systemd/systemd
"""

_MOUNT = {
    "9p": "9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose,access=any",
    "virtiofs": "virtiofs -o ro",
}


class _Archive:
    """A cpio archive in the one format that the kernel unpacks ("newc")."""

    def __init__(self) -> None:
        self.octets = bytearray()
        self._inode = 0

    def add(
        self, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        self._inode += 1
        path = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(path), 0)
        self.octets += b"070701" + b"".join(b"%08x" % field for field in fields)
        for part in (path, content):
            self.octets += part
            self.octets += b"\0" * (-len(self.octets) % 4)


def shares(tree: Path, version: str) -> str:
    """The file system by which the kernel unpacked in tree reaches folders of the host."""
    listed = (tree / "lib" / "modules" / version / "modules.dep").read_text()
    return "9p" if "/9p.ko" in listed else "virtiofs"


def modules(tree: Path, version: str) -> tuple[str, ...]:
    """What the kernel unpacked in tree needs to reach its root and its commands."""
    listed = (tree / "lib" / "modules" / version / "modules.dep").read_text()
    described = (_CONFIGFS,) if f"/{_CONFIGFS}.ko" in listed else ()
    return (*_ALWAYS, *described, *(_BY_9P if shares(tree, version) == "9p" else _BY_VIRTIOFS))


def _insmods(archive: _Archive, files: list[Path]) -> str:
    """Put modules into the archive; the lines that load them."""
    lines = []
    for module in files:
        content = module.read_bytes()
        if module.suffix == ".xz":
            content = lzma.decompress(content)
        name = f"modules/{module.name.removesuffix('.xz')}"
        archive.add(name, stat.S_IFREG | 0o644, content)
        lines.append(f"$B insmod /{shlex.quote(name)}")
    return "\n".join(lines)


def module_files(tree: Path, version: str, modules: tuple[str, ...]) -> list[Path]:
    """The files of modules and of their dependencies, in loading order; built-in: none."""
    listed = subprocess.run(
        [
            "modprobe",
            "-C",
            "/var/empty",
            "-d",
            tree,
            "-S",
            version,
            "--show-depends",
            "-a",
            *modules,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        raise LabError(f"{version}: {listed.stderr.strip() or 'modprobe finds no modules'}")
    found = [
        line.removeprefix("insmod ").strip()
        for line in listed.stdout.splitlines()
        if line.startswith("insmod ")
    ]
    return [Path(name) for name in dict.fromkeys(found)]


def build(tree: Path, version: str) -> Path:
    """The initramfs of the kernel unpacked in tree, built when there is none of this recipe."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise LabError("busybox is not installed", hint="run ./tools/setup")
    recipe = hashlib.sha256(Path(__file__).read_bytes() + busybox.encode()).hexdigest()[:16]
    image = tree / f"initramfs-{recipe}"
    if image.exists():
        return image
    archive = _Archive()
    for folder in ("bin", "dev", "proc", "sys", "modules", "host", "overlay", "root"):
        archive.add(folder, stat.S_IFDIR | 0o755)
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.add("bin/busybox", stat.S_IFREG | 0o755, Path(busybox).read_bytes())
    needed = module_files(tree, version, modules(tree, version))
    disk = [file for file in module_files(tree, version, _BY_DISK) if file not in needed]
    init = _INIT.format(
        insmods=_insmods(archive, needed),
        disk_insmods=_insmods(archive, disk),
        mount=_MOUNT[shares(tree, version)],
    )
    archive.add("init", stat.S_IFREG | 0o755, init.encode())
    archive.add("TRAILER!!!", 0)
    part = image.with_name(f"{image.name}.{os.getpid()}")
    part.write_bytes(archive.octets)
    part.rename(image)
    return image
