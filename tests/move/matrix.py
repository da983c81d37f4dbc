"""Every type, reserved or registered only, over every kind of device: there and back.

    ./tools/lab run --kernel 6.1 --nexuses 5 --multipath -- python3 tests/move/matrix.py

With --sample a few of the cases.  A third node tries to write after every step; while the guest
holds, it must never succeed.  An agent runs beside it that nobody tells anything: what it shows
in the end is held against LIO's own view.
"""

from __future__ import annotations

import sys

from bed import DESTINATION, PEER, SOURCE, THIRD, Agent, Bed, check, finish

from prtrace.model import Action, Outcome, ReservationType
from prtrace.move.handover import Result

HELD = [*ReservationType, None]
SAMPLE = {
    "sd": [ReservationType.WE, ReservationType.WEAR],
    "sg": [ReservationType.EARO],
    "dm": [ReservationType.WERO, ReservationType.EAAR, None],
}


def main() -> None:
    bed = Bed()
    there = bed.make_second_map()
    sample = "--sample" in sys.argv
    with Agent() as agent:
        moves(bed, agent, there, sample=sample)
        bed.is_shown("in the end", agent)
    finish()


def moves(bed: Bed, agent: Agent, there: str, *, sample: bool) -> None:
    kinds = {
        "sd": (bed.paths[0].block, bed.paths[2].block, (0,), (2,)),
        "sg": (bed.paths[0].sg, bed.paths[2].sg, (0,), (2,)),
        "dm": (bed.unit.multipath, there, SOURCE, DESTINATION),
    }
    for kind, (source, destination, at_source, at_destination) in kinds.items():
        for held in SAMPLE[kind] if sample else HELD:
            for peer in (False, True):
                name = f"{kind} {held.name if held else 'registered only'} peer={peer}"
                bed.reset()
                bed.guest(at_source, held, peer=peer)
                trip(bed, agent, name, source, destination, at_source, at_destination, held, peer)
        for held in filter(None, SAMPLE[kind] if sample else HELD):
            peer_holds(bed, kind, held, source, destination, at_source, at_destination)
            bed.is_known(f"{kind} {held.name} of a peer", agent)


def trip(bed, agent, name, source, destination, at_source, at_destination, held, peer) -> None:
    intruder = []

    def third_tries(_lu: str, _words: str) -> None:
        if held is not None and not peer:
            intruder.append(bed.write(THIRD).outcome)

    file = bed.save(source)
    report = bed.load(file, destination, third_tries)
    check(f"{name}: loaded", [unit.end.result for unit in report.units], [Result.MOVED])
    bed.is_at(f"{name}: loaded", at_destination, held, peer=peer)
    bed.is_known(f"{name}: loaded", agent)
    unit = report.units[0]
    check(f"{name}: PR OUT", unit.writes, 2 + len(at_destination))
    check(f"{name}: PR IN", unit.reads, 2)
    check(f"{name}: third stays out", set(intruder) <= {Outcome.CONFLICT}, True)
    check(f"{name}: destination writes", bed.write(at_destination[0]).outcome, Outcome.DONE)
    again = bed.load(file, destination)
    check(f"{name}: again", (again.good, again.units[0].writes), (True, 0))
    back = bed.rollback(file, source)
    check(f"{name}: back", [unit.end.result for unit in back.units], [Result.RESTORED])
    bed.is_at(f"{name}: back", at_source, held, peer=peer)
    bed.is_known(f"{name}: back", agent)
    idle = bed.rollback(file, source)
    check(f"{name}: back again", (idle.good, idle.units[0].writes), (True, 0))
    spent = bed.load(file, destination)
    check(f"{name}: spent", [unit.end.result for unit in spent.units], [Result.TAKEN_BACK])
    bed.is_at(f"{name}: spent", at_source, held, peer=peer)
    bed.is_known(f"{name}: spent", agent)


def peer_holds(bed, kind, held, source, destination, at_source, at_destination) -> None:
    name = f"{kind} {held.name} of a peer"
    bed.reset()
    bed.guest(at_source, None, peer=True)
    check(name, bed.send(THIRD, Action.RESERVE, PEER, 0, held), Outcome.DONE)
    file = bed.save(source)
    # Of an all-registrants reservation that a peer made, the guest is a holder as well.
    check(f"{name}: held", file.units[0].held, held.all_registrants)
    report = bed.load(file, destination)
    check(f"{name}: loaded", report.good, True)
    state = bed.lio()
    if not held.all_registrants:
        check(f"{name}: holder", state.holder, bed.paths[THIRD].initiator)
    wanted = {bed.paths[path].initiator for path in (*at_destination, THIRD)}
    check(f"{name}: registered", set(state.keys()), wanted)
    check(f"{name}: back", bed.rollback(file, source).good, True)
    check(f"{name}: type", bed.lio().type_code, int(held))


if __name__ == "__main__":
    main()
