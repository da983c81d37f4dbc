"""Unit attentions at every step, peers that fence, keys that are shared, wrong files.

    ./tools/lab run --kernel 6.1 --luns 2 --nexuses 5 --multipath -- \
        python tests/move/peers.py
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from bed import PEER, SOURCE, THIRD, Bed, K, check, finish, in_child

from prtrace.errors import PrtraceError
from prtrace.linux.units import scan
from prtrace.model import Action, Outcome, ReservationType
from prtrace.move import actions, finishing, savefile, saving
from prtrace.move.handover import Result
from prtrace.move.side import find_sides
from prtrace.move.verdict import Obstacle, Verdict

TYPES = [*ReservationType, None]


def main() -> None:
    bed, other = Bed(0), Bed(1)
    there = bed.make_second_map()
    for held in TYPES:
        attentions(bed, held)
        for step in range(4):
            fenced(bed, held, step)
    fenced_with_paths(bed, there)
    shared_key(bed)
    unreachable(bed)
    verdicts(bed)
    files(bed, other)
    finished(bed)
    two_loads(bed)
    all_or_nothing(bed, other)
    finish()


def refused(what: str, work, words: str) -> None:
    try:
        got: object = work()
    except PrtraceError as error:
        text = f"{error.message} ({error.hint})"
        check(what, words if words in text else text, words)
    else:
        check(what, got, words)


def prepared(bed, held, peer=True):
    bed.reset()
    bed.guest((0,), held, peer=peer)
    return bed.save(bed.paths[0].block)


def attentions(bed, held) -> None:
    what = f"attentions {held}"
    file = prepared(bed, held)
    bed.attend()
    report = bed.load(file, bed.paths[2].block, lambda _lu, _words: bed.attend())
    check(f"{what}: good", report.good, True)
    check(f"{what}: reported", len(report.units[0].attentions), 5)
    bed.is_at(what, (2,), held, peer=True)
    bed.attend()
    check(f"{what}: back", bed.rollback(file, bed.paths[0].block).good, True)
    bed.is_at(f"{what} back", (0,), held, peer=True)


def fenced(bed, held, step) -> None:
    """A peer removes the guest's key: before the load (0), or after its step-th command."""
    what = f"fenced {held} after {step}"
    file = prepared(bed, held)
    calls = []

    def peer() -> None:
        got = bed.send(THIRD, Action.PREEMPT, PEER, K, ReservationType.WERO)
        # Between the PREEMPT and the last REGISTER there is no key K to fence.
        check(f"{what}: peer", got, Outcome.CONFLICT if step == 2 else Outcome.DONE)

    def progress(_lu: str, words: str) -> None:
        if words.startswith(("read", "plan")):
            return
        calls.append(words)
        if len(calls) == step:
            peer()

    if step == 0:
        peer()
    report = bed.load(file, bed.paths[2].block, progress)
    if step == 2:
        check(f"{what}: moved", report.good, True)
        return
    check(f"{what}: result", [unit.end.result for unit in report.units], [Result.FENCED])
    check(f"{what}: exit code", report.exit_code, 24)
    check(f"{what}: keys", bed.lio().keys(), {bed.paths[THIRD].initiator: PEER})
    back = bed.rollback(file, bed.paths[0].block)
    check(f"{what}: rollback", [unit.end.result for unit in back.units], [Result.FENCED])
    check(f"{what}: no return", bed.lio().keys(), {bed.paths[THIRD].initiator: PEER})


def fenced_with_paths(bed, there) -> None:
    for step in (1, 3, 4):
        bed.reset()
        bed.guest(SOURCE, ReservationType.WEAR, peer=True)
        file = bed.save(bed.unit.multipath)
        calls = []

        def progress(_lu: str, words: str, step=step, calls=calls) -> None:
            if words.startswith(("read", "plan")):
                return
            calls.append(words)
            if len(calls) == step:
                bed.send(THIRD, Action.PREEMPT, PEER, K, ReservationType.WERO)

        report = bed.load(file, there, progress)
        results = [unit.end.result for unit in report.units]
        check(f"fenced over paths {step}", results, [Result.FENCED])
        keys = bed.lio().keys()
        check(f"fenced over paths {step}", keys, {bed.paths[THIRD].initiator: PEER})


def shared_key(bed) -> None:
    file = prepared(bed, ReservationType.WERO, peer=False)
    check("third", bed.send(THIRD, Action.REGISTER, 0, K), Outcome.DONE)
    before = bed.lio()
    report = bed.load(file, bed.paths[2].block)
    end = report.units[0].end
    check("shared: result", end.result, Result.REFUSED)
    check("shared: named", bed.paths[THIRD].initiator in end.why, True)
    check("shared: untouched", bed.lio(), before)
    refused("shared: save", lambda: bed.save(bed.paths[0].block), "key on other nexuses")


