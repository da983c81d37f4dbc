"""A disk that is full and journals that are damaged: nothing is lost, and nobody is misled."""

import json
import os

import pytest
from small_hosts import D1, LU, S1, Host, K, Target

from prtrace.errors import MalformedError, StoreError
from prtrace.model import ReservationType
from prtrace.move import savefile
from prtrace.move.journal import DESTINATION, SCHEMA, Entry, Journal
from prtrace.move.lines import Lines, Worth
from prtrace.move.table import Verb
from prtrace.move.verbs import Report
from prtrace.move.word import Word

WERO = ReservationType.WERO
DAMAGED = [
    b"garbage\n",
    b"no whole line",
    b"[" * 100_000 + b"\n",
    b"\xff\xfe\n",
    json.dumps(
        {**Entry("x", "source", 1, "a").to_json(), "schema": SCHEMA, "order": float("inf")}
    ).encode()
    + b"\n",
]


def pair(tmp_path, monkeypatch):
    target = Target({S1: K}, S1, WERO)
    source = Host(target, {"1:0:0:0": S1}, tmp_path / "s", monkeypatch)
    there = Host(target, {"2:0:0:0": D1}, tmp_path / "d", monkeypatch)
    return target, source.file(WERO, held=True), there


def full_after(monkeypatch, lines):
    """From now on the journals' disk has room for so many lines."""
    written, left = os.fdatasync, [lines]

    def sync(fd):
        if left[0] == 0:
            raise OSError(28, "No space left on device")
        left[0] -= 1
        written(fd)

    monkeypatch.setattr(os, "fdatasync", sync)


def test_a_command_whose_end_finds_no_room_on_the_disk_is_in_doubt(tmp_path, monkeypatch):
    target, file, there = pair(tmp_path, monkeypatch)
    # The first line begins the journal and is no append.
    full_after(monkeypatch, 0)
    report = there.moves().prepare(file)
    assert target.keys == {S1: K, D1: K}
    (unit,) = report.units
    assert (unit.word, report.exit_code, len(unit.sent)) == (Word.IN_DOUBT, 4, 1)
    assert "No space left" in unit.why


def test_a_disk_that_is_full_in_the_pause_lets_nobody_run(tmp_path, monkeypatch):
    target, file, there = pair(tmp_path, monkeypatch)
    assert there.moves().prepare(file).good
    full_after(monkeypatch, 1)
    report = there.moves().load(file)
    assert (report.exit_code, report.may_run, target.holder) == (4, False, D1)
    assert len(report.units[0].sent) == 1


@pytest.mark.parametrize("raw", DAMAGED)
def test_a_damaged_journal_stops_its_own_unit_only(tmp_path, monkeypatch, raw):
    _target, file, there = pair(tmp_path, monkeypatch)
    assert there.moves().prepare(file).good
    (tmp_path / "d/move/zz.source.journal").write_bytes(raw)
    moves = there.moves()
    assert [entry.lu for entry in moves.moves()] == [LU]
    (error,) = moves.unreadable()
    assert "aside" not in error.hint
    assert moves.load(file).may_run
    (mine,) = (tmp_path / "d/move").glob("*.destination.journal")
    mine.write_bytes(raw)
    for verb in (moves.prepare, moves.load, moves.rollback):
        with pytest.raises(MalformedError):
            verb(file)


@pytest.mark.parametrize("raw", [None, b"\xff", b"{}"])
def test_what_cannot_be_settled_holds_up_nothing(tmp_path, monkeypatch, raw):
    target, file, there = pair(tmp_path, monkeypatch)
    lines = Lines((("2:0:0:0", Worth.IN_QUESTION),))
    moves = there.moves()
    assert moves.prepare(file).good
    entries = [
        Entry(LU, DESTINATION, file.order, file.id, Verb.PREPARE, None, lines, "/dev/sda"),
        Entry("naa.other", DESTINATION, 1, "cd" * 16, Verb.PREPARE, None, lines, "/dev/sda"),
    ]
    for entry in entries:
        with Journal(tmp_path / "d", entry.lu) as journal:
            journal.write(entry, 1)
    if raw is not None:
        (tmp_path / "d/move" / ("cd" * 16 + ".json")).write_bytes(raw)
    (tmp_path / "d/move/aa.source.journal").write_bytes(b"garbage\n")
    settled = moves.settle()
    kinds = sorted(type(each).__name__ for each in settled)
    other = StoreError if raw is None else MalformedError
    assert kinds == sorted(["MalformedError", other.__name__, "Report"])
    assert next(each for each in settled if isinstance(each, Report)).units
    assert target.keys == {S1: K, D1: K}


@pytest.mark.parametrize(
    ("where", "value"),
    [("generation", float("inf")), ("relative_target_port", float("inf")), ("device", [1])],
)
def test_a_file_that_makes_no_sense_is_refused_though_its_checksum_fits(
    tmp_path, monkeypatch, where, value
):
    _target, file, _there = pair(tmp_path, monkeypatch)
    document = file.to_json()
    unit = document["units"][0]
    (unit if where == "generation" else unit["paths"][0])[where] = value
    document["checksum"] = savefile._checksum(document)
    with pytest.raises(MalformedError):
        savefile.from_document(document)
