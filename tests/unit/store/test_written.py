"""What was written and never reaches the disk is told, though every write succeeded.

Real failures of ext4 and of a disk: tests/agent/test_faults.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prtrace.store.database import Store
from prtrace.store.written import Written
from store.conftest import make_event


def test_what_reaches_the_disk(store: Store, path: Path) -> None:
    written = Written(path)
    before = store.changes
    store.commit("a", [make_event(1)])
    assert store.changes > before
    assert written.failure() is None


def test_there_is_no_log_yet(tmp_path: Path) -> None:
    path = tmp_path / "prtrace.db"
    path.touch()
    assert Written(path).failure() is None


@pytest.mark.parametrize("suffix", ["", "-wal"])
def test_a_failure_names_the_store_and_the_reason(tmp_path: Path, suffix: str) -> None:
    """The kernel cannot write a pipe to a disk, and says so."""
    path = tmp_path / "prtrace.db"
    path.touch()
    wrong = Path(f"{path}{suffix}")
    wrong.unlink(missing_ok=True)
    os.mkfifo(wrong)
    found = Written(path).failure()
    assert found is not None
    assert found.message == f"{path}: what is written never reaches the disk: Invalid argument"
    assert "kernel's log" in found.hint
