"""What save and load add to a guest's pause, next to QEMU's own two commands by sg_persist.

    ./tools/lab run --kernel 6.1 --luns 64 --nexuses 3 -- python tests/move/bench.py

Times are wall clock of this run, medians; only their ratios mean something.  sg_persist is
a process for each command, as QEMU's are not: the column "in process" sends the same two
commands by SG_IO.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bed import Bed, K, Target, check, finish

from prtrace.host.units import scan
from prtrace.model import Action, Outcome, ReservationType
from prtrace.move import actions, saving
from prtrace.move.actions import MoveOptions
from prtrace.move.side import find_sides

KIND = ReservationType.WERO
ROUNDS = 7


def main() -> None:
    total = len(Target.load(os.environ["LAB_TARGET"]).units)
    beds = [Bed(number) for number in range(total)]
    for count in (1, total):
        measure(beds[:count])
    finish()


def measure(beds: list[Bed]) -> None:
    inventory = scan()
    here = find_sides(inventory, [bed.paths[0].block for bed in beds])
    there = find_sides(inventory, [bed.paths[1].block for bed in beds])
    saves, loads, programs, plain = [], [], [], []
    for _ in range(ROUNDS if len(beds) == 1 else 3):
        state_dir = Path(tempfile.mkdtemp(prefix="move-"))
        prepare(beds)
        # What an agent would hand in; saving then sends nothing.
        units = actions.read(here)
        observed = dict.fromkeys(units, False)
        begun = time.monotonic()
        verdicts = actions.check(here, units)
        file = saving.save(units, verdicts, host="lab", aptpl=observed)
        saves.append(time.monotonic() - begun)
        begun = time.monotonic()
        report = actions.load(file, there, MoveOptions(state_dir=state_dir))
        loads.append(time.monotonic() - begun)
        check("loaded", report.good, True)
        most = max((unit.writes, unit.reads) for unit in report.units)
        check("PR OUT and PR IN of a unit", most, (3, 2))
        prepare(beds)
        programs.append(timed(lambda: side_by_side(by_program, beds)))
        prepare(beds)
        plain.append(timed(lambda: side_by_side(in_process, beds)))
    unit = 1000 / len(beds)
    theirs = statistics.median(programs)
    bare = statistics.median(plain)
    both = statistics.median(saves) + statistics.median(loads)
    print(f"{len(beds)} logical units, ms per unit")
    print(f"  save                        {statistics.median(saves) * unit:8.2f}")
    print(f"  load                        {statistics.median(loads) * unit:8.2f}")
    print(f"  QEMU's two, by sg_persist   {theirs * unit:8.2f}   ratio {both / theirs:.2f}")
    print(f"  QEMU's two, in process      {bare * unit:8.2f}   ratio {both / bare:.2f}")
    print(f"  save and load of all        {both * 1000:8.1f} ms", flush=True)


def timed(work: Callable[[], None]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def side_by_side(work: Callable[[Bed], None], beds: list[Bed]) -> None:
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(work, beds))


def prepare(beds: list[Bed]) -> None:
    for bed in beds:
        bed.send(2, Action.REGISTER_AND_IGNORE, 0, 1)
        bed.send(2, Action.CLEAR, 1)
        bed.drain()
        bed.guest((0,), KIND)


def by_program(bed: Bed) -> None:
    node = bed.paths[1].block
    out = ["sg_persist", "--out"]
    for options in (
        ["--register", f"--param-sark={K:x}"],
        ["--preempt", f"--param-rk={K:x}", f"--param-sark={K:x}", f"--prout-type={int(KIND)}"],
    ):
        subprocess.run([*out, *options, node], check=True, stdout=subprocess.DEVNULL)


def in_process(bed: Bed) -> None:
    check("register", bed.send(1, Action.REGISTER, 0, K), Outcome.DONE)
    check("preempt", bed.send(1, Action.PREEMPT, K, K, KIND), Outcome.DONE)


if __name__ == "__main__":
    main()
