"""An unmodified QEMU guest behind the proxy: its sg_persist, and whom the claims name.

    ./tools/lab run --luns 2 --memory 3G --timeout 900 -- python tests/proxy/guest.py \\
        "$(./tools/setup --exec python tests/move/image.py)"

The guest has two disks: the first goes to the proxy alone, the second to a proxy with
qemu-pr-helper behind it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

from helpers import proxy, qemu_helper
from labkit.target import Target

from prtrace.proxy.claimlog import ClaimReader

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "move"))

from nested import UUID, capabilities, masked, started

NAME = "waldi"
DISKS = ("/dev/sda", "/dev/sdb")
ILLEGAL_REQUEST = 5  # sg_persist's exit status
# What is asked, its exit status, and what the guest must read in the answer.
STEPS = (
    ("-o -G -S 0xabc", 0, ""),
    ("-o -R -K 0xabc -T 5", 0, ""),
    ("-i -k", 0, "0xabc"),
    ("-i -r", 0, "Key=0xabc"),
    ("-i -s", 0, "<< Reservation holder >>"),
    ("-o -P -K 0xabc -S 0xabc -T 5", 0, ""),
    ("-o -G -K 0xabc -S 0xabc -Y", ILLEGAL_REQUEST, ""),  # ALL_TG_PT, which the proxy refuses
    ("-o -L -K 0xabc -T 5", 0, ""),
    ("-i -r", 0, "there is NO reservation held"),
    ("-o -C -K 0xabc", 0, ""),
    ("-i -k", 0, "there are NO registered reservation keys"),
)


def main() -> int:
    units = Target.load(os.environ["LAB_TARGET"]).units
    nodes = [unit.paths[0].block for unit in units[: len(DISKS)]]
    failures: list[str] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runs = [folder / "run0", folder / "run1"]
        for each in runs:
            each.mkdir()
        stack.enter_context(qemu_helper(folder / "helper"))
        stack.enter_context(proxy(folder / "p0", "--run-dir", str(runs[0])))
        stack.enter_context(
            proxy(folder / "p1", "--run-dir", str(runs[1]), "--upstream", str(folder / "helper"))
        )
        through = ((nodes[0], folder / "p0"), (nodes[1], folder / "p1"))
        guest = stack.enter_context(started(folder, NAME, sys.argv[1], *through))
        for disk, node, run in zip(DISKS, nodes, runs, strict=True):
            real, inside = capabilities(node), guest.capabilities(disk)
            print(f"{disk}: host {real.hex()}, guest {inside.hex()}", flush=True)
            if inside != masked(real):
                failures.append(f"{disk}: capabilities")
            for step, wanted, words in STEPS:
                status, text = guest.sg_persist(step, disk)
                print(f"{disk} {step}: {status}", flush=True)
                if status != wanted or words not in text:
                    failures.append(f"{disk} {step}: {status} {text}")
            reader = ClaimReader(run)
            reader.read()
            named = {(claim.guest, claim.uuid) for claim in reader.claims.values()}
            print(f"{disk}: {len(reader.claims)} claims of {named}")
            if named != {(NAME, UUID)} or len(reader.claims) <= len(STEPS):
                failures.append(f"{disk}: {len(reader.claims)} claims of {named}")
    for failure in failures:
        print("FAILED", failure)
    print(f"{len(DISKS) * (len(STEPS) + 1)} commands in the guest, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
