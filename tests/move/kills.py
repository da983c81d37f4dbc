"""kill -9 at every point of load and of rollback; then resumed, or rolled back.

./tools/lab run --kernel 6.1 --nexuses 5 --multipath -- python3 tests/move/kills.py [--sample]
"""

from __future__ import annotations

import os
import signal
import sys

from bed import DESTINATION, SOURCE, Bed, check, finish, in_child

from prtrace.model import ReservationType

TYPES = [ReservationType.WE, ReservationType.EARO, ReservationType.WEAR, None]
SAMPLE = [ReservationType.EARO]
STEPS = ("look-1", "step-1", "step-2", "step-3", "look-2", "end")
POINTS = [f"{moment}-{step}" for step in STEPS for moment in ("before", "after")][:-1]
MORE_POINTS = ["before-step-4", "after-step-4"]


def main() -> None:
    bed = Bed()
    there = bed.make_second_map()
    sd = (bed.paths[0].block, bed.paths[2].block, SOURCE[:1], DESTINATION[:1])
    dm = (bed.unit.multipath, there, SOURCE, DESTINATION)
    sample = "--sample" in sys.argv
    for held in SAMPLE if sample else TYPES:
        for sides in (dm,) if sample else (sd, dm):
            points = POINTS + (MORE_POINTS if sides is dm else [])
            # Alone, the guest is the last registrant; with a peer it is not.
            for point in points:
                for peer in (False, True):
                    loaded(bed, sides, held, peer, point, resumed=True)
                    loaded(bed, sides, held, peer, point, resumed=False)
                rolled_back(bed, sides, held, point)
    finish()


def prepared(bed, sides, held, peer):
    bed.reset()
    bed.guest(sides[2], held, peer=peer)
    return bed.save(sides[0])


def killed(what, work, fault) -> None:
    status = in_child(work, fault)
    check(f"{what}: killed", os.WIFSIGNALED(status) and os.WTERMSIG(status), signal.SIGKILL)


def loaded(bed, sides, held, peer, point, *, resumed) -> None:
    source, destination, at_source, at_destination = sides
    what = f"load {held and held.name} {destination} peer={peer} {point} resumed={resumed}"
    file = prepared(bed, sides, held, peer)
    killed(what, lambda: bed.load(file, destination), f"load:{point}")
    if resumed:
        check(f"{what}: good", [unit.end.why for unit in bed.load(file, destination).units], [""])
        bed.is_at(what, at_destination, held, peer=peer)
    else:
        check(f"{what}: good", [unit.end.why for unit in bed.rollback(file, source).units], [""])
        bed.is_at(what, at_source, held, peer=peer)


def rolled_back(bed, sides, held, point) -> None:
    source, destination, at_source, _ = sides
    for load_point in ("after-step-2", "none"):
        what = f"rollback {held and held.name} {destination} {point} load {load_point}"
        file = prepared(bed, sides, held, peer=True)
        in_child(lambda file=file: bed.load(file, destination), f"load:{load_point}")
        killed(what, lambda file=file: bed.rollback(file, source), f"rollback:{point}")
        again = bed.rollback(file, source)
        check(f"{what}: good", [unit.end.why for unit in again.units], [""])
        bed.is_at(what, at_source, held, peer=True)


if __name__ == "__main__":
    main()
