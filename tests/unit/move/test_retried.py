"""Verbs that are called again, after others: what was told once is not told for ever."""

import pytest
from small_hosts import D1, PEER, S1, Host, K, Target

from prtrace.model import ReservationType
from prtrace.move.word import Word

WERO, WE, WEAR = ReservationType.WERO, ReservationType.WE, ReservationType.WEAR


def pair(tmp_path, monkeypatch, kind=WERO):
    target = Target({S1: K, PEER: 0xB}, S1, kind)
    source = Host(target, {"1:0:0:0": S1}, tmp_path / "s", monkeypatch)
    there = Host(target, {"2:0:0:0": D1}, tmp_path / "d", monkeypatch)
    return target, source, there, source.file(kind, held=True)


@pytest.mark.parametrize("kind", [WERO, WE])
def test_an_abort_a_load_and_an_abort_leave_one_side_that_may_run(tmp_path, monkeypatch, kind):
    target, source, there, file = pair(tmp_path, monkeypatch, kind)
    assert source.moves().rollback(file, side="source").may_run
    assert there.moves().prepare(file).good
    assert there.moves().load(file).may_run
    assert S1 not in target.keys
    assert source.moves().rollback(file, side="source").may_run
    assert (target.keys, target.holder) == ({S1: K, PEER: 0xB}, S1)
    again = there.moves().load(file)
    assert ([unit.word for unit in again.units], again.may_run) == ([Word.TAKEN_BACK], False)


@pytest.mark.parametrize("kind", [None, WERO, WEAR])
def test_an_abort_is_not_repeated_beside_a_destination_that_went_on(tmp_path, monkeypatch, kind):
    """The guest holds nothing alone, so nothing takes the source's key away."""
    holder = {None: None, WERO: PEER, WEAR: S1}[kind]
    target = Target({S1: K, PEER: 0xB}, holder, kind)
    source = Host(target, {"1:0:0:0": S1}, tmp_path / "s", monkeypatch)
    there = Host(target, {"2:0:0:0": D1}, tmp_path / "d", monkeypatch)
    file = source.file(kind, held=kind is WEAR)
    assert source.moves().rollback(file, side="source").may_run
    assert there.moves().prepare(file).good
    assert there.moves().load(file).may_run
    again = source.moves().rollback(file, side="source")
    assert ([unit.word for unit in again.units], again.may_run) == ([Word.IN_DOUBT], False)
    assert target.keys == {S1: K, D1: K, PEER: 0xB}
    assert there.moves().rollback(file, side="destination").good
    assert source.moves().rollback(file, side="source").may_run
    assert target.keys == {S1: K, PEER: 0xB}


def test_what_somebody_registers_again_is_not_what_was_told_of(tmp_path, monkeypatch):
    """multipathd of either host, between two calls."""
    target, source, there, file = pair(tmp_path, monkeypatch)
    assert source.moves().rollback(file, side="source").may_run
    assert there.moves().prepare(file).good
    assert there.moves().load(file).may_run
    target.keys[S1] = K
    assert source.moves().rollback(file, side="source").may_run
    assert (target.keys, target.holder) == ({S1: K, PEER: 0xB}, S1)
    target.keys[D1] = K
    # Whoever calls load behind an abort has the guest run here; the device keeps the source out.
    assert there.moves().load(file).may_run
    assert (target.keys, target.holder) == ({D1: K, PEER: 0xB}, D1)
