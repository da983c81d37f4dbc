"""A store that cannot be used gets a clear message and a hint, and nothing is deleted."""

import errno
import os
import resource
import sqlite3
import subprocess
import sys

import pytest
from labkit import pace

from prtrace.errors import StoreError
from prtrace.store import schema
from prtrace.store.database import Store
from store.conftest import make_event


@pytest.mark.parametrize("content", [b"no database at all, but long enough" * 100, b"\0" * 8192])
def test_what_is_no_database_is_refused(tmp_path, content):
    path = tmp_path / "prtrace.db"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged") as failed:
        Store.open(path)
    assert str(path) in failed.value.message
    assert "aside" in failed.value.hint
    assert path.read_bytes() == content


def test_a_damaged_page_is_found_when_opened(path):
    with Store.open(path) as store:
        store.commit("a", [make_event(n) for n in range(1, 500)])
    with open(path, "r+b") as file:
        file.seek(20 * 4096)
        file.write(os.urandom(8 * 4096))
    with pytest.raises(StoreError, match="damaged"):
        Store.open(path)


def test_a_cut_file_is_found(path):
    with Store.open(path) as store:
        store.commit("a", [make_event(n) for n in range(1, 500)])
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(StoreError, match="damaged"):
        Store.open(path)


def test_the_state_directory_must_be_one(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(StoreError, match="not a directory"):
        Store.open(file / "prtrace.db")


def test_a_symbolic_link_is_not_followed(tmp_path):
    target = tmp_path / "target"
    (tmp_path / "prtrace.db").symlink_to(target)
    with pytest.raises(StoreError, match=os.strerror(errno.ELOOP)):
        Store.open(tmp_path / "prtrace.db")
    assert not target.exists()


def test_reading_makes_no_store(tmp_path):
    with pytest.raises(StoreError, match="is not there"):
        Store.open(tmp_path / "prtrace.db", readonly=True)
    (tmp_path / "empty.db").touch()
    with pytest.raises(StoreError, match="holds no store"):
        Store.open(tmp_path / "empty.db", readonly=True)


def test_somebody_elses_lock_is_named(store, path):
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        store._database.execute("PRAGMA busy_timeout = 1")
        with pytest.raises(StoreError, match="in use by another program"):
            store.commit("a", [make_event(1)])
        other.execute("ROLLBACK")
    assert [event.seq for event in store.commit("a", [make_event(1)])] == [1]


_FILLER = """
import resource, signal, sys
from pathlib import Path
from prtrace.errors import StoreError
from prtrace.store.database import Store
from store.conftest import make_event

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Store.open(Path(sys.argv[1]))
store.commit("a", [make_event(n) for n in range(1, 51)])
size = store.size().bytes
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20000, resource.RLIM_INFINITY))
at = 51
try:
    while True:
        store.commit("a", [make_event(n) for n in range(at, at + 50)])
        at += 50
except StoreError as error:
    print(error.message, "|", error.hint)
assert [e.seq for e in store.events()] == list(range(1, at)), "what was stored is there"
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
stored = store.commit("a", [make_event(n) for n in range(at, at + 50)])
assert [e.seq for e in stored] == list(range(at, at + 50)), "it goes on"
print("went on")
"""


def test_a_full_disk_loses_nothing_and_ends(path):
    """The kernel refuses to let the file grow, as it does on a full file system."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", _FILLER, str(path)],
        capture_output=True,
        text=True,
        timeout=pace.limit(60),
        env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
    message, went_on = done.stdout.splitlines()
    assert str(path) in message
    assert "full" in message
    assert went_on == "went on"


def test_a_file_that_goes_while_it_is_opened_is_no_surprise(path, monkeypatch):
    """Whoever looks for damage opens it beside the agent, and somebody may delete it meanwhile."""
    with Store.open(path) as store:
        known = schema.require_known

        def gone(*given, **more):
            version = known(*given, **more)
            path.unlink(missing_ok=True)
            return version

        monkeypatch.setattr(schema, "require_known", gone)
        with pytest.raises(StoreError, match="No such file") as failed:
            Store.open(path, readonly=True)
        assert str(path.parent) in failed.value.hint
        assert Store.damage(path) is None
        assert store.bytes > 0, "the log is still there"
