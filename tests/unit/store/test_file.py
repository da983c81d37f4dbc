"""The path does not lead to the database file that was opened any more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from labkit import pace

from prtrace.errors import StoreError
from prtrace.store.database import Store
from prtrace.store.file import File, ReplacedError
from store.conftest import make_event


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "prtrace.db"
    Store.open(made).close()
    return made


def test_the_file_that_was_opened(path: Path) -> None:
    File(path).require_same()


def test_a_file_that_was_never_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="deleted"):
        File(tmp_path / "none")


def test_deleted(path: Path) -> None:
    opened = File(path)
    path.unlink()
    with pytest.raises(ReplacedError, match="was deleted"):
        opened.require_same()


def test_another_database_in_its_place(path: Path, tmp_path: Path) -> None:
    opened = File(path)
    other = tmp_path / "other.db"
    Store.open(other).close()
    other.replace(path)
    with pytest.raises(ReplacedError, match="was replaced"):
        opened.require_same()


@pytest.mark.parametrize(("at", "size"), [(0, 16), (68, 4)], ids=["magic", "application"])
def test_the_header_overwritten(path: Path, at: int, size: int) -> None:
    opened = File(path)
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(bytes(size))
    with pytest.raises(StoreError, match="its header was overwritten"):
        opened.require_same()


def test_shorter_than_a_header(path: Path) -> None:
    opened = File(path)
    os.truncate(path, 0)
    with pytest.raises(StoreError, match="its header was overwritten"):
        opened.require_same()


def test_a_folder_in_its_place(path: Path) -> None:
    opened = File(path)
    # Whoever uses it has it open, so that its number is nobody else's.
    with path.open():
        path.unlink()
        path.mkdir()
        with pytest.raises(ReplacedError, match="was replaced"):
            opened.require_same()


def test_a_link_in_its_place(path: Path, tmp_path: Path) -> None:
    """A link could lead to the same file today and to another one tomorrow."""
    opened = File(path)
    path.rename(tmp_path / "moved.db")
    path.symlink_to(tmp_path / "moved.db")
    with pytest.raises(StoreError, match="cannot be looked at"):
        opened.require_same()


def test_the_log_deleted(path: Path) -> None:
    with Store.open(path) as store:
        store.require_present()
        Path(f"{path}-wal").unlink()
        with pytest.raises(ReplacedError, match=r"-wal was deleted"):
            store.require_present()


COUNT = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
print(database.execute("SELECT count(*) FROM event").fetchone()[0])
database.close()
"""


def test_what_others_read_is_what_was_stored(path: Path) -> None:
    """Another program that closes the database deletes the log of one that has lost its locks."""
    with Store.open(path) as store:
        for number in range(1, 4):
            store.commit("a", [make_event(number)])
            store.require_present()
            assert Store.damage(path) is None
            command = [sys.executable, "-c", COUNT, path]
            assert int(subprocess.check_output(command, timeout=pace.limit(60))) == number


LOOK = """
import sys
from pathlib import Path
from prtrace.store.file import File
File(Path(sys.argv[1])).require_same()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount")
@pytest.mark.parametrize("how", ["rw", "ro"])
def test_a_file_system_that_is_read_only(path: Path, how: str) -> None:
    script = (
        f'mount --bind "$1" "$1" && mount -o remount,bind,{how} "$1" && exec "$2" -c "$3" "$4"'
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", path.parent, sys.executable, LOOK, path],
        capture_output=True,
        text=True,
        timeout=pace.limit(60),
        check=False,
    )
    assert ("is read-only" in done.stderr) == (how == "ro"), done.stderr
    assert (done.returncode == 0) == (how == "rw"), done.stderr
