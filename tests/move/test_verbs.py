"""The verbs on a real kernel and target: types, roles, paths, kills, peers, unit attentions.

The first two nexuses are the source's, the next two the destination's, the fifth a third node's.
What LIO says of its own state is the oracle.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
from lab.agent import cli
from labkit.kernels import SERIES

from move.bed import DESTINATION, PEER, SOURCE, THIRD, Bed, K, dies_at, in_child
from prtrace.errors import MalformedError, UsageError
from prtrace.model import Action, Outcome, ReservationType
from prtrace.move import savefile
from prtrace.move.verdict import Verdict
from prtrace.move.word import Word

pytestmark = [pytest.mark.machine(nexuses=5, multipath=True), pytest.mark.timeout(300)]

HELD = [*ReservationType, None]
WERO = ReservationType.WERO


@pytest.fixture(scope="module")
def bed() -> Bed:
    return Bed()


@pytest.fixture(scope="module")
def there(bed: Bed) -> str:
    return bed.make_second_map()


def words(report) -> list[Word]:
    return [unit.word for unit in report.units]


def guest(bed: Bed, paths, kind, *, peer=True, peer_holds=False) -> None:
    bed.reset()
    bed.guest(paths, None if peer_holds else kind, peer=peer)
    if peer_holds:
        assert bed.send(THIRD, Action.RESERVE, PEER, 0, kind) is Outcome.DONE


def saved(bed: Bed, kind=WERO, paths=(0,), **more):
    guest(bed, paths, kind, **more)
    return bed.save(bed.paths[0].block if len(paths) == 1 else bed.unit.multipath)


def registered(bed: Bed) -> dict[str, int]:
    return bed.lio().keys()


def at(bed: Bed, *paths: int, peer=True) -> dict[str, int]:
    found = {bed.paths[path].initiator: K for path in paths}
    return found | ({bed.paths[THIRD].initiator: PEER} if peer else {})


@pytest.mark.parametrize("peer", [False, True], ids=["alone", "with a peer"])
@pytest.mark.parametrize("held", HELD, ids=lambda kind: kind.name if kind else "none")
@pytest.mark.parametrize("kind", ["sd", "sg", "dm"])
def test_there_and_finished(bed, there, kind, held, peer):
    source, destination, here, paths = {
        "sd": (bed.paths[0].block, bed.paths[2].block, (0,), (2,)),
        "sg": (bed.paths[0].sg, bed.paths[2].sg, (0,), (2,)),
        "dm": (bed.unit.multipath, there, SOURCE, DESTINATION),
    }[kind]
    guest(bed, here, held, peer=peer)
    file = bed.save(source)
    moves = bed.moves()
    assert words(moves.prepare(file, bed.to(destination))) == [Word.PREPARED]
    assert registered(bed) == at(bed, *here, *paths, peer=peer)
    loaded = moves.load(file)
    assert (words(loaded), loaded.may_run) == ([Word.COMMITTED], True)
    single = held is not None and not held.all_registrants
    (unit,) = loaded.units
    # Followers and all registrants need no command in the pause.  What is sent again because the
    # PREEMPT's unit attention was in its way is one command.
    assert len(unit.sent) == (len(paths) if single else 0)
    assert bed.write(paths[0]).outcome is Outcome.DONE
    if held is not None and not peer:
        assert bed.write(THIRD).outcome is Outcome.CONFLICT
    assert words(moves.finish(file)) == [Word.DONE]
    bed.is_at("finished", paths, held, peer=peer)
    # Spent: nothing that comes late does anything.
    before = bed.lio()
    assert moves.load(file).units[0].writes == 0
    assert words(moves.prepare(file, bed.to(destination))) == [Word.SUPERSEDED]
    assert words(moves.rollback(file, side="source")) == [Word.SUPERSEDED]
    assert bed.lio() == before


@pytest.mark.parametrize("held", HELD, ids=lambda kind: kind.name if kind else "none")
@pytest.mark.parametrize("upto", ["save", "prepare", "load"])
def test_and_back(bed, there, held, upto):
    guest(bed, SOURCE, held)
    file = bed.save(bed.unit.multipath)
    moves = bed.moves()
    if upto != "save":
        assert moves.prepare(file, bed.to(there)).good
    if upto == "load":
        assert moves.load(file).good
    report = bed.rollback(file)
    assert (words(report), report.may_run) == ([Word.RESTORED], True)
    bed.is_at("back", SOURCE, held, peer=True)
    # A load that wakes up now sends nothing (A4).
    assert words(moves.load(file, bed.to(there))) == [Word.SUPERSEDED]
    bed.is_at("late load", SOURCE, held, peer=True)


@pytest.mark.parametrize("held", [*ReservationType], ids=lambda kind: kind.name)
def test_a_follower_is_a_follower(bed, there, held):
    file = saved(bed, held, SOURCE, peer_holds=True)
    assert file.units[0].held is held.all_registrants
    report = bed.load(file, there)
    assert words(report) == [Word.COMMITTED]
    assert report.units[0].writes == 0
    assert bed.moves().finish(file).good
    state = bed.lio()
    assert state.type_code == int(held)
    if not held.all_registrants:
        assert state.holder == bed.paths[THIRD].initiator
    assert registered(bed) == at(bed, *DESTINATION)


@pytest.mark.parametrize("held", [ReservationType.EARO, None], ids=["EARO", "none"])
@pytest.mark.parametrize("verb", ["prepare", "load", "finish", "rollback"])
def test_killed_anywhere(bed, there, verb, held):
    for number in range(1, 40):
        file = saved(bed, held, SOURCE)
        moves = bed.moves()
        if verb != "prepare":
            assert moves.prepare(file, bed.to(there)).good
        if verb in ("finish", "rollback"):
            assert moves.load(file).good
        dying = bed.moves(checkpoint=dies_at(number))
        work = {
            "prepare": partial(dying.prepare, file, bed.to(there)),
            "load": partial(dying.load, file),
            "finish": partial(dying.finish, file),
            "rollback": partial(dying.rollback, file, side="source"),
        }[verb]
        status = in_child(work)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        what = f"{verb} killed at checkpoint {number}"
        if verb == "finish" or (verb == "load" and number % 2):
            if verb == "load":
                assert moves.load(file).good, what
            assert moves.finish(file).good, what
            bed.is_at(what, DESTINATION, held, peer=True)
        elif verb == "prepare" and number % 2:
            assert bed.load(file, there).good, what
            bed.is_at(what, (*SOURCE, *DESTINATION) if held is None else DESTINATION, held,
                      peer=True)  # fmt: skip
        else:
            assert bed.rollback(file).may_run, what
            bed.is_at(what, SOURCE, held, peer=True)
        if not killed:
            return
    raise AssertionError(f"{verb} does not end")


@pytest.mark.parametrize("held", [WERO, ReservationType.WEAR, None], ids=str)
@pytest.mark.parametrize("role", ["holds", "follows"])
@pytest.mark.parametrize("moment", ["saved", "prepared", "registering", "loaded"])
def test_fenced_stays_fenced(bed, there, moment, role, held):
    """A1, A1b, A2, G1, G2: whenever a peer fences, no verb brings the guest back."""
    if held is None and role == "follows":
        return
    file = saved(bed, held, SOURCE, peer_holds=role == "follows")
    moves = bed.moves()

    def fence(*_: str) -> None:
        kind = held or WERO
        assert bed.send(THIRD, Action.PREEMPT, PEER, K, kind) is Outcome.DONE

    if moment == "registering":
        # Killed after a REGISTER of the destination went out, and before the look behind it.
        points: list[str] = []

        def checkpoint(point: str) -> None:
            points.append(point)
            if point == "before REGISTER":
                fence()
            if point == "after REGISTER":
                os.kill(os.getpid(), signal.SIGKILL)

        dying = bed.moves(checkpoint=checkpoint)
        assert os.WIFSIGNALED(in_child(lambda: dying.prepare(file, bed.to(there))))
    else:
        if moment != "saved":
            assert moves.prepare(file, bed.to(there)).good
        if moment == "loaded":
            assert moves.load(file).good
        fence()
    for report in (
        moves.prepare(file, bed.to(there)),
        moves.load(file, bed.to(there)),
        moves.rollback(file, side="source"),
    ):
        assert not report.may_run
        assert report.exit_code in (24, 4), words(report)
    moves.rollback(file, side="destination")
    assert registered(bed) == {bed.paths[THIRD].initiator: PEER}


def test_the_key_is_somewhere_at_every_moment(bed, there):
    """A2: configfs, sampled as fast as it goes while guests move."""
    absent: list[dict[str, int]] = []
    stop = threading.Event()
    samples = [0]

    def sample() -> None:
        while not stop.is_set():
            keys = registered(bed)
            samples[0] += 1
            if K not in keys.values():
                absent.append(keys)

    for held in (WERO, None):
        file = saved(bed, held, SOURCE)
        stop.clear()
        watcher = threading.Thread(target=sample)
        watcher.start()
        assert bed.load(file, there).good
        assert bed.moves().finish(file).good
        stop.set()
        watcher.join()
    print(f"{samples[0]} samples")
    assert samples[0] > 10
    assert absent == []


@pytest.mark.parametrize("held", [WERO, ReservationType.EAAR, None], ids=str)
def test_unit_attentions_at_every_step(bed, there, held):
    file = saved(bed, held, SOURCE)
    attend = {"checkpoint": lambda _point: bed.attend()}
    assert bed.load(file, there, **attend).good
    assert bed.moves(**attend).finish(file).good
    bed.is_at("attentions", DESTINATION, held, peer=True)
    bed.drain()


def test_one_file_on_two_destinations(bed):
    """A15: the second one finds the key of the first, which is neither side's."""
    file = saved(bed)
    assert bed.moves().prepare(file, bed.to(bed.paths[2].block)).good
    elsewhere = replace_state(bed)
    report = elsewhere.prepare(file, {bed.unit.lu: bed.paths[3].block})
    assert words(report) == [Word.THIRD]
    assert registered(bed) == at(bed, 0, 2)


