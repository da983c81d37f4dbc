"""The database's form: which databases are taken, and how an old one is brought up to date."""

import sqlite3

import pytest

from prtrace.errors import StoreError
from prtrace.store import schema
from prtrace.store.database import Store
from prtrace.store.rows import COLUMNS, row_of
from store.conftest import make_event


def test_a_newer_store_is_refused(path):
    Store.open(path).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    for readonly in (False, True):
        with pytest.raises(StoreError, match="newer prtrace") as failed:
            Store.open(path, readonly=readonly)
        assert failed.value.hint == "upgrade prtrace, or name another --state-dir"
    assert path.read_bytes() == before


def test_another_programs_database_is_refused(tmp_path):
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE precious (x)")
    with pytest.raises(StoreError, match="another program"):
        Store.open(path)


def test_the_scripts_need_no_newer_sqlite():
    """They run on SQLite 3.34."""
    for script in schema.SCRIPTS:
        for word in ("STRICT", "RETURNING", "->", "UNIXEPOCH"):
            assert word not in script.upper()


def test_a_store_from_before_there_were_clients(path, monkeypatch):
    monkeypatch.setattr(schema, "SCRIPTS", schema.SCRIPTS[:1])
    path.parent.mkdir()
    database = sqlite3.connect(path)
    schema.migrate(database, 0)
    event = make_event(1)
    database.execute("INSERT INTO epoch VALUES (1, 'old')")
    database.execute("INSERT INTO unit VALUES (1, 'naa.1')")
    first = COLUMNS.index("uuid")
    database.execute(
        f"INSERT INTO event ({', '.join(COLUMNS[:first])}) VALUES ({', '.join('?' * first)})",
        row_of(event._replace(seq=1), 1, 1)[:first],
    )
    database.commit()
    database.close()
    monkeypatch.undo()
    with Store.open(path) as store:
        assert list(store.events()) == [event._replace(seq=1, epoch="old")]
        assert [each.seq for each in store.commit("old", [make_event(2)])] == [2]
