"""The store: events with ascending numbers, the states they led to, and small facts beside them.

A commit is one transaction, so that events, states and meta always belong together; a failed
one changes nothing and can be repeated.  WAL with synchronous=NORMAL: a killed process loses
nothing that was committed, a power failure at most the last commits, which the devices and
the kernel's ring tell again.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from urllib.parse import quote

from prtrace.errors import MalformedError, StoreError
from prtrace.linux.closing import Closing
from prtrace.state import codec
from prtrace.state.event import Event
from prtrace.state.unit import LuState
from prtrace.store import history, room, schema
from prtrace.store.failure import DamagedError, as_store_error, damaged
from prtrace.store.file import File
from prtrace.store.history import EventQuery
from prtrace.store.room import KEEP_BYTES, KEEP_EVENTS, Extent, HistoryLimits
from prtrace.store.rows import INSERT, Row, row_of, without_surrogates

FILE: Final = "prtrace.db"
"""The database's name in the state directory."""

_CHECKED: Final = 8 << 20
"""Databases up to this many bytes are checked as a whole when they are opened (milliseconds)."""

_PRUNED_BESIDES: Final = 1000
"""Rows that a commit may delete on top of four times those that it adds."""

_ASIDE: Final = 1000
"""Records that could not be digested and are kept, the newest ones."""


class Aside(NamedTuple):
    """A record as the ring held it, that could not be digested.

    time: when that was found, nanoseconds since the epoch.  problem: what went wrong.
    epoch: of the record's number; filled in by the store.
    """

    time: int
    problem: str
    raw: bytes
    epoch: str = ""


class Size(NamedTuple):
    """What the store holds: events, the first and last number among them, and bytes on disk."""

    events: int
    first: int
    last: int
    bytes: int


