"""A verb whose output nobody takes goes on to its end, and its exit status is the end's."""

from __future__ import annotations

import os
import sys

import pytest
from small_hosts import D1, S1, Host, K, Target

from prtrace.cli import carrying
from prtrace.cli import save as save_command
from prtrace.cli.main import main
from prtrace.model import ReservationType
from prtrace.move.word import Word

WERO = ReservationType.WERO


def lost(*_: object) -> None:
    raise BrokenPipeError(32, "Broken pipe")


def pair(tmp_path, monkeypatch):
    target = Target({S1: K}, S1, WERO)
    source = Host(target, {"1:0:0:0": S1}, tmp_path / "s", monkeypatch)
    there = Host(target, {"2:0:0:0": D1}, tmp_path / "d", monkeypatch)
    return target, source.file(WERO, held=True), there


def test_progress_that_nobody_reads_keeps_no_verb_from_its_end(tmp_path, monkeypatch):
    target, file, there = pair(tmp_path, monkeypatch)
    report = there.moves(progress=lost).prepare(file)
    assert [unit.word for unit in report.units] == [Word.PREPARED]
    (entry,) = there.moves().moves()
    assert (entry.end, entry.lines.in_question) == (Word.PREPARED, ())
    assert there.moves(progress=lost).load(file).may_run
    assert target.holder == D1


@pytest.mark.parametrize("json", [[], ["--json"]], ids=["text", "JSON"])
def test_a_log_on_a_full_disk_changes_no_exit_status(tmp_path, monkeypatch, capfd, json):
    target, file, there = pair(tmp_path, monkeypatch)
    path = tmp_path / "file.json"
    path.write_text(file.dump())
    monkeypatch.setattr(carrying, "Moves", lambda how: there.moves(**options_of(how)))
    arguments = [str(path), "--state-dir", str(there.folder), "-y", *json]
    for verb in ("prepare", "load"):
        with open("/dev/full", "w", encoding="ascii") as full:
            monkeypatch.setattr(sys, "stdout", full)
            status = main([verb, *arguments])
        assert status == 0
        assert "No space left" in capfd.readouterr().err
    assert target.holder == D1
    # Spent: what nobody could read does not change the status either.
    with open("/dev/full", "w", encoding="ascii") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["prepare", *arguments]) == 24


def options_of(how):
    names = ("dry_run", "approve", "progress", "hands_over")
    return {name: getattr(how, name) for name in names}


@pytest.mark.parametrize(
    "command", [["decode", "--as", "cdb", "5e000000000000010000"], ["prepare", "--help"]]
)
def test_another_commands_output_that_cannot_be_written_is_a_failure(monkeypatch, capfd, command):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as gone, open("/dev/full", "w", encoding="ascii") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(command) == 1
        said = capfd.readouterr().err
        assert "cannot be written: No space left" in said
        assert "internal error" not in said
        monkeypatch.setattr(sys, "stdout", gone)
        assert main(command) == 141
    monkeypatch.setattr(sys, "stdout", None)
    assert main(command) == 0


def saving(tmp_path, monkeypatch):
    """A source whose guest may be saved, and the arguments of a save."""
    target = Target({S1: K}, S1, WERO)
    source = Host(target, {"1:0:0:0": S1}, tmp_path / "s", monkeypatch)
    moves = source.moves(source.observer())
    monkeypatch.setattr(save_command, "observed_moves", lambda *_: (moves, False))
    return moves, ["save", "1:0:0:0", "-o"]


def test_a_save_that_nobody_could_take_voids_no_earlier_file(tmp_path, monkeypatch, capsys):
    moves, save = saving(tmp_path, monkeypatch)
    assert main([*save, str(tmp_path / "first.json")]) == 0
    (before,) = moves.moves()
    for output in (tmp_path / "no/second.json", tmp_path):
        assert main([*save, str(output)]) in (1, 2)
        assert str(output) in capsys.readouterr().err
    assert [each.move for each in moves.moves()] == [before.move]


def test_a_save_whose_file_is_lost_says_which_move_it_is(tmp_path, monkeypatch, capsys):
    moves, save = saving(tmp_path, monkeypatch)
    output = tmp_path / "file.json"
    real = moves.save

    def in_the_way(*arguments, **options):
        file = real(*arguments, **options)
        output.mkdir()
        return file

    monkeypatch.setattr(
        type(moves), "save", lambda _self, *given, **more: in_the_way(*given, **more)
    )
    assert main([*save, str(output)]) == 1
    told = capsys.readouterr().err
    (entry,) = moves.moves()
    assert f"move {entry.move} was saved on this host all the same" in told


@pytest.mark.parametrize("command", [["moves"], ["check", "/dev/null"]])
def test_a_folder_of_journals_that_is_none_is_not_an_empty_one(tmp_path, capsys, command):
    assert main([*command, "--state-dir", str(tmp_path / "typo")]) == 2
    assert "typo is no folder" in capsys.readouterr().err
    assert main(["moves", "--state-dir", str(tmp_path)]) == 0
