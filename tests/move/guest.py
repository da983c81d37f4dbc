"""An unmodified QEMU guest that reserves, and migrates with tools/migrate-vm.

    ./tools/lab run --luns 1 --nexuses 3 --memory 3G --timeout 1500 -- python tests/move/guest.py

The guest runs in the machine's own emulator, so this takes minutes.  A third nexus tries to write
all the time.  MIGRATE_PYTHON names a Python that has qemu.qmp; PRTRACE the command.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from bed import SOURCE, Bed, check, finish
from labkit import places
from labkit.initramfs import module_files

from prtrace.model import Outcome, ReservationType

KEY = 0x4B4B
SG_PERSIST = "/usr/bin/sg_persist"
MODULES = ("virtio_pci", "virtio_scsi", "sd_mod", "sg")
BOOT_S, STEP_S = 900, 300
# The guest says where it is, and goes on when its own look at the reservation, every few seconds,
# shows what is waited for: it needs no input.
INIT = """#!/bin/busybox sh
B=/bin/busybox
$B mount -t devtmpfs dev /dev
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
for m in {modules}; do $B insmod /modules/$m; done
while [ ! -e /dev/sda ]; do $B sleep 0.1; done
{persist} -n -o -G -S {key:#x} /dev/sda >/dev/null; echo "REGISTER $?"
{persist} -n -o -R -K {key:#x} -T 5 /dev/sda >/dev/null; echo "RESERVE $?"
n=0
while :; do
  n=$((n+1))
  $B dd if=/dev/zero of=/dev/sda bs=4096 count=1 oflag=direct 2>/dev/null
  echo "TICK $n write $?"
  {persist} -n -i -r /dev/sda | $B tr '\\n' ' '
  echo
done
"""


def build(folder: Path, tree: Path) -> Path:
    """The guest's first file system: busybox, sg_persist with its libraries, a few modules."""
    root = folder / "root"
    for name in ("bin", "dev", "proc", "sys", "modules", "lib64", "usr/bin"):
        (root / name).mkdir(parents=True)
    shutil.copy(str(shutil.which("busybox")), root / "bin/busybox")
    shutil.copy(SG_PERSIST, root / SG_PERSIST[1:])
    listed = subprocess.run(["ldd", SG_PERSIST], capture_output=True, text=True, check=True)
    for library in re.findall(r"(/\S+) \(0x", listed.stdout):
        place = root / library[1:]
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.realpath(library), place)
    names = []
    for module in module_files(tree, os.uname().release, MODULES):
        content = module.read_bytes()
        name = module.name.removesuffix(".xz")
        packed = module.suffix == ".xz"
        (root / "modules" / name).write_bytes(lzma.decompress(content) if packed else content)
        names.append(name)
    init = root / "init"
    init.write_text(INIT.format(modules=" ".join(names), persist=SG_PERSIST, key=KEY))
    init.chmod(0o755)
    image = folder / "guest.cpio"
    files = subprocess.run(["find", "."], cwd=root, capture_output=True, check=True).stdout
    with image.open("wb") as file:
        cpio = ["busybox", "cpio", "-o", "-H", "newc"]
        subprocess.run(cpio, cwd=root, input=files, stdout=file, check=True)
    return image


class Qemu:
    """A QEMU with the disk at node; its console goes to a file."""

    def __init__(self, bed: Bed, name: str, node: str, image: Path, *options: str) -> None:
        self.qmp = str(bed.state_dir / f"{name}.qmp")
        self.console = bed.state_dir / f"{name}.console"
        kernel = places.kernels() / os.uname().release / "vmlinux"
        command = ["qemu-system-x86_64", "-name", "guest=waldi", "-M", "pc-i440fx-7.2",
                   "-accel", "tcg,thread=single", "-m", "192", "-nodefaults", "-display", "none",
                   "-serial", f"file:{self.console}", "-kernel", str(kernel),
                   "-initrd", str(image), "-append",
                   "console=ttyS0 quiet mitigations=off no_timer_check lpj=4000000 panic=1",
                   "-qmp", f"unix:{self.qmp},server=on,wait=off",
                   "-device", "virtio-scsi-pci,id=scsi",
                   "-drive", f"if=none,id=d0,format=raw,file.driver=host_device,"
                   f"file.filename={node}",
                   "-device", "scsi-block,bus=scsi.0,drive=d0,share-rw=on"]  # fmt: skip
        self.process = subprocess.Popen([*command, *options], stdin=subprocess.DEVNULL)

    def text(self) -> str:
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def wait_for(self, pattern: str, seconds: float) -> str:
        end = time.monotonic() + seconds
        while not (found := re.findall(pattern, self.text())):
            if time.monotonic() > end or self.process.poll() is not None:
                print(self.text()[-3000:])
                raise SystemExit(f"the guest does not say {pattern}")
            time.sleep(0.2)
        return found[-1]

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def migrate(bed: Bed, source: Qemu, destination: Qemu, fault: str = "") -> int:
    tool = Path(__file__).resolve().parents[2] / "tools" / "migrate-vm"
    here, there = bed.paths[SOURCE[0]].block, bed.paths[SOURCE[1]].block
    python = os.environ.get("MIGRATE_PYTHON", sys.executable)
    command = [python, str(tool), "--source", source.qmp, "--destination", destination.qmp,
               "--uri", f"unix:{bed.state_dir}/migration", "--map", f"{here}={there}",
               "--check=--guest=waldi", here]  # fmt: skip
    env = {**os.environ, "PRTRACE_FAULT": fault, "PRTRACE_SOCKET": "/nowhere"}
    return subprocess.run(command, env=env, timeout=STEP_S * 2).returncode


def main() -> None:
    bed = Bed()
    image = build(bed.state_dir, places.kernels() / os.uname().release)
    here, there = bed.paths[0].block, bed.paths[1].block
    source = Qemu(bed, "source", here, image)
    source.wait_for("TICK 1 write 0", BOOT_S)
    bed.is_at("the guest", (0,), ReservationType.WERO, peer=False)
    outcomes: set[Outcome] = set()
    ended = threading.Event()

    def third() -> None:
        while not ended.is_set():
            outcomes.add(bed.write(2).outcome)

    thread = threading.Thread(target=third)
    thread.start()
    destination = None
    try:
        for fault in ("load:before-step-2", "load:after-step-2", "load:after-step-3"):
            destination = Qemu(bed, f"d{fault[5:]}", there, image, "-incoming", "defer")
            status = migrate(bed, source, destination, fault)
            check(f"{fault}: migrate-vm", status, 1)
            check(f"{fault}: no destination", destination.process.wait(60), 0)
            bed.is_at(fault, (0,), ReservationType.WERO, peer=False)
            before = len(re.findall("TICK", source.text()))
            source.wait_for(f"TICK {before + 2} write 0", STEP_S)
        destination = Qemu(bed, "destination", there, image, "-incoming", "defer")
        check("migrate-vm", migrate(bed, source, destination), 0)
        bed.is_at("moved", (1,), ReservationType.WERO, peer=False)
        destination.wait_for(r"TICK \d+ write 0\s.*Key=0x4b4b.*\s+TICK \d+ write 0", STEP_S)
        check("destination only", source.process.wait(60), 0)
    finally:
        ended.set()
        thread.join(60)
        for each in (source, destination):
            if each is not None:
                each.stop()
    check("the third nexus stayed out", outcomes, {Outcome.CONFLICT})

    finish()


if __name__ == "__main__":
    main()
