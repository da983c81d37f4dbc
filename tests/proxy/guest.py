"""An unmodified QEMU guest behind the proxy: its sg_persist, and whom the claims name.

    ./tools/lab run --luns 2 --nexuses 1 --memory 3G --timeout 1500 -- python3 tests/proxy/guest.py

The guest has two disks: the first goes to the proxy alone, the second to a proxy with
qemu-pr-helper behind it.  It runs in the machine's own emulator, so this takes minutes.
"""

from __future__ import annotations

import contextlib
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers import proxy, qemu_helper
from labkit import places
from labkit.initramfs import module_files

from prtrace.proxy.claimlog import ClaimReader

NAME, UUID = "waldi", "5c6f9c4e-0d1f-4c52-8b5b-0c4a5f7d9f11"
MODULES = ("virtio_pci", "virtio_scsi", "sd_mod", "sg")
SECONDS = 1200
ILLEGAL_REQUEST = 5  # sg_persist's exit status
SG_PERSIST = "/usr/bin/sg_persist"
STEPS = (
    "-i -c -H",
    "-o -G -S 0xabc",
    "-o -R -K 0xabc -T 5",
    "-i -k",
    "-i -r",
    "-i -s",
    "-o -P -K 0xabc -S 0xabc -T 5",
    "-o -G -K 0xabc -S 0xabc -Y",  # ALL_TG_PT, which the proxy refuses
    "-o -L -K 0xabc -T 5",
    "-o -C -K 0xabc",
    "-i -k",
)
INIT = """#!/bin/busybox sh
B=/bin/busybox
$B mount -t devtmpfs dev /dev
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
for m in {modules}; do $B insmod /modules/$m; done
n=0
while [ ! -e /dev/sdb ] && [ $n -lt 600 ]; do n=$((n+1)); $B sleep 0.1; done
for d in /dev/sda /dev/sdb; do
{steps}
done
echo FERTIG
$B poweroff -f
"""


def build(folder: Path, tree: Path, release: str) -> Path:
    """The guest's first file system: busybox, sg_persist with its libraries, a few modules."""
    root = folder / "root"
    for name in ("bin", "dev", "proc", "sys", "modules", "lib64", "usr/bin"):
        (root / name).mkdir(parents=True)
    shutil.copy(str(shutil.which("busybox")), root / "bin/busybox")
    shutil.copy(SG_PERSIST, root / SG_PERSIST[1:])
    libraries = subprocess.run(["ldd", SG_PERSIST], capture_output=True, text=True).stdout
    for library in re.findall(r"(/\S+) \(0x", libraries):
        place = root / library[1:]
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.realpath(library), place)
    names = []
    for module in module_files(tree, release, MODULES):
        content = module.read_bytes()
        name = module.name.removesuffix(".xz")
        (root / "modules" / name).write_bytes(
            lzma.decompress(content) if module.suffix == ".xz" else content
        )
        names.append(name)
    # "-n" keeps sg_persist from sending an INQUIRY first, which the proxy has no part in.
    steps = "\n".join(
        f'echo "BEGIN $d {step}"; {SG_PERSIST} -n {step} $d; echo "END $?"' for step in STEPS
    )
    init = root / "init"
    init.write_text(INIT.format(modules=" ".join(names), steps=steps))
    init.chmod(0o755)
    image = folder / "guest.cpio"
    listed = subprocess.run(["find", "."], cwd=root, capture_output=True, check=True).stdout
    with image.open("wb") as file:
        subprocess.run(
            ["busybox", "cpio", "-o", "-H", "newc"],
            cwd=root,
            input=listed,
            stdout=file,
            check=True,
        )
    return image