def replace_state(bed: Bed):
    """The verbs of another host, with journals of its own."""
    other = Bed()
    return other.moves()


def test_joined_since_it_was_saved(bed):
    """A5: a unit without a key at the time of save is looked at again."""
    bed.reset()
    file = bed.save(bed.paths[0].block)
    destination = bed.to(bed.paths[2].block)
    assert words(bed.moves().load(file, destination)) == [Word.NO_KEY]
    bed.guest((0,), WERO)
    report = bed.moves().load(file, destination)
    assert (words(report), report.exit_code) == ([Word.CHANGED], 24)
    assert words(bed.moves().finish(file)) == [Word.CHANGED]


def test_load_without_prepare_needs_the_files_generation(bed):
    file = saved(bed)
    destination = bed.to(bed.paths[2].block)
    assert bed.send(THIRD, Action.REGISTER, PEER, PEER) is Outcome.DONE
    assert words(bed.moves().load(file, destination)) == [Word.NOT_PREPARED]
    file = bed.save(bed.paths[0].block)
    assert words(bed.moves().load(file, destination)) == [Word.COMMITTED]
    bed.is_at("loaded", (2,), WERO, peer=True)


def test_a_peers_persistence_survives_the_guests_move(bed, there):
    """A6: the newest REGISTER's APTPL counts for the whole unit."""
    from prtrace.scsi.cdb import PrOutCdb
    from prtrace.scsi.parameter import BasicList

    guest(bed, SOURCE, WERO)
    cdb = PrOutCdb(Action.REGISTER).build()
    bed.nodes[THIRD].send(cdb, BasicList(PEER, PEER, aptpl=True).build())
    file = bed.save(bed.unit.multipath)
    persists = Path(bed.unit.directory, "pr", "res_aptpl_active")
    assert "Activated" in persists.read_text()
    assert bed.load(file, there).good
    assert bed.moves().finish(file).good
    assert "Activated" in persists.read_text()


