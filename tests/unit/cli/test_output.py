"""What -o may replace, and what not."""

import os

import pytest

from prtrace.cli.output import whole, write_whole
from prtrace.errors import PrtraceError, UsageError


def test_a_file_is_replaced_whole(tmp_path):
    file = tmp_path / "out"
    file.write_text("before")
    write_whole(file, "after")
    assert file.read_text() == "after"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
def test_what_is_no_regular_file_stays(tmp_path, kind):
    there = tmp_path / "there"
    match kind:
        case "fifo":
            os.mkfifo(there)
        case "link":
            there.symlink_to(tmp_path / "elsewhere")
        case _:
            there.mkdir()
    before = there.lstat()
    with pytest.raises(UsageError, match="no regular file"):
        write_whole(there, "text")
    assert there.lstat() == before
    assert os.listdir(tmp_path) == ["there"]


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path):
    worked = False
    with pytest.raises(PrtraceError, match="cannot be written"), whole(tmp_path / "no/out"):
        worked = True
    assert not worked


def test_work_that_fails_leaves_what_was_there(tmp_path):
    file = tmp_path / "out"
    file.write_text("before")

    def fail() -> None:
        with whole(file) as write:
            write("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with whole(file):
        pass
    assert file.read_text() == "before"
    assert os.listdir(tmp_path) == ["out"]
