"""Whether KVM works here.

A /dev/kvm that opens is no proof: on some hosts a KVM guest hangs at its first instructions.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from pathlib import Path

from labkit import places
from labkit.kernels import Kernel

# A KVM guest that starts at all starts within two seconds.
_PROBE_SECONDS = 15
_PASSED = b"lab-probe-passed"


def _machine() -> str:
    """What the answer depends on: host kernel, processor, QEMU."""
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line for line in cpus if line.startswith("model name")), "")
    qemu = subprocess.run(
        ["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True
    ).stdout
    return hashlib.sha256(f"{platform.release()}{model}{qemu}".encode()).hexdigest()[:16]


def choose(kernel: Kernel) -> str:
    """ "kvm" where a kernel was seen starting under it on this machine, else "tcg"; asked once."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    answer = places.cache() / "accel" / f"{_machine()}.json"
    if answer.exists():
        return str(json.loads(answer.read_text())["accel"])
    accel = "kvm" if _starts(kernel) else "tcg"
    answer.parent.mkdir(parents=True, exist_ok=True)
    answer.write_text(json.dumps({"accel": accel}))
    return accel


def _starts(kernel: Kernel) -> bool:
    command = [
        *("qemu-system-x86_64", "-machine", "q35", "-accel", "kvm", "-cpu", "host", "-m", "512M"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"),
        *("-kernel", str(kernel.image), "-initrd", str(kernel.initramfs())),
        *("-append", "console=ttyS0 panic=-1 lab.probe"),
    ]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return _PASSED in done.stdout
