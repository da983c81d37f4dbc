"""A move of several logical units: of use for all of them or for none."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from small_hosts import D1, LU, PEER, S1, Host, K, Target

from prtrace.errors import DeviceError, NoSuchDeviceError
from prtrace.model import ReservationType
from prtrace.move import savefile, verbs
from prtrace.move.journal import DESTINATION, Journal, store_file, stored_file
from prtrace.move.reading import of_full_status
from prtrace.move.table import Verb
from prtrace.move.word import Word

WERO = ReservationType.WERO
OTHER = LU[:-1] + "b"


class Pair(Host):
    """A host with two units, whose paths have the same ports; `dead` ones do not answer."""

    def __init__(self, targets, nexus, port, folder, monkeypatch):
        super().__init__(targets[0], {nexus: port}, folder, monkeypatch)
        self.targets, self.dead = dict(zip((LU, OTHER), targets, strict=True)), set()
        (first,) = self.unit.nexuses
        second = replace(first, lu=OTHER, nexus=f"{nexus}1", device=f"{first.device}1")
        self.paths[second.nexus] = port
        self.units = {LU: self.unit, OTHER: replace(self.unit, lu=OTHER, nexuses=(second,))}

    def _inventory(self):
        def resolve(name):
            for unit in self.units.values():
                if name in (unit.lu, unit.nexuses[0].device):
                    return SimpleNamespace(lu=unit, nexus=None)
            raise NoSuchDeviceError(name)

        return SimpleNamespace(units=self.units, maps=(), resolve=resolve)

    def moves(self, observer=None, **options):
        moves, host = super().moves(observer, **options), self

        class Paths(verbs.Paths):
            def look(self, other):
                if self.side.lu in host.dead:
                    raise DeviceError("no path answers")
                target = host.targets[self.side.lu]
                own = [path.nexus for path in self.side.paths]
                return of_full_status(
                    target.generation, target.statuses(), own, other, self.side.target
                )

            def send(self, command, *, aptpl):
                return host.targets[self.side.lu].send(host.paths[command.nexus], command)

        self.monkeypatch.setattr(verbs, "Paths", Paths)
        return moves

    def both(self):
        """What save would have written of both units."""
        file = self.file()
        (first,) = file.units
        (path,) = self.units[OTHER].nexuses
        paths = (replace(first.paths[0], nexus=path.nexus, device=path.device),)
        second = replace(first, lu=OTHER, device=path.device, paths=paths)
        return savefile.parse(replace(file, units=(first, second)).dump())


@pytest.fixture
def pair(tmp_path, monkeypatch):
    targets = Target({S1: K}), Target({S1: K})
    return tuple(
        Pair(targets, nexus, port, tmp_path / nexus, monkeypatch)
        for nexus, port in (("1:0:0:0", S1), ("2:0:0:0", D1))
    )


def words(report):
    return {unit.lu: unit.word for unit in report.units}


def test_what_one_unit_does_not_let_run_no_journal_lets_run(pair):
    """P3 for one unit, after a load that another unit kept from being good."""
    source, there = pair
    file = source.both()
    assert there.moves().prepare(file).good
    there.dead.add(OTHER)
    report = there.moves().load(file)
    assert words(report)[OTHER] is Word.IN_DOUBT
    assert not report.may_run
    assert all(not entry.lines.told for entry in there.moves().moves())
    assert all(verbs.next_step(entry) for entry in there.moves().moves())
    # The guest goes on where it was, and changes its key on the unit that was good.
    there.targets[LU].keys[S1] = 0xB
    there.dead.clear()
    report = there.moves().load(file)
    assert (words(report)[LU], report.may_run) == (Word.CHANGED, False)


def test_all_units_let_the_guest_run_at_once(pair):
    source, there = pair
    file = source.both()
    assert there.moves().prepare(file).good
    assert there.moves().load(file).may_run
    assert all(entry.lines.told for entry in there.moves().moves())


def test_the_source_goes_on_with_all_units_or_with_none(pair):
    source, _ = pair
    file = source.both()
    source.dead.add(OTHER)
    report = source.moves().rollback(file, side="source")
    assert (words(report)[OTHER], report.may_run) == (Word.IN_DOUBT, False)
    assert all(not entry.lines.told for entry in source.moves().moves())
    source.dead.clear()
    assert source.moves().rollback(file, side="source").may_run


def test_saving_again_and_again_leaves_one_file(pair):
    source, _ = pair
    target = source.targets[LU]

    def files():
        return sorted(path.stem for path in (source.folder / "move").glob("*.json"))

    for key in range(1, 6):
        target.keys[S1] = key
        target.generation += 1
        saved = source.moves(source.observer()).save([source.unit.nexuses[0].device])
        assert files() == [saved.id]
    # A verb of a move that a newer one took the place of keeps none.
    assert source.moves().release(source.file()).units[0].word is Word.SUPERSEDED
    assert files() == [saved.id]


def test_a_guest_that_registered_on_one_more_unit_goes_on_where_it_was(pair):
    source, there = pair
    file = source.both()
    first, second = file.units
    file = savefile.parse(replace(file, units=(first, replace(second, key=None))).dump())
    there.targets[OTHER].keys.clear()
    assert there.moves().prepare(file).good
    there.targets[OTHER].keys[S1] = 0x77
    assert there.moves().load(file).exit_code == 24
    assert there.moves().rollback(file, side="destination").good
    assert source.moves().rollback(file, side="source", runs=True).good
    report = source.moves().rollback(file, side="source")
    assert (words(report)[OTHER], report.may_run) == (Word.RESTORED_CHANGED, True)


def test_finish_gives_up_what_it_can(pair):
    source, there = pair
    file = source.both()
    first, second = file.units
    file = savefile.parse(replace(file, units=(first, replace(second, key=None))).dump())
    there.targets[OTHER].keys.clear()
    assert there.moves().prepare(file).good
    assert there.moves().load(file).may_run
    there.targets[OTHER].keys[S1] = 0x77
    report = source.moves().finish(file)
    assert words(report) == {LU: Word.DONE, OTHER: Word.CHANGED}
    assert S1 not in source.targets[LU].keys


def test_refused_is_said_only_where_nothing_was_done(pair):
    """The one unit's reservation is taken over, and then the other's key turns up elsewhere."""
    source, there = pair
    for target in source.targets.values():
        target.holder, target.kind = S1, WERO
    file = source.both()
    file = savefile.parse(
        replace(
            file, units=tuple(replace(unit, type=WERO, held=True) for unit in file.units)
        ).dump()
    )
    assert there.moves().prepare(file).good
    second = source.targets[OTHER]

    def late(_lu, _words):
        second.keys[PEER] = K

    for moves in (there.moves(progress=late), there.moves()):  # called again, too
        report = moves.load(file)
        assert Word.THIRD in words(report).values()
        assert Word.COMMITTED in words(report).values()
        assert (report.exit_code, report.may_run) == (4, False)
        assert not any(unit["may_run"] for unit in report.to_json()["units"])


def test_settling_one_unit_leaves_the_file_to_the_other(pair):
    source, there = pair
    file = source.both()

    class KilledError(BaseException):
        pass

    def killed(point):
        if point == "after REGISTER":
            raise KilledError

    for unit in file.units:
        only = replace(file, units=(unit,))
        with pytest.raises(KilledError):
            there.moves(checkpoint=killed).prepare(only)
        # A rollback was begun, and killed as well.
        with Journal(there.folder, unit.lu) as journal:
            entry = journal.entries[DESTINATION]
            journal.write(replace(entry, verb=Verb.WITHDRAW, end=None), 1)
    stored_file(there.folder, file.id).unlink()
    store_file(there.folder, file.id, file.dump())
    settled = there.moves().settle()
    assert [unit.word for report in settled for unit in report.units] == [Word.WITHDRAWN] * 2
    assert all(set(target.keys) == {S1} for target in source.targets.values())
