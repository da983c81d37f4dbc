"""What is on disk before a command goes out, read back after a crash."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from prtrace.errors import MalformedError, StoreError
from prtrace.model import ReservationType
from prtrace.move import journal as journals
from prtrace.move.journal import DESTINATION, SOURCE, CarrierProcess, Entry, Journal, UnderWayError
from prtrace.move.lines import Lines, Worth
from prtrace.move.table import Verb
from prtrace.move.word import Word

MOVE, LU = "ab" * 16, "naa.6/..\\x20"
LINES = Lines(released=ReservationType.WE).with_line("1:0:0:0", Worth.IN_QUESTION)
ENTRY = Entry(LU, DESTINATION, 7, MOVE, Verb.PREPARE, lines=LINES, device="/dev/sdb")


def last(folder, side=DESTINATION):
    with Journal(folder, LU) as journal:
        entry = journal.entries.get(side)
    return None if entry is None else plain(entry)


def plain(entry):
    """What was written, without when and by whom."""
    return replace(entry, time="", carriers=())


def test_goes_on_where_it_was(tmp_path):
    assert last(tmp_path) is None
    with Journal(tmp_path, LU) as journal:
        journal.write(replace(ENTRY, lines=Lines()), 1)
        journal.write(ENTRY, 2)
    assert last(tmp_path) == ENTRY
    ended = replace(ENTRY, end=Word.PREPARED)
    with Journal(tmp_path, LU) as journal:
        journal.write(ended, 3)
    assert last(tmp_path) == ended
    assert last(tmp_path, SOURCE) is None
    assert [plain(each) for each in journals.entries(tmp_path)] == [ended]


def test_begins_anew_with_each_move(tmp_path):
    with Journal(tmp_path, LU) as journal:
        journal.write(ENTRY, 1)
        journal.write(replace(ENTRY, move="cd" * 16), 2)
    (path,) = (tmp_path / "move").glob("*.journal")
    assert path.read_bytes().count(b"\n") == 1


def carriers(folder, side=DESTINATION):
    (entry,) = (each for each in journals.read(folder, LU) if each.side == side)
    return entry.carriers


def test_knows_whose_commands_were_a_moves(tmp_path):
    """By the process, not by its name: anybody may be called prtrace."""
    own = CarrierProcess.own()
    with Journal(tmp_path, LU) as journal:
        journal.write(replace(ENTRY, verb=None), 1)
    assert carriers(tmp_path) == ()  # a file that was stored sends nothing
    with Journal(tmp_path, LU) as journal:
        journal.write(ENTRY, 2)
        journal.write(replace(ENTRY, end=Word.PREPARED), 3)
    assert carriers(tmp_path) == (own,)
    assert own.is_process(own.pid, own.start_ns)
    assert not own.is_process(own.pid + 1, own.start_ns)
    assert not own.is_process(own.pid, own.start_ns + 10**9)
    assert not own.is_process(own.pid, 0)
    assert not replace(own, boot="another").is_process(own.pid, own.start_ns)


def test_carriers_outlive_the_move(tmp_path):
    """The guest's registration is theirs until it is made anew, whatever is saved meanwhile."""
    code = (
        "from pathlib import Path; from tests.unit.move.test_journal import *\n"
        f"with Journal(Path({str(tmp_path)!r}), LU) as journal: journal.write(ENTRY, 1)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
    (other,) = carriers(tmp_path)
    assert other != CarrierProcess.own()
    with Journal(tmp_path, LU) as journal:
        journal.write(replace(ENTRY, move="cd" * 16, verb=None), 2)
        assert carriers(tmp_path) == (other,)
        journal.write(replace(ENTRY, move="cd" * 16, verb=Verb.COMMIT), 3)
    assert carriers(tmp_path) == (other, CarrierProcess.own())


def test_a_journal_of_before_there_were_carriers_is_read(tmp_path):
    with Journal(tmp_path, LU) as journal:
        journal.write(ENTRY, 1)
    (path,) = (tmp_path / "move").glob("*.journal")
    line = json.loads(path.read_bytes())
    del line["carriers"]
    path.write_text(json.dumps(line) + "\n")
    assert last(tmp_path) == ENTRY
    path.write_text(json.dumps({**line, "carriers": [7]}) + "\n")
    with pytest.raises(MalformedError):
        last(tmp_path)


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_line_that_was_cut_was_never_acted_on(tmp_path, cut):
    with Journal(tmp_path, LU) as journal:
        journal.write(ENTRY, 1)
        journal.write(replace(ENTRY, verb=Verb.COMMIT), 2)
    (path,) = (tmp_path / "move").glob("*.journal")
    os.truncate(path, path.stat().st_size - cut)
    assert last(tmp_path) == ENTRY
    with Journal(tmp_path, LU) as journal:
        journal.write(replace(ENTRY, verb=Verb.WITHDRAW), 3)
    assert last(tmp_path).verb is Verb.WITHDRAW


def test_one_process_at_a_time_has_a_units_journal(tmp_path):
    with Journal(tmp_path, LU), pytest.raises(UnderWayError) as refused:
        Journal(tmp_path, LU)
    assert str(os.getpid()) in refused.value.message
    Journal(tmp_path, LU).close()


def test_long_designators_with_a_common_beginning_have_locks_of_their_own(tmp_path):
    with Journal(tmp_path, "iqn." + "x" * 300 + "1"), Journal(tmp_path, "iqn." + "x" * 300 + "2"):
        pass


@pytest.mark.parametrize("text", ["", "{}\n", "x\n", '{"memory": 5}\n', "\0\n", "[]\n"])
def test_what_is_no_journal_is_refused(tmp_path, text):
    with Journal(tmp_path, LU) as journal:
        journal.write(ENTRY, 1)
    (path,) = (tmp_path / "move").glob("*.journal")
    path.write_text(text)
    with pytest.raises(MalformedError):
        Journal(tmp_path, LU)


@pytest.mark.parametrize(("lu", "side"), [("naa.5", DESTINATION), (LU, SOURCE)])
def test_what_another_units_or_the_other_sides_journal_was(tmp_path, lu, side):
    """Restored to a wrong name, its proof would be taken for this one's."""
    with Journal(tmp_path, LU) as journal:
        journal.write(ENTRY, 1)
    (path,) = (tmp_path / "move").glob("*.journal")
    with Journal(tmp_path / "other", lu) as journal:
        journal.write(replace(ENTRY, lu=lu, side=side), 1)
    (other,) = (tmp_path / "other" / "move").glob("*.journal")
    path.write_bytes(other.read_bytes())
    with pytest.raises(MalformedError, match="it speaks of"):
        Journal(tmp_path, LU)
    with pytest.raises(MalformedError):
        journals.read(tmp_path, LU)
    (error,) = journals.entries(tmp_path)
    assert isinstance(error, MalformedError)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "move").write_text("a file")
    with pytest.raises(StoreError):
        Journal(tmp_path, LU)


