"""A commit stores all or nothing; events are numbered without gaps, and stored once."""

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys

import pytest
from labkit import pace

from prtrace.errors import StoreError
from prtrace.state.apply import in_doubt, new_state
from prtrace.state.event import Command
from prtrace.store.database import Store
from store.conftest import make_event


def test_numbers_ascend_from_one_without_gaps(store):
    first = store.commit("a", [make_event(5), make_event(3)])
    second = store.commit("a", [make_event(9)])
    assert [event.seq for event in (*first, *second)] == [1, 2, 3]
    assert [event.record for event in store.events()] == [5, 3, 9]
    assert store.last_seq == 3


def test_a_record_is_stored_once_for_each_epoch(store):
    store.commit("a", [make_event(1), make_event(2)])
    again = store.commit("a", [make_event(1), make_event(2), make_event(3), make_event(3)])
    assert [(event.seq, event.record) for event in again] == [(3, 3)]
    assert [event.seq for event in store.commit("b", [make_event(1)])] == [4]


def test_what_is_no_record_may_repeat(store):
    lost = make_event(0, command=Command.LOST, issuer=None)
    assert len(store.commit("a", [lost, lost])) == 2


def test_known_tells_what_is_stored(store):
    store.commit("a", [make_event(1), make_event(2), make_event(7)])
    assert store.known("a", [1, 3, 7, 9, 0]) == {1, 7}
    assert store.known("b", [1]) == set()
    assert store.known("a", []) == set()


def test_a_fact_that_is_over_takes_no_room(store: Store) -> None:
    store.commit("a", [], meta={"count/1:0:0:0": "1", "count/2:0:0:0": "2"})
    store.commit("a", [], meta={"count/1:0:0:0": "", "count/3:0:0:0": ""})
    assert store.meta() == {"count/2:0:0:0": "2"}


def test_states_and_meta_are_of_the_same_transaction(store, path):
    state = new_state("naa.1", "LIO-ORG/disk/4.0", 5)
    store.commit("a", [make_event(1)], [state], {"baseline": "7"})
    store.commit("a", [], [in_doubt(state, "why", 9)], {"baseline": "8", "other": "x"})
    with Store.open(path, readonly=True) as reader:
        assert reader.states() == {"naa.1": in_doubt(state, "why", 9)}
        assert reader.meta() == {"baseline": "8", "other": "x"}


def test_a_failed_commit_changes_nothing(store):
    store.commit("a", [make_event(1)])
    bad = make_event(2, time="not a number")
    with pytest.raises(StoreError):
        store.commit("new epoch", [make_event(3, lu="naa.new"), bad], (), {"x": "y"})
    assert [event.record for event in store.events()] == [1]
    assert store.meta() == {}
    stored = store.commit("new epoch", [make_event(3, lu="naa.new")])
    assert [(event.seq, event.lu) for event in stored] == [(2, "naa.new")]


def test_events_can_be_chosen(store):
    units = ("naa.1", "naa.2", "naa.3")
    store.commit("a", [make_event(n, lu=units[n % 3]) for n in range(1, 601)])

    def seqs(**query):
        return [event.seq for event in store.events(**query)]

    assert seqs() == list(range(1, 601))
    assert seqs(since_seq=598) == [599, 600]
    assert seqs(limit=3) == [1, 2, 3]
    assert seqs(limit=0) == []
    assert seqs(last=2) == [599, 600]
    assert seqs(last=0) == []
    assert seqs(lus=["naa.2"], last=2) == [595, 598]
    assert seqs(lus=["naa.2", "naa.3", "naa.9"], since_seq=595) == [596, 598, 599]
    assert seqs(lus=["naa.9"]) == []
    assert seqs(lus=[]) == []
    assert seqs(since_time=make_event(599).time) == [599, 600]
    assert seqs(since_time=1 << 62) == []
    assert seqs(since_time=make_event(590).time, lus=["naa.1"], limit=2) == [591, 594]


def test_changes_can_be_chosen(store):
    kinds = (Command.PR_IN, Command.PR_OUT, Command.LOST, Command.RESERVE, Command.RELEASE)
    store.commit("a", [make_event(n, command=kinds[n % 5]) for n in range(1, 601)])
    changes = [event.seq for event in store.events(changes=True)]
    assert changes == [n for n in range(1, 601) if n % 5 in (1, 3, 4)]
    assert [event.seq for event in store.events(changes=True, last=2)] == [598, 599]
    assert [event.seq for event in store.events(changes=True, lus=["naa.2"])] == []


