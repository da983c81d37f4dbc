"""What is on disk before a command goes out, read back after a crash."""

import os

import pytest

from prtrace.errors import MalformedError, StoreError
from prtrace.move.handover import Result, Role
from prtrace.move.journal import Journal, UnderWayError
from prtrace.move.memory import Memory, Sent

MOVE, LU = "ab" * 16, "naa.6/..\\x20"
MEMORY = Memory("1:0:0:0", base=7, bumps=1, victim=0x4B, victims=2, preempt=Sent.SENT)


def opened(folder, role=Role.LOAD):
    return Journal(folder, MOVE, role, LU)


def test_goes_on_where_it_was(tmp_path):
    with opened(tmp_path) as journal:
        assert journal.last is None
        journal.write(1, "step-1", Memory("1:0:0:0"))
        journal.write(2, "step-2", MEMORY, 33)
    with opened(tmp_path) as journal:
        assert (journal.last, journal.result, journal.requests) == (MEMORY, None, 33)
        journal.end(3, Result.MOVED, MEMORY)
    with opened(tmp_path) as journal:
        assert journal.result is Result.MOVED
    with opened(tmp_path, Role.ROLLBACK) as journal:
        assert journal.last is None


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_line_that_was_cut_was_never_acted_on(tmp_path, cut):
    with opened(tmp_path) as journal:
        journal.write(1, "step-1", MEMORY)
        journal.write(2, "step-2", Memory("9:0:0:0"))
        path = journal.path
    os.truncate(path, path.stat().st_size - cut)
    for _ in range(2):
        with opened(tmp_path) as journal:
            assert journal.last == MEMORY


def test_one_at_a_time(tmp_path):
    with opened(tmp_path), pytest.raises(UnderWayError) as refused:
        opened(tmp_path, Role.ROLLBACK)
    assert str(os.getpid()) in refused.value.message
    opened(tmp_path).close()


@pytest.mark.parametrize("text", ["{}\n", "x\n", '{"memory": 5}\n', "\0\n", "[]\n"])
def test_what_is_no_journal(tmp_path, text):
    with opened(tmp_path) as journal:
        path = journal.path
    path.write_text(text)
    with pytest.raises(MalformedError):
        opened(tmp_path)


def test_no_place(tmp_path):
    (tmp_path / "move").write_text("a file")
    with pytest.raises(StoreError):
        opened(tmp_path)
