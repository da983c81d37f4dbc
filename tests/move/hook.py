"""The libvirt hook, called as libvirt calls it: name, operation, moment, reason; XML on stdin.

./tools/lab run --nexuses 5 -- python tests/move/hook.py
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from bed import DESTINATION, SOURCE, Bed, K, check, finish

from prtrace.model import Action, ReservationType

HOOK = Path(__file__).resolve().parents[2] / "prtrace" / "libvirt" / "50-prtrace"
WERO = ReservationType.WERO
HERE, THERE = SOURCE[0], DESTINATION[0]
# All that libvirt calls for a guest that starts, migrates (either side), stops and comes back.
OTHERS = (
    ("prepare", "begin", "-"),
    ("start", "begin", "-"),
    ("started", "begin", "-"),
    ("migrate", "begin", "-"),
    ("restore", "begin", "-"),
    ("reconnect", "begin", "-"),
    ("attach", "begin", "-"),
    ("stopped", "end", "-"),
    ("release", "end", "-"),
    ("release", "end", "shutdown"),
    ("release", "end", "destroyed"),
    ("release", "end", "crashed"),
    ("release", "end", "failed"),
)
MIGRATED = ("release", "end", "migrated")
DOMAIN = """<domain type='kvm'>
  <name>{name}</name>
  <devices>
    <disk type='block' device='lun'>
      <driver name='qemu' type='raw'/>
      <source dev='{node}'>
        <reservations managed='yes' migration='no'/>
      </source>
      <target dev='sda' bus='scsi'/>
    </disk>
  </devices>
</domain>
"""
# What a hook that hangs would cost: libvirt waits for it.
SECONDS = 20


class Libvirt:
    """Calls the hook; prtrace is a command on its PATH, as where it is installed."""

    def __init__(self, bed: Bed) -> None:
        self.saved = bed.state_dir / "saved"
        self.saved.mkdir()
        self._node = bed.paths[HERE].block
        program = bed.state_dir / "prtrace"
        program.write_text('#!/bin/sh\nexec python -m prtrace "$@"\n')
        program.chmod(0o755)
        path = f"{bed.state_dir}:{os.environ['PATH']}"
        self._env = {**os.environ, "PATH": path, "PRTRACE_SAVED": str(self.saved)}

    def call(self, guest: str, *arguments: str) -> None:
        what = f"{guest} {arguments}"
        domain = DOMAIN.format(name=guest, node=self._node)
        begun = time.monotonic()
        done = subprocess.run(
            [HOOK, guest, *arguments], input=domain, env=self._env, capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip
        print(what, done.stderr.strip(), flush=True)
        check(f"{what}: status", done.returncode, 0)
        check(f"{what}: says nothing to libvirt", done.stdout, "")
        check(f"{what}: soon", time.monotonic() - begun < SECONDS, True)


def main() -> None:
    bed = Bed()
    libvirt = Libvirt(bed)
    bed.reset()
    bed.guest((HERE,), WERO, peer=True)
    file = bed.save(bed.paths[HERE].block)
    saved = libvirt.saved / "waldi.json"
    saved.write_text(file.dump())

    before = bed.lio()
    for arguments in OTHERS:
        libvirt.call("waldi", *arguments)
    libvirt.call("somebody", *MIGRATED)
    check("nothing was done", (bed.lio(), saved.exists()), (before, True))

    # Nobody loaded it: the hook may not take it away, and says so.
    libvirt.call("waldi", *MIGRATED)
    check("not loaded: untouched", (bed.lio(), saved.exists()), (before, True))

    check("load", bed.load(file, bed.paths[THERE].block).good, True)
    bed.send(HERE, Action.REGISTER, 0, K)
    libvirt.call("waldi", *MIGRATED)
    bed.is_at("migrated", (THERE,), WERO, peer=True)
    check("the file has served", saved.exists(), False)
    finish()


if __name__ == "__main__":
    main()
