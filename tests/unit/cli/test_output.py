"""What -o may replace, and what not."""

import os

import pytest

from prtrace.cli.output import write_whole
from prtrace.errors import UsageError


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
