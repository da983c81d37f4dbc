"""The database's form: numbered scripts, and how a database is brought up to the last one.

The floor is SQLite 3.34 (RHEL 9): no STRICT, RETURNING, `->` or unixepoch().  A script, once
released, never changes; PRAGMA user_version says how many of them have run.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from prtrace.errors import StoreError

APPLICATION_ID: Final = 0x70727472
"""PRAGMA application_id: "prtr" (file(1) shows it, and other programs' files are refused)."""

_FIRST: Final = """
CREATE TABLE epoch (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE unit (id INTEGER PRIMARY KEY, lu TEXT NOT NULL UNIQUE);

-- One row for each event; columns are those of prtrace.state.event.Event.
-- key, sa_key and cgroup are 64-bit numbers kept as SQLite's signed ones: printf('%016x', key).
CREATE TABLE event (
    seq INTEGER PRIMARY KEY,
    epoch_id INTEGER NOT NULL REFERENCES epoch (id),
    record INTEGER NOT NULL CHECK (typeof(record) = 'integer'),
    time INTEGER NOT NULL CHECK (typeof(time) = 'integer'),
    start_ns INTEGER NOT NULL,
    done_ns INTEGER NOT NULL,
    unit_id INTEGER NOT NULL REFERENCES unit (id),
    nexus TEXT NOT NULL,
    device TEXT NOT NULL,
    target TEXT NOT NULL,
    command TEXT NOT NULL,
    action TEXT NOT NULL,
    status TEXT NOT NULL,
    host_byte TEXT NOT NULL,
    key INTEGER,
    sa_key INTEGER,
    type INTEGER,
    scope INTEGER,
    sense TEXT NOT NULL,
    problem TEXT NOT NULL,
    effect TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    count INTEGER NOT NULL,
    pid INTEGER,
    comm TEXT,
    process_start_ns INTEGER,
    cgroup INTEGER,
    path TEXT,
    requested TEXT,
    guest TEXT,
    exe TEXT NOT NULL,
    unit TEXT NOT NULL,
    truncated INTEGER NOT NULL,
    cdb BLOB NOT NULL,
    data BLOB NOT NULL,
    head BLOB NOT NULL,
    sense_bytes BLOB NOT NULL,
    paths TEXT
);
CREATE UNIQUE INDEX event_record ON event (epoch_id, record) WHERE record > 0;
CREATE INDEX event_unit ON event (unit_id);
CREATE INDEX event_time ON event (time);

-- The state of each logical unit after the newest event, and as it was at each boundary: the
-- events after a boundary and the states at it lead to the newest states.
CREATE TABLE state (unit_id INTEGER PRIMARY KEY REFERENCES unit (id),
                    seq INTEGER NOT NULL, document TEXT NOT NULL);
CREATE TABLE boundary (seq INTEGER PRIMARY KEY);
CREATE TABLE checkpoint (unit_id INTEGER NOT NULL REFERENCES unit (id),
                         seq INTEGER NOT NULL, document TEXT NOT NULL,
                         PRIMARY KEY (unit_id, seq)) WITHOUT ROWID;

CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

# Whom a proxy sent the command for, and what was asked of it; NULL where it is nothing.
_CLIENTS: Final = """
ALTER TABLE event ADD COLUMN uuid TEXT;
ALTER TABLE event ADD COLUMN client_pid INTEGER;
ALTER TABLE event ADD COLUMN client_comm TEXT;
ALTER TABLE event ADD COLUMN asked BLOB;
ALTER TABLE event ADD COLUMN asked_data BLOB;
"""

# Which scsi_device carried the command (prtrace.model.LocalNexus.life), and why it was refused.
_LIVES: Final = """
ALTER TABLE event ADD COLUMN life INTEGER;
ALTER TABLE event ADD COLUMN reason TEXT;
"""

# What cannot be digested is put aside whole.  idle: a reading that told nothing new; when room
# is made, such go first.  So the history has holes: how many events there are, and the
# greatest number that was deleted, are kept beside it.  The indexes serve exactly the queries
# that would otherwise look at every row.
_KEPT: Final = """
ALTER TABLE event ADD COLUMN idle INTEGER NOT NULL DEFAULT 0;
CREATE TABLE aside (id INTEGER PRIMARY KEY, epoch_id INTEGER NOT NULL REFERENCES epoch (id),
                    time INTEGER NOT NULL, problem TEXT NOT NULL, raw BLOB NOT NULL);
CREATE TABLE extent (events INTEGER NOT NULL, pruned INTEGER NOT NULL);
INSERT INTO extent SELECT count(*), coalesce(min(seq), 1) - 1 FROM event;
CREATE INDEX event_idle ON event (seq) WHERE idle = 1;
CREATE INDEX event_change ON event (seq) WHERE command IN ('PR OUT', 'RESERVE', 'RELEASE');
CREATE INDEX event_unit_change ON event (unit_id, seq)
    WHERE command IN ('PR OUT', 'RESERVE', 'RELEASE');
"""

SCRIPTS: Final = (_FIRST, _CLIENTS, _LIVES, _KEPT)


def require_known(database: sqlite3.Connection, path: str, *, readonly: bool) -> int:
    """Return how many scripts database has seen.

    Raises StoreError where it is another program's, a newer prtrace's, or an older one's that
    cannot be brought up to date because it is only read.
    """
    version = _pragma(database, "user_version")
    application = _pragma(database, "application_id")
    empty = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if application != APPLICATION_ID and not (empty and application == 0):
        raise StoreError(
            f"{path} is a database of another program",
            hint="name another --state-dir",
        )
    if version > len(SCRIPTS):
        raise StoreError(
            f"{path} was written by a newer prtrace "
            f"(form {version}, this program knows {len(SCRIPTS)})",
            hint="upgrade prtrace, or name another --state-dir",
        )
    if readonly and version < len(SCRIPTS):
        raise StoreError(
            f"{path} holds no store, or an older prtrace's",
            hint="an agent that starts on it brings it up to date",
        )
    return version


def migrate(database: sqlite3.Connection, version: int) -> None:
    """Run the scripts that are missing, each in a transaction of its own."""
    for number, script in enumerate(SCRIPTS[version:], version + 1):
        database.executescript(
            f"BEGIN IMMEDIATE; {script}"
            f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number}; COMMIT;"
        )


def _pragma(database: sqlite3.Connection, name: str) -> int:
    value = database.execute(f"PRAGMA {name}").fetchone()[0]
    return int(value)
