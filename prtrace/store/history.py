"""Reading the history in portions, and keeping it bounded without losing what it led to.

At every boundary (a tenth of what is kept lies between two) the states of the units that
changed since the last one are copied to checkpoint.  Deleting the oldest events up to any
number leaves, with the first boundary that is not before it, a place to replay from.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from prtrace.state.event import CHANGING, Event
from prtrace.store.rows import SELECT, event_of

_PORTION: Final = 256
"""Events read at once: some 100 KiB, well under 10 ms."""


@dataclass(frozen=True, slots=True)
class Query:
    """Which events: see Store.events.  units: ids in the table unit, None for all."""

    units: tuple[int, ...] | None = None
    since_seq: int = 0
    since_time: int = 0
    limit: int | None = None
    last: int | None = None
    changes: bool = False

    @property
    def condition(self) -> str:
        """The WHERE clause, whose parameters values() gives."""
        parts = ["seq > ?"]
        if self.since_time:
            parts.append("time >= ?")
        if self.units is not None:
            parts.append(f"unit_id IN ({', '.join('?' * len(self.units))})")
        if self.changes:
            parts.append(f"command IN ({', '.join('?' * len(CHANGING))})")
        return " AND ".join(f"event.{part}" for part in parts)

    def values(self, since_seq: int) -> list[int | str]:
        """The parameters of condition."""
        times = [self.since_time] if self.since_time else []
        changing = [command.value for command in CHANGING] if self.changes else []
        return [since_seq, *times, *(self.units or ()), *changing]


def extent(database: sqlite3.Connection) -> tuple[int, int, int]:
    """The first and last number in the history, and the last boundary; 0 where there is none."""
    first, last = database.execute(
        "SELECT (SELECT min(seq) FROM event), (SELECT max(seq) FROM event)"
    ).fetchone()
    (boundary,) = database.execute("SELECT max(seq) FROM boundary").fetchone()
    return first or 0, last or 0, boundary or 0


def portions(database: sqlite3.Connection, query: Query) -> Iterator[list[Any]]:
    """The rows that query asks for, a portion at a time, none of them empty.

    Ends with a look that found nothing, never with one that found few: what was stored while
    the caller worked on the last portion is not missed.
    """
    at = max(query.since_seq, _start(database, query))
    left = query.limit
    statement = f"{SELECT} WHERE {query.condition} ORDER BY event.seq LIMIT ?"
    while left is None or left > 0:
        size = _PORTION if left is None else min(left, _PORTION)
        rows = database.execute(statement, (*query.values(at), size)).fetchall()
        if not rows:
            return
        yield rows
        at = rows[-1][0]
        left = None if left is None else left - len(rows)


def events_of(rows: Sequence[Any]) -> Iterator[Event]:
    """The rows' events; MalformedError where one is damaged."""
    return map(event_of, rows)


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


def prune(database: sqlite3.Connection, first: int, up_to: int, at_most: int) -> int:
    """Delete the events up to a number, at most so many of them; gives the first one left.

    first: the first one there now, 0 where it has to be looked for.
    """
    if first == 0:
        first = extent(database)[0]
    if first == 0 or up_to < first:
        return first
    up_to = min(up_to, first + at_most - 1)
    database.execute("DELETE FROM event WHERE seq <= ?", (up_to,))
    base_seq = _base_seq(database, up_to)
    dropped = database.execute("DELETE FROM boundary WHERE seq < ?", (base_seq,)).rowcount
    if dropped:
        database.execute(
            "DELETE FROM checkpoint WHERE seq < (SELECT max(newer.seq) FROM checkpoint AS newer"
            " WHERE newer.unit_id = checkpoint.unit_id AND newer.seq <= ?)",
            (base_seq,),
        )
    return up_to + 1


def base(database: sqlite3.Connection) -> tuple[int, list[tuple[str, str]]]:
    """The number after which replaying begins, and (lu, state document) as they were then.

    To be called in a transaction, or by the only writer.
    """
    first = extent(database)[0]
    if first <= 1:
        return 0, []
    seq = _base_seq(database, first - 1)
    rows = database.execute(
        "SELECT unit.lu, checkpoint.document FROM checkpoint"
        " JOIN unit ON unit.id = checkpoint.unit_id"
        " WHERE checkpoint.seq = (SELECT max(newest.seq) FROM checkpoint AS newest"
        " WHERE newest.unit_id = checkpoint.unit_id AND newest.seq <= ?)",
        (seq,),
    ).fetchall()
    return seq, rows


def _base_seq(database: sqlite3.Connection, pruned: int) -> int:
    """The first boundary that no deleted event follows."""
    (seq,) = database.execute("SELECT min(seq) FROM boundary WHERE seq >= ?", (pruned,)).fetchone()
    return int(seq)


def _start(database: sqlite3.Connection, query: Query) -> int:
    """The number after which query's events begin, where that is cheaper to know beforehand."""
    if query.last is not None:
        (seq,) = database.execute(
            f"SELECT min(seq) FROM (SELECT event.seq FROM event WHERE {query.condition}"  # noqa: S608
            " ORDER BY event.seq DESC LIMIT ?)",
            (*query.values(query.since_seq), max(0, query.last)),
        ).fetchone()
    elif query.since_time:
        (seq,) = database.execute(
            "SELECT min(seq) FROM event WHERE time >= ?", (query.since_time,)
        ).fetchone()
    else:
        return 0
    # Nothing fits: begin after the last number there can be.
    return (1 << 63) - 1 if seq is None else int(seq) - 1
