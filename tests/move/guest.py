"""An unmodified QEMU guest that reserves, and migrates with tools/migrate-vm.

    ./tools/lab run --nexuses 5 --memory 3G --timeout 1500 -- python tests/move/guest.py \
        "$(./tools/setup --exec python tests/move/image.py)" PART...

The first nexus is the source's, the second the destination's; the third tries to write all the
time.  PART: plain, a migration; accidents, the same after every accident, from each of which the
guest goes on on the source; proxies, a migration with prtrace proxy on both sides.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bed import Bed, K, check, finish
from nested import Guest, capabilities, masked, started

from prtrace.model import Outcome, ReservationType

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "proxy"))

from helpers import proxy

HERE, THERE, THIRD = 0, 1, 2
TOOL = Path(__file__).resolve().parents[2] / "tools" / "migrate-vm"
HOST = Path(__file__).with_name("host.sh")
MIGRATE_S = 600
WRITE = "dd if=/dev/zero of=/dev/sda bs=4096 count=1 oflag=direct 2>/dev/null"
# The guest writes whatever happens around it.
WRITER = f"while :; do {WRITE} && echo WRITTEN || echo LOST; sleep 3; done &"
WERO = ReservationType.WERO


@dataclass(frozen=True)
class Accident:
    """fault: where load is killed.  after: the command after which QEMU is.  says: migrate-vm."""

    name: str
    says: str
    fault: str = ""
    after: str = ""
    map_to: str = ""


ACCIDENTS = (
    Accident("dead while it is prepared", "nothing was moved", "prepare:after REGISTER"),
    Accident("dead before the preempt", "rolled back", "load:before PREEMPT", "load"),
    Accident("dead after the preempt", "rolled back", "load:after PREEMPT", "load"),
    Accident("load killed, QEMU alive", "rolled back", "load:after PREEMPT"),
    Accident("prepare refused", "nothing was moved", map_to="/dev/null"),
)


class Migration:
    """One run of tools/migrate-vm."""

    def __init__(self, bed: Bed, source: Guest, there: Guest, accident: Accident) -> None:
        state = bed.state_dir / there.name
        state.mkdir()
        node, other = bed.paths[HERE].block, accident.map_to or bed.paths[THERE].block
        command = [sys.executable, str(TOOL), "--source", str(source.qmp), "--destination",
                   str(there.qmp), "--uri", f"unix:{bed.state_dir}/{there.name}.migration",
                   "--there", "sh -c", "--map", f"{node}={other}",
                   "--guest", source.name, node]  # fmt: skip
        env = {**os.environ, "PRTRACE": f"sh {HOST}", "PRTRACE_SOCKET": "/nowhere",
               "FAULT": accident.fault, "ACCIDENT": accident.after or "none",
               "VICTIM": str(there.process.pid), "STATE": str(state)}  # fmt: skip
        begun = time.monotonic()
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=MIGRATE_S)
        print(done.stdout, done.stderr, sep="")
        print(f"{accident.name}: {time.monotonic() - begun:.0f} s", flush=True)
        self.status = done.returncode
        self.text = done.stdout + done.stderr
        check(f"{accident.name}: no traceback", "Traceback" in self.text, False)


@contextlib.contextmanager
def third(bed: Bed) -> Iterator[None]:
    """A third nexus tries to write, until the with statement ends: always in vain."""
    outcomes: list[Outcome] = []
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(0.05):
            outcomes.append(bed.write(THIRD).outcome)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(60)
    check("the third nexus stayed out", set(outcomes), {Outcome.CONFLICT})
    print(f"the third nexus tried {len(outcomes)} times", flush=True)


def reserve(guest: Guest) -> None:
    check("the guest registers", guest.sg_persist(f"-o -G -S {K:#x}"), (0, ""))
    check("the guest reserves", guest.sg_persist(f"-o -R -K {K:#x} -T {int(WERO)}"), (0, ""))


def holds(bed: Bed, what: str, guest: Guest, path: int) -> None:
    """The guest reads that it holds the reservation, over this path, and can write."""
    bed.is_at(what, (path,), WERO, peer=False)
    status, text = guest.sg_persist("-i -s")
    keys = re.findall(r"Key=(\S+)", text)
    holders = re.findall(r"<< Reservation holder >>.*?type: (.*?)\n.*?0x(\w+)\s", text, re.DOTALL)
    initiator = bed.paths[path].initiator.removeprefix("naa.")
    wanted = (0, [f"{K:#x}"], [("Write Exclusive, registrants only", initiator)])
    check(f"{what}: the guest reads", (status, keys, holders), wanted)
    check(f"{what}: the guest writes", guest.run(WRITE)[0], 0)


def accidents(bed: Bed, source: Guest) -> None:
    for number, accident in enumerate(ACCIDENTS):
        node = bed.paths[THERE].block
        with Guest(bed.state_dir, f"lost{number}", "defer", (node, None)) as there:
            migration = Migration(bed, source, there, accident)
            check(f"{accident.name}: status", migration.status, 1)
            check(f"{accident.name}: says", f"{accident.says}: the guest" in migration.text, True)
            killed = bool(accident.after)
            check(f"{accident.name}: ended", there.process.wait(60), -9 if killed else 0)
        holds(bed, accident.name, source, HERE)


def nobody_there(bed: Bed, source: Guest) -> None:
    """The destination's QMP socket leads nowhere: nothing is begun."""
    accident = Accident("nobody there", "")
    with Guest(bed.state_dir, "gone", "defer", (bed.paths[THERE].block, None)) as there:
        there.wait_until("inmigrate")
    check("nobody there: status", Migration(bed, source, there, accident).status, 1)
    holds(bed, "nobody there", source, HERE)


