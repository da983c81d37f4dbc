"""A guest that has booted already, as a file: QEMU goes on from there in seconds.

It is started here, outside the lab: a boot inside it, an emulator within an emulator, takes
minutes.  The guest has a SCSI adapter and has not looked for disks yet, so it takes any.  It does
what its console says, one line of shell after the other, and answers each with "END STATUS".
"""

from __future__ import annotations

import asyncio
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from labkit import kernels, places
from labkit.initramfs import module_files
from qemu.qmp import QMPClient

SG_PERSIST = "/usr/bin/sg_persist"
BOOT_S = 300
MODULES = ("virtio_pci", "virtio_scsi", "sd_mod", "sg")
# Nobody looks for disks at 256 addresses, and none before SCAN.
OPTIONS = {"scsi_mod.ko": "scan=manual"}
SCAN = 'echo "0 {number} 0" > /sys/class/scsi_host/host0/scan'
# The machine type names the version, so that a snapshot is of one QEMU only.
MACHINE = ("-machine", "pc-i440fx-7.2", "-accel", "tcg,thread=single", "-m", "128",
           "-nodefaults", "-no-user-config", "-display", "none",
           "-device", "virtio-scsi-pci,id=scsi")  # fmt: skip
KERNEL_ARGUMENTS = "console=ttyS0 quiet mitigations=off no_timer_check lpj=4000000 panic=1"
READY = "READY"
INIT = """#!/bin/busybox sh
B=/bin/busybox
export PATH=/bin:/usr/bin
$B mount -t devtmpfs dev /dev
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
{insmods}
$B stty -echo
echo {ready}
while read -r line; do
  eval "$line"
  echo "END $?"
done
"""


def snapshot() -> Path:
    """The file, made once for each recipe, kernel and QEMU; about a minute the first time."""
    kernel = kernels.find("6.1")
    qemu = subprocess.run(
        ["qemu-system-x86_64", "--version"], capture_output=True, check=True
    ).stdout
    recipe = hashlib.sha256(Path(__file__).read_bytes() + qemu + kernel.release.encode())
    file = places.cache() / "guests" / recipe.hexdigest()[:16]
    file.parent.mkdir(exist_ok=True)
    with places.locked(file.with_name("lock")):
        if not file.exists():
            with tempfile.TemporaryDirectory(dir=file.parent) as name:
                folder = Path(name)
                _boot(kernel.image, _initramfs(kernel, folder), folder)
                (folder / "state").rename(file)
    return file


def _initramfs(kernel: kernels.Kernel, folder: Path) -> Path:
    """The guest's file system: busybox, sg_persist with its libraries, a few modules."""
    root = folder / "root"
    for name in ("bin", "dev", "proc", "sys", "modules"):
        (root / name).mkdir(parents=True)
    listed = subprocess.run(["ldd", SG_PERSIST], capture_output=True, text=True, check=True)
    libraries = re.findall(r"(/\S+) \(0x", listed.stdout)
    for file in (SG_PERSIST, *libraries):
        place = root / file[1:]
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.realpath(file), place)
    busybox = root / "bin/busybox"
    shutil.copy(str(shutil.which("busybox")), busybox)
    for name in ("cat", "dd", "grep", "ls", "seq", "sh", "sleep", "tr"):
        (root / "bin" / name).symlink_to("busybox")
    insmods = []
    tree = kernel.modules.parents[2]
    for module in module_files(tree, kernel.release, MODULES):
        content = module.read_bytes()
        name = module.name.removesuffix(".xz")
        packed = module.suffix == ".xz"
        (root / "modules" / name).write_bytes(lzma.decompress(content) if packed else content)
        insmods.append(f"$B insmod /modules/{name} {OPTIONS.get(name, '')}")
    init = root / "init"
    init.write_text(INIT.format(insmods="\n".join(insmods), ready=READY))
    init.chmod(0o755)
    files = subprocess.run(["find", "."], cwd=root, capture_output=True, check=True).stdout
    image = folder / "guest.cpio"
    with image.open("wb") as archive:
        cpio = ["busybox", "cpio", "-o", "-H", "newc"]
        subprocess.run(
            cpio, cwd=root, input=files, stdout=archive, stderr=subprocess.DEVNULL, check=True
        )
    return image


def _boot(kernel: Path, initramfs: Path, folder: Path) -> None:
    """Start the guest and write its state to folder/state when it is ready."""
    process = subprocess.Popen(
        ["qemu-system-x86_64", *MACHINE, "-kernel", kernel, "-initrd", initramfs,
         "-append", KERNEL_ARGUMENTS, *console(folder / "console"),
         "-qmp", f"unix:{folder}/qmp,server=on,wait=off"],
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        end = time.monotonic() + BOOT_S
        while READY not in (folder / "console.out").read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"no guest: {(folder / 'console.out').read_text()[-2000:]}")
            time.sleep(0.1)
        written = migrate(folder / "qmp", f"exec:cat > {folder}/state")
        if not asyncio.run(asyncio.wait_for(written, BOOT_S)):
            raise RuntimeError("the guest's state cannot be written")
    finally:
        process.kill()
        process.wait()


def console(path: Path) -> tuple[str, ...]:
    """QEMU's options for a console: path.in, a FIFO, is what it is told, path.out what it says."""
    os.mkfifo(f"{path}.in")
    Path(f"{path}.out").touch()
    return ("-chardev", f"pipe,id=console,path={path}", "-serial", "chardev:console")


async def migrate(socket: Path, uri: str) -> bool:
    """Have the QEMU at socket migrate there; whether it did, and not failed."""
    client = QMPClient()
    await client.connect(str(socket))
    with client.listener("MIGRATION") as events:
        capabilities = [{"capability": "events", "state": True}]
        await client.execute("migrate-set-capabilities", {"capabilities": capabilities})
        await client.execute("migrate", {"uri": uri})
        while (status := (await events.get())["data"]["status"]) not in ("completed", "failed"):
            pass
    await client.disconnect()
    return bool(status == "completed")


if __name__ == "__main__":
    print(snapshot())
