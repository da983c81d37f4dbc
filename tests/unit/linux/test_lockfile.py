"""A lock file has one holder at a time, and names its process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from prtrace.linux.lockfile import HeldError, LockFile, record_lock_holder


def test_a_second_one_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with LockFile(path), pytest.raises(HeldError) as refused:
        LockFile(path)
    assert refused.value.holder == str(os.getpid())
    LockFile(path).close()


def test_whoever_has_not_said_its_number_yet_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with LockFile(path):
        os.truncate(path, 0)
        with pytest.raises(HeldError, match="unknown"):
            LockFile(path)


def test_the_number_of_a_process_that_died_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("12345678901234567890\n")
    with LockFile(path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_nobody_else_may_open_it(tmp_path: Path) -> None:
    with LockFile(tmp_path / "lock"):
        assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """By a link, whoever can write to the folder could have another file truncated."""
    kept = tmp_path / "kept"
    kept.write_text("kept")
    (tmp_path / "lock").symlink_to(kept)
    with pytest.raises(OSError, match="symbolic links"):
        LockFile(tmp_path / "lock")
    assert kept.read_text() == "kept"


def test_closed_twice_it_closes_nobody_elses_descriptor(tmp_path: Path) -> None:
    lock = LockFile(tmp_path / "lock")
    lock.close()
    other = os.open(tmp_path, os.O_RDONLY)
    lock.close()
    os.close(other)


def test_the_kernel_says_who_holds_a_record_lock(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with pytest.raises(FileNotFoundError):
        record_lock_holder(file)
    file.write_text(f"{os.getpid()}\n")
    assert record_lock_holder(file) is None
    hold = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'a+');"
        "fcntl.lockf(file, fcntl.LOCK_SH); print(flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", hold, file]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert record_lock_holder(file) == holder.pid
        holder.kill()
    assert record_lock_holder(file) is None