def test_an_older_move_is_spent(bed):
    """A7: A to B, then back, then what belongs to the first move comes late."""
    first = saved(bed)
    assert bed.load(first, bed.paths[2].block).good
    assert bed.moves().finish(first).good
    second = bed.save(bed.paths[2].block)
    assert second.order > first.order
    assert bed.load(second, bed.paths[0].block).good
    assert bed.moves().finish(second).good
    before = bed.lio()
    for late in (
        bed.moves().finish(first),
        bed.moves().rollback(first, side="source"),
        bed.moves().load(first, bed.to(bed.paths[2].block)),
    ):
        assert words(late) == [Word.SUPERSEDED]
    assert bed.lio() == before


def test_a_dead_path_costs_another_path(bed, there):
    """A8, A9: an offline path is named; the other one carries the move."""
    file = saved(bed, WERO, SOURCE)
    state = Path(f"/sys/class/scsi_device/{bed.paths[2].hctl}/device/state")
    state.write_text("offline\n")
    try:
        report = bed.load(file, there)
        assert words(report) == [Word.COMMITTED]
        assert any("takes no commands" in each for each in report.units[0].remains)
        bed.is_at("one path", (3,), WERO, peer=True)
    finally:
        state.write_text("running\n")
    assert bed.rollback(file).may_run
    bed.is_at("back", SOURCE, WERO, peer=True)


