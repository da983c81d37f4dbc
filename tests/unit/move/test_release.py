"""A target that cannot hand over: who was told what after a release."""

from small_hosts import D1, DEAF, PEER, S1, Host, K, Target

from prtrace.model import ReservationType
from prtrace.move.word import Word

WE = ReservationType.WE


def prepared(tmp_path, monkeypatch, kind=DEAF):
    target = Target({S1: K, PEER: 0xB}, S1, WE)
    source = Host(target, {"1:0:0:0": S1}, tmp_path / "s", monkeypatch, kind=kind)
    there = Host(target, {"2:0:0:0": D1}, tmp_path / "d", monkeypatch, kind=kind)
    file = source.file(WE, held=True)
    assert there.moves().prepare(file).good
    return target, source, there, file


def words(report):
    return [unit.word for unit in report.units]


def test_a_load_that_was_not_told_of_the_release_is_in_doubt(tmp_path, monkeypatch):
    target, source, there, file = prepared(tmp_path, monkeypatch)
    assert words(source.moves().release(file)) == [Word.RELEASED]
    report = there.moves().load(file)
    assert (words(report), report.may_run) == ([Word.IN_DOUBT], False)
    assert target.kind is None
    # The source may not go on either, until the destination has nothing or is off.
    report = source.moves().rollback(file, side="source")
    assert (words(report), report.may_run) == ([Word.IN_DOUBT], False)
    assert target.kind is None
    assert there.moves().load(file, released=True).may_run
    assert target.holder == D1


def test_a_rollback_of_both_sides_reserves_again(tmp_path, monkeypatch):
    target, source, there, file = prepared(tmp_path, monkeypatch)
    assert source.moves().release(file).good
    assert words(there.moves().rollback(file)) == [Word.WITHDRAWN]
    assert words(source.moves().rollback(file, side="source")) == [Word.RESTORED]
    assert (target.keys, target.holder) == ({S1: K, PEER: 0xB}, S1)


def test_only_a_destination_that_is_off_keeps_its_key(tmp_path, monkeypatch):
    target, source, _there, file = prepared(tmp_path, monkeypatch)
    assert source.moves().release(file).good
    report = source.moves().rollback(file, side="source", destination_is_off=True)
    assert words(report) == [Word.RESTORED_BESIDE]
    assert target.holder == S1


def test_beside_a_destination_that_may_have_run_the_source_is_in_doubt(tmp_path, monkeypatch):
    _target, source, _there, file = prepared(tmp_path, monkeypatch)
    assert words(source.moves().rollback(file, side="source")) == [Word.IN_DOUBT]


def test_what_the_guest_released_meanwhile_is_not_reserved_again(tmp_path, monkeypatch):
    target, _source, there, file = prepared(tmp_path, monkeypatch, kind="LIO-ORG/X/4.0")
    for holder in (None, PEER):
        target.holder, target.kind = holder, None if holder is None else WE
        assert words(there.moves().load(file)) == [Word.IN_DOUBT]