def moved(bed: Bed, source: Guest, there: Guest) -> None:
    check("migrate-vm", Migration(bed, source, there, Accident("migration", "")).status, 0)
    check("the source has ended", source.process.wait(60), 0)
    holds(bed, "moved", there, THERE)
    for guest in (source, there):
        check(f"{guest.name}: wrote", "WRITTEN" in guest.text(), True)
        check(f"{guest.name}: lost writes", guest.text().count("LOST"), 0)


def plain(bed: Bed, snapshot: str, *before: Callable[[Bed, Guest], None]) -> None:
    node, other = bed.paths[HERE].block, bed.paths[THERE].block
    with (
        started(bed.state_dir, "waldi", snapshot, (node, None)) as source,
        Guest(bed.state_dir, "waldi-there", "defer", (other, None)) as there,
    ):
        reserve(source)
        source.run(WRITER)
        with third(bed):
            holds(bed, "before", source, HERE)
            for part in before:
                part(bed, source)
            moved(bed, source, there)


def after_accidents(bed: Bed, snapshot: str) -> None:
    plain(bed, snapshot, accidents, nobody_there)


def behind_proxies(bed: Bed, snapshot: str) -> None:
    folders = [bed.state_dir / "proxy-here", bed.state_dir / "proxy-there"]
    sockets = [folder / "pr.sock" for folder in folders]
    with contextlib.ExitStack() as stack:
        for folder, socket in zip(folders, sockets, strict=True):
            folder.mkdir()
            stack.enter_context(proxy(socket, "--run-dir", str(folder)))
        node, other = bed.paths[HERE].block, bed.paths[THERE].block
        guest = started(bed.state_dir, "masked", snapshot, (node, sockets[0]))
        source = stack.enter_context(guest)
        guest = Guest(bed.state_dir, "masked-there", "defer", (other, sockets[1]))
        there = stack.enter_context(guest)
        hidden = masked(capabilities(node))
        reserve(source)
        source.run(WRITER)
        with third(bed):
            holds(bed, "masked, before", source, HERE)
            check("masked, before: hidden", source.capabilities(), hidden)
            moved(bed, source, there)
            check("masked, moved: hidden", there.capabilities(), hidden)
        check("the guest clears", there.sg_persist(f"-o -C -K {K:#x}")[0], 0)
    bed.is_at("cleared", (), None, peer=False)


def main() -> None:
    bed = Bed()
    parts = {"plain": plain, "accidents": after_accidents, "proxies": behind_proxies}
    for name in sys.argv[2:]:
        bed.reset()
        parts[name](bed, sys.argv[1])
    finish()


if __name__ == "__main__":
    main()