def test_the_destination_is_off(bed):
    """A follower's destination keeps the key: in doubt, until somebody proves that it is off."""
    file = saved(bed, peer_holds=True)
    assert bed.load(file, bed.paths[2].block).good
    moves = bed.moves()
    assert words(moves.rollback(file, side="source")) == [Word.IN_DOUBT]
    report = moves.rollback(file, side="source", destination_is_off=True)
    assert (words(report), report.may_run) == ([Word.RESTORED_BESIDE], True)
    assert registered(bed) == at(bed, 0, 2)


def test_release_for_targets_that_cannot_hand_over(bed):
    file = saved(bed, ReservationType.EA)
    moves = bed.moves(hands_over=False)
    assert moves.prepare(file, bed.to(bed.paths[2].block)).good
    assert words(moves.load(file)) == [Word.TARGET]
    assert words(moves.release(file)) == [Word.RELEASED]
    assert words(moves.load(file, released=True)) == [Word.COMMITTED]
    assert moves.finish(file).good
    bed.is_at("reserved", (2,), ReservationType.EA, peer=True)


def test_what_is_in_question_is_settled(bed, there):
    """What an agent does when it starts."""
    for fenced in (False, True):
        file = saved(bed, None, SOURCE)

        def checkpoint(point: str) -> None:
            if point == "after REGISTER":
                os.kill(os.getpid(), signal.SIGKILL)

        dying = bed.moves(checkpoint=checkpoint)
        assert os.WIFSIGNALED(in_child(lambda d=dying, f=file: d.prepare(f, bed.to(there))))
        (entry,) = [each for each in bed.moves().moves() if each.lines.in_question]
        assert entry.move == file.id
        if fenced:
            assert bed.send(0, Action.PREEMPT, K, K, WERO) is not None
            bed.send(THIRD, Action.PREEMPT, PEER, K, WERO)
            # The revived registration of a REGISTER that was on its way when the peer fenced.
            bed.send(2, Action.REGISTER, 0, K)
        bed.moves().settle()
        assert not [each for each in bed.moves().moves() if each.lines.in_question]
        if fenced:
            assert registered(bed) == {bed.paths[THIRD].initiator: PEER}
        else:
            assert bed.rollback(file).may_run


