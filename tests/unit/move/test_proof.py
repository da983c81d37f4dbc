"""No verb says 0 or "may run" that device and journal do not prove."""

from dataclasses import replace

import pytest
from small_hosts import D1, PEER, S1, Host, K, Target

from prtrace.errors import MalformedError
from prtrace.model import ReservationType
from prtrace.move import savefile
from prtrace.move.word import Word

WE, WERO = ReservationType.WE, ReservationType.WERO


def words(report):
    return [unit.word for unit in report.units]


def pair(target, tmp_path, monkeypatch):
    return (
        Host(target, {"1:0:0:0": S1}, tmp_path / "s", monkeypatch),
        Host(target, {"2:0:0:0": D1}, tmp_path / "d", monkeypatch),
    )


@pytest.mark.parametrize("blind", [False, True])
def test_the_guest_registered_after_the_file_was_saved(tmp_path, monkeypatch, blind):
    target = Target({S1: K}, S1, WE, blind=blind)
    source, there = pair(target, tmp_path, monkeypatch)
    file = source.file(key=None)
    expected = Word.IN_DOUBT if blind else Word.CHANGED
    for report in (
        there.moves().prepare(file),
        there.moves().load(file),
        source.moves().finish(file),
    ):
        assert (words(report), report.may_run) == ([expected], False)
    assert target.log == []


def test_nothing_registered(tmp_path, monkeypatch):
    target = Target({}, blind=True)
    source, there = pair(target, tmp_path, monkeypatch)
    file = source.file(key=None)
    prepared = there.moves().prepare(file)
    assert (words(prepared), prepared.good, prepared.may_run) == ([Word.NO_KEY], True, False)
    assert not prepared.to_json()["units"][0]["may_run"]
    assert there.moves().load(file).may_run
    assert not source.moves().finish(file).may_run
    assert words(there.moves().rollback(file)) == [Word.NOTHING]
    assert words(there.moves().load(file)) == [Word.SUPERSEDED]


def test_an_old_file_without_a_key_is_superseded(tmp_path, monkeypatch):
    source, there = pair(Target({}), tmp_path, monkeypatch)
    old, new = source.file(key=None, order=1), source.file(key=None, order=2)
    assert there.moves().prepare(new).good
    assert words(there.moves().load(old)) == [Word.SUPERSEDED]
    assert there.moves().load(new).may_run


@pytest.mark.parametrize("blind", [False, True])
def test_a_registered_path_that_takes_no_commands(tmp_path, monkeypatch, blind):
    target = Target({S1: K, D1: K, PEER: 0xB}, PEER, WERO, blind=blind)
    source = Host(target, {"1:0:0:0": S1, "1:0:1:0": (S1[0], 2)}, tmp_path, monkeypatch)
    file = source.file(WERO)
    first, second = file.units[0].paths
    unit = replace(file.units[0], paths=(first, replace(second, registered=False)))
    file = replace(file, units=(unit,))
    nexuses = (replace(source.unit.nexuses[0], state="offline"), source.unit.nexuses[1])
    source.unit = replace(source.unit, nexuses=nexuses)
    report = source.moves().finish(file)
    assert any("1:0:0:0" in words for words in report.units[0].remains)
    if blind:
        assert words(report) == [Word.IN_DOUBT]


def test_a_dry_run_reads_the_journal_and_tells_nobody_to_run(tmp_path, monkeypatch):
    target = Target({S1: K}, S1, WERO)
    source, there = pair(target, tmp_path, monkeypatch)
    file = source.file(WERO, held=True)
    never = there.moves(dry_run=True).load(file)
    assert (never.exit_code, never.may_run) == (1, False)
    assert there.moves().prepare(file).good
    sent = len(target.log)
    dry = there.moves(dry_run=True).load(file)
    assert (words(dry), dry.exit_code, dry.may_run) == ([Word.UNTOUCHED], 1, False)
    assert dry.units[0].planned
    assert there.moves().load(file).may_run
    again = there.moves(dry_run=True).load(file)
    assert (words(again), again.exit_code, again.may_run) == ([Word.UNTOUCHED], 1, False)
    assert len(target.log) == sent + 1
    assert words(there.moves(dry_run=True).prepare(file)) == [Word.SUPERSEDED]


def test_a_file_without_units(tmp_path, monkeypatch):
    source, _ = pair(Target({}), tmp_path, monkeypatch)
    with pytest.raises(MalformedError, match="no logical unit"):
        savefile.parse(replace(source.file(), units=()).dump())