class Store(Closing):
    """An open database; a context manager that closes it.

    To be used by one thread at a time.  Every method raises StoreError, whose hint says what
    to do, where the database cannot be used.
    """

    __slots__ = (
        "_database",
        "_epochs",
        "_extent",
        "_file",
        "_limits",
        "_newest",
        "_units",
        "path",
    )

    def __init__(self, database: sqlite3.Connection, path: Path, limits: HistoryLimits) -> None:
        """Use open() instead."""
        self.path = path
        self._database = database
        self._limits = limits
        self._extent = room.extent(database)
        self._file = File(path)
        self._epochs: dict[str, int] = dict(database.execute("SELECT name, id FROM epoch"))
        self._units: dict[str, int] = dict(database.execute("SELECT lu, id FROM unit"))
        self._newest: dict[str, int] = {}

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        readonly: bool = False,
        keep_events: int = KEEP_EVENTS,
        keep_bytes: int = KEEP_BYTES,
    ) -> Self:
        """Open the database file, made with mode 0600 where it is missing and readonly is not set.

        keep_events: how many events are kept, at least 1.  keep_bytes: how much of the disk
        the database may take; the newest events stay whatever they take.  Raises StoreError
        also for a store of a newer prtrace, another program's database, a damaged one and a
        directory that is none; nothing is ever deleted or moved for that.
        """
        database = _connect_readonly(path) if readonly else _connect(path)
        try:
            with as_store_error(path, "read" if readonly else "written"):
                version = schema.require_known(database, str(path), readonly=readonly)
                if path.stat().st_size <= _CHECKED:
                    _check(database, path)
                if not readonly:
                    database.execute("PRAGMA journal_mode = WAL")
                    database.execute("PRAGMA synchronous = NORMAL")
                    database.execute("PRAGMA journal_size_limit = 67108864")
                    schema.migrate(database, version)
                    # Until then a new database's file has no header to be known by.  Where the
                    # disk is full the log keeps what it has, and whoever commits is told.
                    with suppress(sqlite3.OperationalError):
                        room.drop_unnamed(database)
                        database.execute("PRAGMA wal_checkpoint(PASSIVE)")
                return cls(database, path, HistoryLimits(max(1, keep_events), keep_bytes))
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """Close the database; a second call does nothing."""
        self._database.close()
        self._file.close()

    @property
    def last_seq(self) -> int:
        """The number of the newest event that this object stored or found; 0: none yet."""
        return self._extent.last

    @property
    def changes(self) -> int:
        """Grows with what is written, for whoever asks whether anything was."""
        return self._database.total_changes

    def commit(
        self,
        epoch: str,
        events: Sequence[Event],
        states: Sequence[LuState] = (),
        meta: Mapping[str, str] | None = None,
        *,
        aside: Sequence[Aside] = (),
        idle: Container[int] = (),
        replaced: Sequence[int] = (),
        forgotten: Iterable[str] = (),
    ) -> list[Event]:
        """Store events of epoch, the states they led to and meta, all or nothing.

        Returns the events that were new, with their numbers.  An event whose record (> 0) is
        stored already for epoch is left out: see known() for telling before.  aside: records
        that could not be digested, kept as they are.  idle: the records of readings that told
        nothing new; they go first when room is needed.  replaced: numbers of stored events
        that these make superfluous.  forgotten: units that have no state any more.  A name of
        meta with "" is forgotten as well.
        """
        fresh = self._fresh(epoch, events)
        with as_store_error(self.path, "written"):
            try:
                self._database.execute("BEGIN IMMEDIATE")
                stored, extent = self._write(epoch, fresh, states, meta, aside, idle, replaced)
                self._forget(forgotten, extent.last)
                self._database.execute("COMMIT")
                self._extent = extent
                newest = max((event.record for event in stored), default=0)
                if newest > 0:
                    self._newest[epoch] = max(self._newest[epoch], newest)
            except BaseException:
                self._roll_back()
                raise
        return stored

    def known(self, epoch: str, records: Sequence[int]) -> set[int]:
        """Those of records that are stored for epoch."""
        wanted = {record for record in records if record > 0}
        # Nearly always: records come in their order, and every commit asks.
        if not wanted or min(wanted) > self._newest_record(epoch):
            return set()
        epoch_id = self._epochs[epoch]
        with as_store_error(self.path, "read"):
            # Records come in runs, so the range holds little besides what is asked for.
            rows = self._database.execute(
                "SELECT record FROM event WHERE epoch_id = ? AND record BETWEEN ? AND ?"
                " AND record > 0",
                (epoch_id, min(wanted), max(wanted)),
            )
            return {record for (record,) in rows if record in wanted}

    def states(self) -> dict[str, LuState]:
        """The newest state of every logical unit, by its designator."""
        with as_store_error(self.path, "read"):
            rows = self._database.execute(
                "SELECT unit.lu, document FROM state JOIN unit ON unit.id = state.unit_id"
            ).fetchall()
        return {lu: self._state(lu, document) for lu, document in rows}

    def base(self) -> tuple[int, dict[str, LuState]]:
        """Where replaying begins: a number, and the states as they were after that event.

        0 and no states while the history is complete.  The states, and the events with
        greater numbers, lead to what states() gives.  While another process writes, call it
        in a snapshot().
        """
        with as_store_error(self.path, "read"):
            seq, rows = room.base(self._database)
        return seq, {lu: self._state(lu, document) for lu, document in rows}

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything read within belongs together, whatever another process stores meanwhile.

        Not for long while an agent runs: its log cannot be shortened until the end.
        """
        with as_store_error(self.path, "read"):
            self._database.execute("BEGIN")
        try:
            yield
        finally:
            self._database.execute("ROLLBACK")

    def events(self, **wanted: Any) -> Iterator[Event]:
        """The events of EventQuery(**wanted), in the order of their numbers.

        Reads in portions: what is stored meanwhile is included, and no transaction stays open
        between two events.
        """
        for portion in self.portions(EventQuery(**wanted)):
            yield from portion

    def portions(self, query: EventQuery) -> Iterator[list[Event]]:
        """As events(), in bounded steps; an empty portion found nothing in what it looked at."""
        units = None if query.lus is None else self._unit_ids(query.lus)
        portions = history.portions(self._database, query, units)
        while True:
            with as_store_error(self.path, "read"):
                portion = next(portions, None)
            if portion is None:
                return
            try:
                yield list(history.events_of(portion))
            except MalformedError as error:
                raise damaged(self.path, str(error)) from error

    def meta(self) -> dict[str, str]:
        """Everything that commit() stored as meta, the newest value of each name."""
        with as_store_error(self.path, "read"):
            return dict(self._database.execute("SELECT name, value FROM meta"))

    def size(self) -> Size:
        """How much is stored."""
        with as_store_error(self.path, "read"):
            held = room.extent(self._database)
        return Size(held.events, held.first, held.last, self.bytes)

    @property
    def bytes(self) -> int:
        """On the disk; the write-ahead log is counted, which is there while the file is open."""
        taken = 0
        for each in (self.path, Path(f"{self.path}-wal")):
            with suppress(FileNotFoundError):  # no log yet, or both were deleted
                taken += each.stat().st_size
        return taken

    def aside(self) -> list[Aside]:
        """The records that could not be digested, oldest first."""
        with as_store_error(self.path, "read"):
            rows = self._database.execute(
                "SELECT name, time, problem, raw FROM aside"
                " JOIN epoch ON epoch.id = aside.epoch_id ORDER BY aside.id"
            ).fetchall()
        return [Aside(time, problem, raw, epoch) for epoch, time, problem, raw in rows]

    def require_present(self) -> None:
        """Raise StoreError where the path is not this database any more, or plainly damaged.

        SQLite goes on with a file that was deleted or replaced under it, and with what it
        remembers of one that was overwritten: everything stored from then on is lost.
        """
        self._file.require_same()

    @classmethod
    def damage(cls, path: Path) -> DamagedError | None:
        """What is wrong with the pages of a database that another connection is using.

        Reads all of it (slow), to be called beside the thread that uses it.  That connection finds
        out for itself only when it reads the page, which may be in its memory.
        """
        try:
            with cls.open(path, readonly=True) as store:
                store.verify()
        except DamagedError as error:
            return error
        except StoreError:
            pass  # busy, or gone: whoever uses it hears of that
        return None

    def verify(self) -> None:
        """Read the whole database and raise StoreError where it is damaged (slow)."""
        with as_store_error(self.path, "read"):
            _check(self._database, self.path)

    def _fresh(self, epoch: str, events: Sequence[Event]) -> list[Event]:
        seen = self.known(epoch, [event.record for event in events])
        fresh: list[Event] = []
        for event in events:
            if event.record > 0:
                if event.record in seen:
                    continue
                seen.add(event.record)
            fresh.append(event)
        return fresh

    def _newest_record(self, epoch: str) -> int:
        """The greatest number of a record that is stored for epoch, or was; 0: none yet."""
        newest = self._newest.get(epoch)
        if newest is None:
            with as_store_error(self.path, "read"):
                (newest,) = self._database.execute(
                    "SELECT max(record) FROM event WHERE epoch_id = ? AND record > 0",
                    (self._epochs.get(epoch),),
                ).fetchone()
            newest = self._newest[epoch] = newest or 0
        return newest

    def _write(
        self,
        epoch: str,
        events: Sequence[Event],
        states: Sequence[LuState],
        meta: Mapping[str, str] | None,
        aside: Sequence[Aside],
        idle: Container[int],
        replaced: Sequence[int],
    ) -> tuple[list[Event], Extent]:
        now = self._extent
        epoch_id = self._id(self._epochs, "INSERT INTO epoch (name) VALUES (?)", epoch)
        stored = [
            event._replace(seq=seq, epoch=epoch) for seq, event in enumerate(events, now.last + 1)
        ]
        rows = [
            (*row_of(event, epoch_id, self._unit_id(event.lu)), int(event.record in idle))
            for event in stored
        ]
        self._insert(rows)
        last = now.last + len(stored)
        self._database.executemany(
            "INSERT OR REPLACE INTO state (unit_id, seq, document) VALUES (?, ?, ?)",
            [(self._unit_id(state.lu), last, codec.to_text(state)) for state in states],
        )
        if meta:
            self._database.executemany(
                "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)",
                [(name, value) for name, value in meta.items() if value],
            )
            self._database.executemany(
                "DELETE FROM meta WHERE name = ?",
                [(name,) for name, value in meta.items() if not value],
            )
        self._put_aside(epoch_id, aside)
        gone = 0
        for seq in replaced:
            gone += self._database.execute("DELETE FROM event WHERE seq = ?", (seq,)).rowcount
        now = now._replace(events=now.events + len(rows) - gone, last=last)
        units = {self._unit_id(event.lu) for event in stored}
        return stored, self._bounded(now, 4 * len(rows) + _PRUNED_BESIDES, units)

    def _bounded(self, now: Extent, at_most: int, units: Iterable[int]) -> Extent:
        """Make room where it is needed, at most for so many events at once.

        units: those to which something was added.
        """
        over = min(at_most, room.excess(self._database, now.events, self._limits))
        now = room.with_boundary(self._database, now, over, self._limits)
        if over:
            now = room.prune(self._database, now, over, self._limits, units)
        self._database.execute(
            "UPDATE extent SET events = ?, pruned = ?", (now.events, now.pruned)
        )
        return now

    def _forget(self, lus: Iterable[str], seq: int) -> None:
        units = [(self._units[lu],) for lu in lus if lu in self._units]
        self._database.executemany("DELETE FROM state WHERE unit_id = ?", units)
        room.forget(self._database, units, seq)

    def _put_aside(self, epoch_id: int, aside: Sequence[Aside]) -> None:
        if not aside:
            return
        self._database.executemany(
            "INSERT INTO aside (epoch_id, time, problem, raw) VALUES (?, ?, ?, ?)",
            [(epoch_id, each.time, each.problem, each.raw) for each in aside],
        )
        self._database.execute(
            "DELETE FROM aside WHERE id <= (SELECT max(id) FROM aside) - ?", (_ASIDE,)
        )

    def _insert(self, rows: list[Row]) -> None:
        try:
            self._database.executemany(INSERT, rows)
        except UnicodeEncodeError:
            seqs = [(row[0],) for row in rows]
            self._database.executemany("DELETE FROM event WHERE seq = ?", seqs)
            self._database.executemany(INSERT, [without_surrogates(row) for row in rows])

    def _roll_back(self) -> None:
        # SQLite itself has rolled back after some failures, a full disk among them.
        if self._database.in_transaction:
            self._database.execute("ROLLBACK")
        # What is remembered of the database may be ahead of it, or behind a COMMIT.
        self._newest.clear()
        with as_store_error(self.path, "read"):
            self._epochs = dict(self._database.execute("SELECT name, id FROM epoch"))
            self._units = dict(self._database.execute("SELECT lu, id FROM unit"))
            self._extent = room.extent(self._database)

    def _unit_id(self, lu: str) -> int:
        return self._id(self._units, "INSERT INTO unit (lu) VALUES (?)", lu)

    def _id(self, ids: dict[str, int], insert: str, name: str) -> int:
        number = ids.get(name)
        if number is None:
            number = self._database.execute(insert, (name,)).lastrowid or 0
            ids[name] = number
        return number

    def _unit_ids(self, lus: Sequence[str]) -> tuple[int, ...]:
        with as_store_error(self.path, "read"):
            found = [
                self._database.execute("SELECT id FROM unit WHERE lu = ?", (lu,)).fetchone()
                for lu in lus
                if lu.isprintable()  # a name that UTF-8 cannot carry is no unit's
            ]
        return tuple(row[0] for row in found if row is not None)

    def _state(self, lu: str, document: str) -> LuState:
        try:
            return codec.from_json(json.loads(document))
        except (MalformedError, ValueError) as error:
            raise damaged(self.path, f"state of {lu}: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # SQLite would make it by the umask, and a state directory may be open to all.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        os.close(os.open(path, flags, 0o600))
    except (FileExistsError, NotADirectoryError) as error:
        raise StoreError(
            f"{path.parent} is not a directory", hint="name another --state-dir"
        ) from error
    except OSError as error:
        raise StoreError(
            f"{path} cannot be made: {os.strerror(error.errno or 0)}",
            hint=f"see who may use {path.parent}, and whether its file system is full",
        ) from error
    with as_store_error(path, "opened"):
        return sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)


def _connect_readonly(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise StoreError(f"{path} is not there, or is no file")
    # A store that was copied without its log can be in a place where none may be made.
    log = Path(f"{path}-wal")
    alone = not log.exists() and not os.access(path.parent, os.W_OK)
    mode = "mode=ro&immutable=1" if alone else "mode=ro"
    with as_store_error(path, "opened"):
        return sqlite3.connect(
            f"file:{quote(str(path))}?{mode}",
            uri=True,
            timeout=5.0,
            isolation_level=None,
            check_same_thread=False,
        )


def _check(database: sqlite3.Connection, path: Path) -> None:
    found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise damaged(path, str(found))