def test_files_that_are_refused(bed):
    file = saved(bed, ReservationType.EA)
    before = bed.lio()
    text = file.dump()
    assert savefile.parse(text) == file
    for wrong in (text[:-20], text.replace('"EA"', '"WE"'), text.replace("save/2", "save/9")):
        with pytest.raises(MalformedError):
            savefile.parse(wrong)
    with pytest.raises(UsageError, match="source's own"):
        bed.moves().load(file, bed.to(bed.paths[0].block))
    other = replace(file, units=(replace(file.units[0], lu="naa.5"),))
    with pytest.raises(Exception, match=r"naa\.5"):
        bed.moves().load(other)
    dry = bed.moves(dry_run=True).prepare(file, bed.to(bed.paths[2].block))
    assert (words(dry), dry.good, len(dry.units[0].planned)) == ([Word.UNTOUCHED], True, 1)
    assert bed.lio() == before


def test_verdicts(bed):
    bed.reset()
    (clear,) = bed.moves().check([bed.paths[0].block])
    assert clear.verdict is Verdict.CLEAR
    bed.guest((0,), ReservationType.WE, peer=True)
    (movable,) = bed.moves().check([bed.unit.multipath])
    assert movable.verdict is Verdict.MOVABLE
    assert any("is not registered" in note for note in movable.notes)
    assert bed.send(THIRD, Action.REGISTER, PEER, K) is Outcome.DONE
    (blocked,) = bed.moves().check([bed.paths[0].block])
    assert blocked.verdict is Verdict.BLOCKED
    bed.send(THIRD, Action.REGISTER, K, PEER)


class TestCommands:
    """As a user gives them, without an agent."""

    def run(self, bed: Bed, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = cli(*arguments, socket=Path("/nowhere"))
        print("$ prtrace", *arguments, f"[{done.returncode}]\n{done.stdout}{done.stderr}")
        return done

    def test_a_move(self, bed, there, tmp_path):
        guest(bed, SOURCE, WERO)
        state = ("--state-dir", str(bed.state_dir))
        file = str(tmp_path / "db1.json")
        assert self.run(bed, "check", bed.unit.multipath).returncode == 0
        assert self.run(bed, "save", bed.unit.multipath, "-o", file, *state).returncode == 0
        mapping = ("--device", f"{bed.unit.lu}={there}")
        assert self.run(bed, "prepare", file, *mapping, *state).returncode == 0
        listed = self.run(bed, "moves", *state)
        assert listed.returncode == 4
        assert "prtrace load" in listed.stdout
        loaded = self.run(bed, "load", file, "--json", *state)
        assert loaded.returncode == 0
        document = json.loads(loaded.stdout)
        schema = json.loads((resources.files("prtrace") / "schema/move.2.json").read_text())
        jsonschema.validate(document, schema)
        assert document["may_run"] is True
        finished = self.run(bed, "finish", file, *state)
        assert finished.returncode == 0
        assert self.run(bed, "moves", *state).returncode == 0
        late = self.run(bed, "rollback", file, "--as", "source", *state)
        assert late.returncode == 24
        bed.is_at("commands", DESTINATION, WERO, peer=True)
        assert self.run(bed, "load", "/nowhere.json", *state).returncode == 1


@pytest.mark.slow
@pytest.mark.machine(kernels=[each for each in SERIES if each != "6.1"], nexuses=5, multipath=True)
@pytest.mark.timeout(900)
def test_elsewhere(bed, there):
    """Every type, there and back, on the other kernels."""
    for held in HELD:
        file = saved(bed, held, SOURCE)
        assert bed.load(file, there).good
        assert bed.rollback(file).may_run
        bed.is_at("back", SOURCE, held, peer=True)
        file = bed.save(bed.unit.multipath)
        assert bed.load(file, there).good
        assert bed.moves().finish(file).good
        bed.is_at("moved", DESTINATION, held, peer=True)