def test_a_clock_that_was_set_back_hides_nothing(store):
    times = (500, 900, 100, 950)
    store.commit("a", [make_event(n, time=time) for n, time in enumerate(times, 1)])
    assert [event.time for event in store.events(since_time=600)] == [900, 950]


def test_reading_sees_what_is_stored_meanwhile(store):
    store.commit("a", [make_event(n) for n in range(1, 301)])
    reading = store.events()
    assert next(reading).seq == 1
    store.commit("a", [make_event(301)])
    assert [event.seq for event in reading] == list(range(2, 302))


def test_a_snapshot_does_not(store, path):
    store.commit("a", [make_event(1)])
    with Store.open(path, readonly=True) as reader, reader.snapshot():
        assert reader.size().last == 1
        store.commit("a", [make_event(2)])
        assert len(list(reader.events())) == 1


def test_the_file_is_private(store, path):
    store.commit("a", [make_event(1)])
    for file in (path, path.parent):
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0


def test_reopening_goes_on(path):
    with Store.open(path) as store:
        store.commit("a", [make_event(1)])
    with Store.open(path) as store:
        assert [e.seq for e in store.commit("a", [make_event(1), make_event(2)])] == [2]
        size = store.size()
        assert (size.events, size.first, size.last) == (2, 1, 2)
        assert size.bytes > 4096
        store.verify()


def test_a_read_only_store_takes_nothing(path):
    with Store.open(path) as store:
        store.commit("a", [make_event(1)])
    with Store.open(path, readonly=True) as store:
        assert len(list(store.events())) == 1
        with pytest.raises(StoreError, match="may not be written"):
            store.commit("a", [make_event(2)])


_WRITER = """
import sys
from pathlib import Path
from prtrace.state.apply import new_state
from prtrace.store.database import Store
from store.conftest import make_event

store = Store.open(Path(sys.argv[1]))
at = store.last_seq + 1
while True:
    events = [make_event(n) for n in range(at, at + 7)]
    store.commit("a", events, [new_state("naa.1", time=at + 6)], {"last": str(at + 6)})
    at += 7
    print(at - 1, flush=True)
"""


def test_a_killed_writer_leaves_whole_commits(path):
    """What a commit acknowledged is there, and events, states and meta agree."""
    for kill_after in (1, 5, 17):
        acknowledged = 0
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
        ) as writer:
            for _ in range(kill_after):
                acknowledged = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
        with Store.open(path) as store:
            store.verify()
            seqs = [event.seq for event in store.events()]
            assert seqs == list(range(1, len(seqs) + 1))
            assert len(seqs) >= acknowledged
            assert len(seqs) % 7 == 0
            assert store.meta() == {"last": str(len(seqs))}
            assert store.states() == {"naa.1": new_state("naa.1", time=len(seqs))}
            assert store.known("a", seqs) == set(seqs)


def test_a_state_that_cannot_be_read_is_named(store, path):
    store.commit("a", [make_event(1)], [new_state("naa.1")])
    with sqlite3.connect(path) as database:
        database.execute("UPDATE state SET document = ?", (json.dumps({"format": 99}),))
    with pytest.raises(StoreError, match=r"state of naa\.1"):
        store.states()


_KILLED = """
import os, sys
from pathlib import Path
from prtrace.store.database import Store
from store.conftest import make_event

store = Store.open(Path(sys.argv[1]))
for first in range(1, 2000, 100):
    store.commit("a", [make_event(number) for number in range(first, first + 100)])
os._exit(0)
"""
_ON_A_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from prtrace.store.database import Store

path = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, resource.RLIM_INFINITY))
with Store.open(path) as store:
    assert store.last_seq == 2299, store.last_seq
"""


def test_a_store_whose_file_cannot_grow_is_opened(path):
    """What a killed agent left in the write-ahead log stays; the next agent says so, and runs."""
    with Store.open(path) as store:
        store.commit("b", [make_event(number) for number in range(1, 300)])
        store._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for script in (_KILLED, _ON_A_FULL_DISK):
        subprocess.run(
            [sys.executable, "-c", script, str(path)],
            env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
            check=True,
            timeout=pace.limit(60),
        )
