"""An event becomes a row, and comes back as it was."""

import os
import sqlite3

import pytest
from any_event import EVENTS
from hypothesis import given

from prtrace.errors import MalformedError
from prtrace.model import Issuer
from prtrace.store.database import Store
from prtrace.store.rows import SELECT, event_of
from store.conftest import make_event


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("command", "NO SUCH COMMAND"),
        ("type", 2),
        ("path", "no such path"),
        ("cgroup", "text"),
        ("paths", "no JSON"),
        ("paths", "[{}]"),
    ],
)
def test_a_row_that_no_event_can_be_is_named(store, path, column, value):
    store.commit("a", [make_event(1)])
    with sqlite3.connect(path) as database:
        database.execute(f"UPDATE event SET {column} = ?", (value,))
        (row,) = database.execute(SELECT).fetchall()
    with pytest.raises(MalformedError, match="stored event 1"):
        event_of(row)


def test_an_event_comes_back_as_it_was(store):
    event = make_event(1)
    assert store.commit("epoch", [event]) == [event._replace(seq=1, epoch="epoch")]
    assert list(store.events()) == [event._replace(seq=1, epoch="epoch")]


def test_whom_a_command_was_for_comes_back_as_it_was(store):
    client = Issuer(9, "prx1", guest="web1", uuid="0-1", client_pid=8, client_comm="qemu")
    event = make_event(1, issuer=client, asked=bytes(16), asked_data=b"\1")
    unnamed = make_event(2, issuer=Issuer(9, "prx2", client_pid=8))
    store.commit("epoch", [event, unnamed])
    assert list(store.events()) == [
        event._replace(seq=1, epoch="epoch"),
        unnamed._replace(seq=2, epoch="epoch"),
    ]


def test_text_that_is_no_unicode_is_escaped(store):
    name = os.fsdecode(b"evil\xff\x00")
    store.commit("a", [make_event(1), make_event(2, exe=name)])
    assert [event.exe for event in store.events()] == ["/usr/bin/sg_persist", "evil\\udcff\x00"]


@given(EVENTS)
def test_every_event_comes_back(tmp_path_factory, event):
    with Store.open(tmp_path_factory.mktemp("any") / "prtrace.db") as store:
        (stored,) = store.commit("e", [event])
        assert list(store.events()) == [stored]
        assert stored == event._replace(seq=1, epoch="e")


def test_the_documented_number_form_is_right(store, path):
    """The schema says how to read a key with the sqlite3 program."""
    store.commit("a", [make_event(1)])
    with sqlite3.connect(path) as database:
        (text,) = database.execute("SELECT printf('%016x', key) FROM event").fetchone()
    assert int(text, 16) == make_event(1).key