def run_guest(kernel: Path, image: Path, disks: dict[str, Path]) -> str:
    command = ["qemu-system-x86_64", "-name", f"guest={NAME},debug-threads=on", "-uuid", UUID,
               "-accel", "tcg,thread=single", "-m", "256", "-nodefaults", "-no-reboot",
               "-display", "none", "-serial", "stdio", "-kernel", str(kernel),
               "-initrd", str(image),
               "-append", "console=ttyS0 quiet mitigations=off no_timer_check lpj=4000000 panic=1",
               "-device", "virtio-scsi-pci,id=scsi"]  # fmt: skip
    for number, (disk, helper) in enumerate(disks.items()):
        command += ["-object", f"pr-manager-helper,id=pr{number},path={helper}",
                    "-drive", f"if=none,id=d{number},format=raw,file.driver=host_device,"
                    f"file.filename={disk},file.pr-manager=pr{number}",
                    "-device",
                    f"scsi-block,bus=scsi.0,scsi-id={number},drive=d{number}"]  # fmt: skip
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS
    )
    print(done.stdout, done.stderr)
    return done.stdout


def parse(text: str) -> dict[tuple[str, str, int], tuple[int, str]]:
    found: dict[tuple[str, str, int], tuple[int, str]] = {}
    pattern = r"BEGIN (\S+) (.*?)\r?\n(.*?)END (\d+)"
    for disk, step, output, status in re.findall(pattern, text, re.DOTALL):
        place = sum(1 for key in found if key[:2] == (disk, step))
        found[disk, step, place] = int(status), output
    return found


def octets(dump: str) -> bytes:
    lines = re.findall(r"^\s*0?0\s+((?:[0-9a-f]{2}\s+)+)", dump, re.MULTILINE)
    return bytes.fromhex("".join(lines[0].split())) if lines else b""


def main() -> int:
    units = json.loads(Path(os.environ["LAB_TARGET"]).read_text())["units"]
    nodes = [unit["paths"][0]["block"] for unit in units[:2]]
    release = os.uname().release
    tree = places.kernels() / release
    kernel = tree / "vmlinux"
    host = [
        octets(subprocess.run([SG_PERSIST, "-n", "-i", "-c", "-H", node], capture_output=True,
                              text=True, check=True).stdout)
        for node in nodes
    ]  # fmt: skip
    failed = 0
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        image = build(folder, tree, release)
        runs = [folder / "run0", folder / "run1"]
        for each in runs:
            each.mkdir()
        stack.enter_context(qemu_helper(folder / "helper"))
        stack.enter_context(proxy(folder / "p0", "--run-dir", str(runs[0])))
        stack.enter_context(
            proxy(folder / "p1", "--run-dir", str(runs[1]), "--upstream", str(folder / "helper"))
        )
        text = run_guest(kernel, image, {nodes[0]: folder / "p0", nodes[1]: folder / "p1"})
        found = parse(text)
        for (disk, step, place), (status, _) in found.items():
            if status != (ILLEGAL_REQUEST if "-Y" in step else 0):
                failed += 1
                print(f"FAILED {disk} {step} ({place}): {status}")
        for place, disk in enumerate(("/dev/sda", "/dev/sdb")):
            inside = octets(found.get((disk, STEPS[0], 0), (1, ""))[1])
            wanted = host[place][:2] + bytes((host[place][2] & ~0x0C,)) + host[place][3:]
            print(f"{disk}: host {host[place].hex()}, guest {inside.hex()}")
            if inside != wanted or host[place][2] & 0x0C != 0x0C:
                failed += 1
                print(f"FAILED {disk}: capabilities")
            reader = ClaimReader(runs[place])
            reader.read()
            named = {(claim.guest, claim.uuid) for claim in reader.claims.values()}
            print(f"{disk}: {len(reader.claims)} claims of {named}")
            if named != {(NAME, UUID)} or len(reader.claims) < len(STEPS):
                failed += 1
                print(f"FAILED {disk}: the guest's name")
        if len(found) != 2 * len(STEPS):
            failed += 1
            print(f"FAILED: {len(found)} of {2 * len(STEPS)} commands ran")
    print(f"{len(found)} commands in the guest, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
