"""Which side a host is comes from its journal or from --as, never from addresses."""

import pytest
from small_hosts import D1, LU, S1, Host, K, Target

from prtrace.errors import NoSuchDeviceError, UsageError
from prtrace.model import ReservationType
from prtrace.move.journal import DESTINATION, SOURCE, Entry, Journal
from prtrace.move.word import Word

HCTL = "2:0:0:0"


def unnamed(tmp_path, monkeypatch, *, blind):
    """A source and a destination without port names, and with the same address."""
    target = Target({S1: K}, S1, ReservationType.WE, blind=blind)
    hosts = [
        Host(target, {HCTL: port}, tmp_path / name, monkeypatch, named=False)
        for name, port in (("s", S1), ("d", D1))
    ]
    return target, *hosts


@pytest.mark.parametrize("blind", [False, True])
def test_the_destination_does_not_take_itself_for_the_source(tmp_path, monkeypatch, blind):
    target, source, there = unnamed(tmp_path, monkeypatch, blind=blind)
    file = source.file(ReservationType.WE, held=True)
    assert there.moves().prepare(file).good
    assert there.moves().rollback(file).units[0].word is Word.WITHDRAWN
    assert (target.keys, target.holder) == ({S1: K}, S1)


def test_no_verb_of_the_source_runs_on_the_destination(tmp_path, monkeypatch):
    target, source, there = unnamed(tmp_path, monkeypatch, blind=True)
    file = source.file(ReservationType.WE, held=True)
    with pytest.raises(NoSuchDeviceError):
        there.moves().finish(file)
    assert there.moves().prepare(file).good
    before = len(target.log)
    for verb in (
        there.moves().finish,
        there.moves().release,
        lambda file: there.moves().rollback(file, side="source"),
    ):
        with pytest.raises(UsageError, match="destination"):
            verb(file)
    assert len(target.log) == before


def test_without_a_journal_somebody_must_say_it(tmp_path, monkeypatch):
    target, source, _ = unnamed(tmp_path, monkeypatch, blind=True)
    file = source.file(ReservationType.WE, held=True)
    with pytest.raises(UsageError, match="role is not known"):
        source.moves().rollback(file)
    assert source.moves().rollback(file, side="source").may_run
    assert source.moves().rollback(file).may_run
    assert target.keys == {S1: K}
    with Journal(source.folder, LU) as journal:
        journal.write(Entry(LU, DESTINATION, file.order, file.id), 1)
    with pytest.raises(UsageError, match="both sides"):
        source.moves().rollback(file)


def test_a_source_that_logged_in_anew_stays_the_source(tmp_path, monkeypatch):
    target = Target({D1: K}, D1, ReservationType.WERO)
    source = Host(target, {"1:0:0:0": S1}, tmp_path, monkeypatch)
    file = source.file(ReservationType.WERO, held=True)
    with Journal(tmp_path, LU) as journal:
        journal.write(Entry(LU, SOURCE, file.order, file.id), 1)
    anew = Host(target, {"3:0:0:0": ("iqn.s,i,0x7", 1)}, tmp_path, monkeypatch)
    with pytest.raises(NoSuchDeviceError, match="none of the paths"):
        anew.moves().rollback(file)
    assert target.log == []
