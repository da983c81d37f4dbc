"""An unmodified QEMU guest behind the proxy: its sg_persist, and whom `prtrace events` names.

    ./tools/lab run --luns 2 --memory 3G --timeout 900 -- python tests/proxy/guest.py \\
        "$(./tools/setup --exec python tests/move/image.py)"

The guest has two disks: the first goes to the proxy alone, the second to a proxy with
qemu-pr-helper behind it.  An agent watches.  What it has on the guest's nexus must be the commands
that were sent, in their order, each by the guest or, before the guest's, by sg_persist here.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import proxy, qemu_helper
from labkit.target import Target, UnitPath

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "move"))

from lab.agent import Agent, cli
from nested import UUID, Guest, capabilities, masked, started

NAME = "waldi"
TITLE = f"(claimed) {NAME}"  # there is no machine scope here that vouches for it
DISKS = ("/dev/sda", "/dev/sdb")
PEER_KEY = "0xdef"
CAPABILITIES = "5e02"


@dataclass(frozen=True)
class Step:
    """options: sg_persist's.  sent: how the CDB begins, "" where the device must not see it.

    words: what the guest must read in the answer.  status: sg_persist's exit status.
    """

    options: str
    sent: str
    words: str = ""
    status: int = 0


ILLEGAL_REQUEST = 5
STEPS = (
    Step("-o -G -S 0xabc", "5f00"),
    Step("-o -R -K 0xabc -T 5", "5f01"),
    Step("-i -k", "5e00", "2 registered reservation keys follow"),
    Step("-i -r", "5e01", "Key=0xabc"),
    Step("-i -s", "5e03", "<< Reservation holder >>"),
    Step(f"-o -P -K 0xabc -S {PEER_KEY} -T 5", "5f04"),
    Step("-i -k", "5e00", "1 registered reservation key follows"),
    Step("-o -G -K 0xabc -S 0xabc -Y", "", status=ILLEGAL_REQUEST),  # ALL_TG_PT
    Step("-o -L -K 0xabc -T 5", "5f02"),
    Step("-i -r", "5e01", "there is NO reservation held"),
    Step("-o -C -K 0xabc", "5f03"),
    Step("-i -k", "5e00", "there are NO registered reservation keys"),
)


def take_steps(guest: Guest, disk: str, path: UnitPath, peer: UnitPath) -> None:
    """The commands; peer registers on the host, so that there is somebody to preempt."""
    real, inside = capabilities(path.block), guest.capabilities(disk)
    assert inside.hex() == masked(real).hex(), f"{disk}: capabilities {real.hex()} in the guest"
    command = ["sg_persist", "-n", "-o", "-G", "-S", PEER_KEY, peer.block]
    subprocess.run(command, check=True, capture_output=True)
    for step in STEPS:
        status, text = guest.sg_persist(step.options, disk)
        assert status == step.status, f"{disk} {step.options}"
        if step.words not in text:
            assert text == step.words, f"{disk} {step.options}: words"


def check_events(disk: str, path: UnitPath, qemu: int, issuer: int) -> None:
    """What `prtrace events` has of the guest's nexus; issuer: who sends the guest's commands."""
    told = cli("events", path.block, "--json")
    events: list[dict[str, Any]] = [json.loads(line) for line in told.stdout.splitlines()]
    ours = [event for event in events if event["nexus"] == path.hctl]
    found = [(event["cdb"][:4], event["status"], event["guest"], event["uuid"],
              event["client_pid"], event["pid"]) for event in ours]  # fmt: skip
    sent = [CAPABILITIES, *(step.sent for step in STEPS if step.sent)]
    wanted = [(cdb, "GOOD", TITLE, UUID, qemu, issuer) for cdb in sent]
    assert found[1:] == wanted, f"{disk}: events of the guest"
    before = [(each[0], *each[2:5]) for each in found[:1]]
    assert before == [(CAPABILITIES, None, None, None)], f"{disk}: the host's own before"
    assert {event["client_comm"][:11] for event in ours[1:]} == {"qemu-system"}, (
        f"{disk}: QEMU sent"
    )
    text = cli("events", path.block, "--last", "1", "-v").stdout
    assert f"guest {TITLE}" in text
    assert str(qemu) in text


def main() -> int:
    units = Target.load(os.environ["LAB_TARGET"]).units[: len(DISKS)]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runs = [folder / "run0", folder / "run1"]
        for each in runs:
            each.mkdir()
        helper = stack.enter_context(qemu_helper(folder / "helper"))
        alone = stack.enter_context(proxy(folder / "p0", "--run-dir", str(runs[0])))
        stack.enter_context(
            proxy(folder / "p1", "--run-dir", str(runs[1]), "--upstream", str(folder / "helper"))
        )
        claims = [word for each in runs for word in ("--claims", str(each))]
        stack.enter_context(Agent("--read-in-doubt", "no", *claims))
        through = [(unit.paths[0].block, folder / f"p{n}") for n, unit in enumerate(units)]
        guest = stack.enter_context(started(folder, NAME, sys.argv[1], *through))
        for disk, unit, issuer in zip(DISKS, units, (alone.pid, helper.pid), strict=True):
            path, peer = unit.paths[:2]
            take_steps(guest, disk, path, peer)
            check_events(disk, path, guest.process.pid, issuer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
