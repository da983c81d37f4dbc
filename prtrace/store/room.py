"""Keeping the history bounded without losing what it led to.

At every boundary (a tenth of what is kept lies between two) the states of the units that
changed since the last one are copied to checkpoint.  What is deleted lies before a boundary,
so the first boundary behind everything deleted is a place to replay from.

Who reserved, preempted and cleared is what a history is asked for.  When room is needed,
readings that told nothing new go first, the oldest of them first; then the oldest of the units
to which something is added, of each as far as it keeps its newest thousand: whoever can send
commands to one unit, as often as he likes, takes nothing away from the others.  Then the oldest of
whatever there is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final, NamedTuple

KEEP_EVENTS: Final = 1_000_000
KEEP_BYTES: Final = 2 << 30
"""How much of the disk the history may take: events with the longest data have 9 KiB each."""
_IDLE: Final = "idle = 1"
"""In the words of the partial index event_idle."""
_OF_UNIT: Final = (
    "unit_id = ? AND seq <= (SELECT seq FROM event WHERE unit_id = ?"
    " ORDER BY seq DESC LIMIT 1 OFFSET 1000)"
)
_LATEST: Final = 10
"""The newest tenth of what is kept stays whole: what happened just now is shown as it was."""


class Extent(NamedTuple):
    """What the history holds.

    events: how many.  first, last: the numbers of the oldest and the newest, 0 for none.
    boundary: the last one, 0 for none.  pruned: the greatest number that was deleted.
    """

    events: int
    first: int
    last: int
    boundary: int
    pruned: int


class HistoryLimits(NamedTuple):
    """How much is kept.  size: bytes of the database in use, without its log."""

    events: int
    size: int


def extent(database: sqlite3.Connection) -> Extent:
    """What the history holds now."""
    first, last, boundary = database.execute(
        "SELECT (SELECT min(seq) FROM event), (SELECT max(seq) FROM event),"
        " (SELECT max(seq) FROM boundary)"
    ).fetchone()
    events, pruned = database.execute("SELECT events, pruned FROM extent").fetchone()
    return Extent(events, first or 0, last or 0, boundary or 0, pruned)


def set_boundary(database: sqlite3.Connection, previous: int, seq: int) -> int:
    """Keep the states as they are now, after event seq; gives seq back."""
    # A state can change without an event right after a boundary, hence ">=".
    database.execute(
        "INSERT OR REPLACE INTO checkpoint (unit_id, seq, document)"
        " SELECT unit_id, ?, document FROM state WHERE seq >= ?",
        (seq, previous),
    )
    database.execute("INSERT INTO boundary (seq) VALUES (?)", (seq,))
    return seq


def excess(database: sqlite3.Connection, held: int, limits: HistoryLimits) -> int:
    """How many of the held events are too many, by their number or by their bytes."""
    over = max(0, held - limits.events)
    page_size, pages, free = (
        database.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_size", "page_count", "freelist_count")
    )
    used = (pages - free) * page_size
    if used > limits.size and held:
        over = max(over, held * (used - limits.size) // used + 1)
    return over


def with_boundary(
    database: sqlite3.Connection, now: Extent, over: int, limits: HistoryLimits
) -> Extent:
    """Set a boundary where one is due: a tenth of what is kept, or of what is held where
    bytes allow for less (over: how many events are too many), came since the last one.
    """
    most = min(limits.events, now.events) if over else limits.events
    if now.last - now.boundary < max(1, most // _LATEST):
        return now
    return now._replace(boundary=set_boundary(database, now.boundary, now.last))


def prune(
    database: sqlite3.Connection,
    now: Extent,
    over: int,
    limits: HistoryLimits,
    units: Iterable[int],
) -> Extent:
    """Delete so many events, as far as they do not belong to the newest; what is held then.

    now: as it is before, boundary included.  units: those to which something was added.  To be
    called in a transaction.
    """
    latest = max(1, min(limits.events, now.events) // _LATEST)
    # A replay begins at a boundary, and none may be missing behind what is deleted.
    newest = min(now.last - latest, now.boundary)
    deleted, pruned = 0, now.pruned
    conditions: list[tuple[str, tuple[int, ...]]] = [
        (_IDLE, ()),
        *((_OF_UNIT, (unit, unit)) for unit in units),
        ("1", ()),
    ]
    for condition, of in conditions:
        chosen = f"SELECT seq FROM event WHERE {condition} AND seq <= ? ORDER BY seq LIMIT ?"  # noqa: S608
        wanted = (*of, newest, over - deleted)
        (greatest,) = database.execute(f"SELECT max(seq) FROM ({chosen})", wanted).fetchone()  # noqa: S608
        if greatest is not None:
            pruned = max(pruned, greatest)
            deleted += database.execute(
                f"DELETE FROM event WHERE seq IN ({chosen})",  # noqa: S608
                wanted,
            ).rowcount
        if deleted >= over:
            break
    if pruned > now.pruned:
        _drop_boundaries(database, pruned)
    (first,) = database.execute("SELECT min(seq) FROM event").fetchone()
    return now._replace(events=now.events - deleted, first=first or 0, pruned=pruned)


def base(database: sqlite3.Connection) -> tuple[int, list[tuple[str, str]]]:
    """The number after which replaying begins, and (lu, state document) as they were then.

    To be called in a transaction, or by the only writer.
    """
    pruned = extent(database).pruned
    if not pruned:
        return 0, []
    seq = _base_seq(database, pruned)
    rows = database.execute(
        "SELECT unit.lu, checkpoint.document FROM checkpoint"
        " JOIN unit ON unit.id = checkpoint.unit_id"
        " WHERE checkpoint.seq = (SELECT max(newest.seq) FROM checkpoint AS newest"
        " WHERE newest.unit_id = checkpoint.unit_id AND newest.seq <= ?) AND document != ''",
        (seq,),
    ).fetchall()
    return seq, rows


def forget(database: sqlite3.Connection, units: list[tuple[int]], seq: int) -> None:
    """Note that nothing is known of these units after event seq: a replay behind it begins so."""
    database.executemany(
        "INSERT OR REPLACE INTO checkpoint (unit_id, seq, document) VALUES (?, ?, '')",
        [(unit, seq) for (unit,) in units],
    )


def drop_unnamed(database: sqlite3.Connection) -> None:
    """Delete the names of units of which neither a state nor an event is left."""
    database.execute(
        "DELETE FROM unit WHERE NOT EXISTS (SELECT 1 FROM state WHERE unit_id = unit.id)"
        " AND NOT EXISTS (SELECT 1 FROM event WHERE unit_id = unit.id)"
        " AND NOT EXISTS (SELECT 1 FROM checkpoint WHERE unit_id = unit.id)"
    )


def _drop_boundaries(database: sqlite3.Connection, pruned: int) -> None:
    base_seq = _base_seq(database, pruned)
    if database.execute("DELETE FROM boundary WHERE seq < ?", (base_seq,)).rowcount:
        database.execute(
            "DELETE FROM checkpoint WHERE seq < (SELECT max(newer.seq) FROM checkpoint AS newer"
            " WHERE newer.unit_id = checkpoint.unit_id AND newer.seq <= ?)",
            (base_seq,),
        )
        database.execute("DELETE FROM checkpoint WHERE document = '' AND seq <= ?", (base_seq,))


def _base_seq(database: sqlite3.Connection, pruned: int) -> int:
    """The first boundary that no deleted event follows."""
    (seq,) = database.execute("SELECT min(seq) FROM boundary WHERE seq >= ?", (pruned,)).fetchone()
    return int(seq)
