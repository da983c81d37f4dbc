"""One side of a migration in which QEMU moves the reservation itself, on its own machine.

    python tests/move/own_move.py source ROOT NODE ADDRESS SNAPSHOT
    python tests/move/own_move.py destination ROOT NODE ADDRESS

ROOT has QEMU 11.  The source's guest reserves with type 7 and writes all the time; it migrates to
ADDRESS once FOLDER/go is there.  Either side says in FOLDER/said how far it is, and ends when
FOLDER/end is there.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

from image import migrate
from nested import STEP_S, Emulator, Guest, started

FOLDER = Path("/run/own")
KEY = 0x4B4B
WRITE = "dd if=/dev/zero of=/dev/sda bs=4096 count=1 oflag=direct 2>/dev/null"
WRITER = f"while :; do {WRITE} && echo WRITTEN || echo LOST; sleep 1; done &"


def qemu(root: Path) -> Emulator:
    """The QEMU of root, with this machine's devices and FOLDER.

    The guest's state is of a machine type of before 11.0, for which migrate-pr is off.
    """
    for name in ("dev", "proc", "sys", "run"):
        subprocess.run(["mount", "--rbind", f"/{name}", root / name], check=True)
    return Emulator(("chroot", str(root), "/usr/bin/qemu-system-x86_64"), ",migrate-pr=on")


def say(what: str) -> None:
    with (FOLDER / "said").open("a") as said:
        said.write(f"{what}\n")


def wait_for(name: str) -> None:
    """Wait until somebody makes this file in FOLDER; a test that ends takes the machine along."""
    end = time.monotonic() + 2 * STEP_S
    while not (FOLDER / name).exists():
        if time.monotonic() > end:
            raise AssertionError(f"nobody made {name}")
        time.sleep(0.1)


def source(root: Path, node: str, address: str, snapshot: str) -> None:
    state = FOLDER / "state"
    state.write_bytes(Path(snapshot).read_bytes())
    with started(FOLDER, "waldi", str(state), (node, None), emulator=qemu(root)) as guest:
        for options in (f"-o -G -S {KEY:#x}", f"-o -R -K {KEY:#x} -T 7"):
            status, text = guest.sg_persist(options)
            if status:
                raise AssertionError(f"sg_persist {options}: {status} {text}")
        guest.run(WRITER)
        guest.wait_for("WRITTEN")
        say("reserved")
        wait_for("go")
        moved = migrate(guest.qmp, f"tcp:{address}")
        say("moved" if asyncio.run(asyncio.wait_for(moved, STEP_S)) else "not moved")
        say(f"lost {guest.text().count('LOST')}")
        wait_for("end")


def destination(root: Path, node: str, address: str) -> None:
    with Guest(FOLDER, "waldi", f"tcp:{address}", (node, None), emulator=qemu(root)) as guest:
        guest.wait_until("inmigrate")
        say("waits")
        guest.wait_until("running")
        guest.wait_for("WRITTEN|LOST")
        say("writes" if "LOST" not in guest.text() else "lost")
        wait_for("end")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    side, root, node, address, *rest = sys.argv[1:]
    {"source": source, "destination": destination}[side](Path(root), node, address, *rest)