def test_the_file_is_kept_until_the_move_has_ended(tmp_path):
    assert journals.stored_file(tmp_path, MOVE) is None
    path = journals.store_file(tmp_path, MOVE, "text")
    assert journals.store_file(tmp_path, MOVE, "other") == path
    assert path.read_text() == "text"
    assert journals.stored_file(tmp_path, MOVE) == path
    assert journals.stored_file(tmp_path, "../x") is None
    journals.forget_file(tmp_path, MOVE)
    assert journals.stored_file(tmp_path, MOVE) is None


def test_a_file_that_no_journal_is_about_goes(tmp_path):
    other = "cd" * 16
    for move in (MOVE, other):
        journals.store_file(tmp_path, move, "{}")
    with Journal(tmp_path, LU) as journal:
        journal.write(ENTRY, 1)
    journals.forget_unheard(tmp_path, [MOVE, other])
    assert journals.stored_file(tmp_path, MOVE) is not None
    assert journals.stored_file(tmp_path, other) is None
    with Journal(tmp_path, LU) as journal:
        journal.write(replace(ENTRY, move=other, order=8), 2)
        assert journal.replaced == {MOVE}
    # A journal that cannot be read may be about it.
    broken = tmp_path / "move" / "x.source.journal"
    broken.write_text("{\n")
    journals.forget_unheard(tmp_path, [MOVE])
    assert journals.stored_file(tmp_path, MOVE) is not None
    broken.unlink()
    journals.forget_unheard(tmp_path, [MOVE])
    assert journals.stored_file(tmp_path, MOVE) is None


def test_a_state_directory_that_is_none(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(StoreError, match="Not a directory"):
        list(journals.entries(file))
    with pytest.raises(StoreError, match="Not a directory"):
        journals.stored_file(file, MOVE)
    assert list(journals.entries(tmp_path / "never made")) == []
    assert journals.stored_file(tmp_path / "never made", MOVE) is None


def test_who_may_not_look_does_not_hear_that_nothing_is_there(tmp_path):
    with Journal(tmp_path, LU) as journal:
        journal.write(ENTRY, 1)
    journals.store_file(tmp_path, MOVE, "{}")
    (tmp_path / "move").chmod(0)
    child = os.fork()
    if not child:
        refused = 0
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setuid(65534)
            for look in (
                lambda: list(journals.entries(tmp_path)),
                lambda: journals.stored_file(tmp_path, MOVE),
            ):
                try:
                    look()
                except StoreError:
                    refused += 1
        finally:
            os._exit(refused)
    _, status = os.waitpid(child, 0)
    (tmp_path / "move").chmod(0o700)
    assert os.waitstatus_to_exitcode(status) == 2


@pytest.mark.parametrize("order", ["-1", "1" * 21, "1e3", "", "x"])
def test_an_order_that_no_save_wrote_is_refused(tmp_path, order):
    given = ENTRY.to_json() | {"order": order}
    with pytest.raises(MalformedError, match="order"):
        Entry.from_json(given)
