"""An event becomes a row, and comes back as it was."""

import dataclasses
import os
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.errors import MalformedError
from prtrace.model import IssuePath, Issuer, LocalNexus, ReservationType
from prtrace.state.event import Command, Event
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


texts = st.text(max_size=20)
numbers = st.integers(0, (1 << 63) - 1)
keys = st.none() | st.integers(0, (1 << 64) - 1)


ISSUER = dict(  # noqa: C408 - as the values are given
    pid=st.integers(0, 1 << 22),
    comm=texts,
    start_ns=numbers,
    cgroup=st.integers(0, (1 << 64) - 1),
    path=st.sampled_from(IssuePath),
    requested=texts,
    guest=texts,
    uuid=texts,
    client_pid=st.integers(0, 1 << 22),
    client_comm=texts,
)
EVENT = dict(  # noqa: C408
    record=numbers,
    time=st.integers(0, 1 << 62),
    start_ns=numbers,
    done_ns=numbers,
    lu=texts,
    nexus=texts,
    device=texts,
    target=texts,
    command=st.sampled_from(Command),
    action=texts,
    status=texts,
    host_byte=texts,
    key=keys,
    sa_key=keys,
    type=st.none() | st.sampled_from(ReservationType),
    scope=st.none() | st.integers(0, 15),
    sense=texts,
    problem=texts,
    effect=texts,
    attempts=st.integers(0, 1 << 31),
    count=st.integers(0, 1 << 62),
    exe=texts,
    unit=texts,
    truncated=st.booleans(),
    cdb=st.binary(max_size=32),
    data=st.binary(max_size=64),
    head=st.binary(max_size=32),
    sense_bytes=st.binary(max_size=32),
    issuer=st.none() | st.builds(Issuer, **ISSUER),
    asked=st.binary(max_size=32),
    asked_data=st.binary(max_size=32),
    life=st.integers(0, (1 << 64) - 1),
    reason=texts,
)
# st.builds(Event) would fill what is not named.
events = st.builds(Event(command=Command.LOST)._replace, **EVENT)
paths = st.builds(
    LocalNexus,
    nexus=texts,
    lu=st.just("naa.1"),
    device=texts,
    initiator_port=st.none() | texts,
    relative_target_port=st.none() | st.integers(0, 65535),
)


def test_the_events_that_are_tried_have_every_field():
    of_the_store = {"seq", "epoch"}
    assert {*EVENT, "paths"} == set(Event._fields) - of_the_store
    assert set(ISSUER) == {field.name for field in dataclasses.fields(Issuer)}


@given(events, st.lists(paths, max_size=3))
def test_every_event_comes_back(tmp_path_factory, event, some_paths):
    if some_paths:
        event = event._replace(lu="naa.1", paths=tuple(some_paths))
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