def unreachable(bed) -> None:
    """The source's paths are gone: the destination needs none of them."""
    file = prepared(bed, ReservationType.EA)
    source, destination = bed.paths[0].block, bed.paths[2].block
    state = Path(f"/sys/class/scsi_device/{bed.paths[0].hctl}/device/state")
    state.write_text("offline\n")
    bed.inventory = scan()
    check("unreachable: loaded", bed.load(file, destination).good, True)
    bed.is_at("unreachable", (2,), ReservationType.EA, peer=True)
    remains = finishing.finish(file, bed.sides(source))[0].remains
    check("unreachable: finish", ["takes commands" in text for text in remains], [True])
    refused("unreachable: rollback", lambda: bed.rollback(file, source), "takes commands")
    refused("unreachable: save", lambda: bed.save(source), "takes commands")
    bed.is_at("unreachable: untouched", (2,), ReservationType.EA, peer=True)
    state.write_text("running\n")
    bed.inventory = scan()
    check("reachable: rollback", bed.rollback(file, source).good, True)
    bed.is_at("reachable: back", (0,), ReservationType.EA, peer=True)


def verdicts(bed) -> None:
    def judged(name):
        sides = bed.sides(name)
        return actions.check(sides, actions.read(sides))[0]

    bed.reset()
    check("clear", judged(bed.paths[0].block).verdict, Verdict.CLEAR)
    bed.guest((0,), ReservationType.WE)
    check("movable", judged(bed.paths[0].sg).verdict, Verdict.MOVABLE)
    got = judged(bed.unit.multipath)
    obstacles = [reason.obstacle for reason in got.reasons]
    check("path without key", obstacles, [Obstacle.PATH_WITHOUT_KEY])
    bed.reset()
    check("SPC-2 RESERVE", bed.nodes[1].pr_out(bytes((0x16, 0, 0, 0, 0, 0)), b"").status, 0)
    got = judged(bed.paths[0].block)
    check("legacy", Obstacle.LEGACY_RESERVE in [each.obstacle for each in got.reasons], True)
    check("legacy: blocked", got.verdict, Verdict.BLOCKED)
    check("SPC-2 RELEASE", bed.nodes[1].pr_out(bytes((0x17, 0, 0, 0, 0, 0)), b"").status, 0)
    bed.guest((0,), ReservationType.WE)
    sides = bed.sides(bed.paths[0].block)
    check("in doubt", actions.check(sides, {})[0].verdict, Verdict.IN_DOUBT)


def files(bed, other) -> None:
    file = prepared(bed, ReservationType.EA)
    destination = bed.paths[2].block
    before = bed.lio()
    text = file.dump()
    check("same", savefile.parse(text), file)
    refused("cut", lambda: savefile.parse(text[:-20]), "not whole JSON")
    refused("edited", lambda: savefile.parse(text.replace('"EA"', '"WE"')), "checksum")
    newer = text.replace("prtrace.save/1", "prtrace.save/2")
    refused("newer", lambda: savefile.parse(newer), "another version")
    wrong = other.paths[2].block
    refused("other LU", lambda: bed.load(file, wrong), "does not speak of")
    own = bed.paths[0].block
    refused("own path", lambda: bed.load(file, own), "source's own")
    old = replace(file, time=file.time - 10**12)
    refused("old", lambda: bed.load(old, destination), "stale")
    check("untouched", bed.lio(), before)
    dry = actions.load(file, bed.sides(destination), replace(bed.options(), dry_run=True))
    check("dry run", (dry.good, len(dry.units[0].planned), bed.lio()), (True, 3, before))


def finished(bed) -> None:
    file = prepared(bed, ReservationType.EARO)
    sides = bed.sides(bed.paths[0].block)
    early = finishing.finish(file, sides)[0]
    check("finish too early", (early.removed, len(early.remains)), ((), 2))
    bed.load(file, bed.paths[2].block)
    done = finishing.finish(file, sides)[0]
    check("finish", (done.removed, done.remains), ((), ()))
    bed.send(0, Action.REGISTER, 0, K)
    late = finishing.finish(file, sides)[0]
    check("finish removes", (len(late.removed), late.remains), (1, ()))
    bed.is_at("finish", (2,), ReservationType.EARO, peer=True)


def two_loads(bed) -> None:
    file = prepared(bed, ReservationType.WE)
    destination = bed.paths[2].block
    refusals = []

    def second(_lu: str, _words: str) -> None:
        status = in_child(
            lambda: refused("at once", lambda: bed.load(file, destination), "is being moved")
        )
        refusals.append(os.waitstatus_to_exitcode(status))

    check("first", bed.load(file, destination, second).good, True)
    check("second", set(refusals), {0})
    bed.is_at("two loads", (2,), ReservationType.WE, peer=True)


def all_or_nothing(bed, other) -> None:
    for each in (bed, other):
        each.reset()
        each.guest((0,), ReservationType.WERO, peer=True)
    names = [bed.paths[0].block, other.paths[0].block]
    sides = find_sides(bed.inventory, names)
    units = actions.read(sides)
    file = saving.save(units, actions.check(sides, units), host="lab")
    other.send(THIRD, Action.PREEMPT, PEER, K, ReservationType.WERO)
    there = find_sides(bed.inventory, [bed.paths[2].block, other.paths[2].block])
    report = actions.load(file, there, bed.options())
    results = {unit.end.result for unit in report.units}
    check("all or nothing", results, {Result.FENCED, Result.REFUSED})
    bed.is_at("all or nothing", (0,), ReservationType.WERO, peer=True)


if __name__ == "__main__":
    main()
