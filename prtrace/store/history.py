"""Reading the history in bounded steps.

An index finds the numbers of what is asked for, and their rows are read; no step looks at
more than LOOKED_AT index entries and PORTION rows, whatever is asked for and however little
of it there is.  So whoever reads can stop, or let others read, between two steps.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from prtrace.state.event import CHANGING, Event
from prtrace.store.rows import SELECT, event_of

LOOKED_AT: Final = 4096
"""Index entries that a step looks at, at most: a millisecond."""
PORTION: Final = 64
"""Rows that a step reads, at most: some 25 KiB, 600 KiB where all have the longest data."""
MOST_UNITS: Final = 512
"""Units that one query may name: each is looked up by itself."""
_CHANGING: Final = f"command IN ({', '.join(repr(command.value) for command in CHANGING)})"
"""In the words of the partial indexes, or SQLite does not take them."""
_TIME: Final = 4
"""Where SELECT has the event's time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventQuery:
    """Which events, in the order of their numbers.

    lus: of these logical units, None for all.  since_seq: with greater numbers.  since_time:
    not older, nanoseconds since the epoch.  limit: at most so many.  last: the newest so many
    of what fits.  changes: of commands that can change reservations only.
    """

    lus: Sequence[str] | None = None
    since_seq: int = 0
    since_time: int = 0
    limit: int | None = None
    last: int | None = None
    changes: bool = False


Units = tuple[int, ...] | None
"""Numbers in the table unit; None for all."""


def portions(database: sqlite3.Connection, query: EventQuery, units: Units) -> Iterator[list[Any]]:
    """The rows that query asks for, step by step; a step that found none gives an empty list.

    units: of query.lus.

    Ends after a step that found nothing behind the rows before it: what was stored while the
    caller worked on the last portion is not missed.
    """
    at = query.since_seq
    if query.last is not None:
        for start in _newest(database, query, units, query.last):
            at = start
            yield []
    elif query.since_time:
        for start in _not_before(database, query.since_time):
            at = max(query.since_seq, start)
            yield []
    left = query.limit
    while left is None or left > 0:
        at_most = PORTION if left is None else min(left, PORTION)
        numbers = _numbers(database, units, at, at_most, changes=query.changes)
        if not numbers:
            return
        rows = _rows(database, numbers)
        at = numbers[-1]
        if query.since_time:
            # A clock that was set back leaves older times behind newer ones.
            rows = [row for row in rows if row[_TIME] >= query.since_time]
        left = None if left is None else left - len(rows)
        yield rows


def events_of(rows: Sequence[Any]) -> Iterator[Event]:
    """The rows' events; MalformedError where one is damaged."""
    return map(event_of, rows)


def _rows(database: sqlite3.Connection, numbers: Sequence[int]) -> list[Any]:
    marks = ", ".join("?" * len(numbers))
    return database.execute(
        f"{SELECT} WHERE event.seq IN ({marks}) ORDER BY event.seq", tuple(numbers)
    ).fetchall()


def _numbers(
    database: sqlite3.Connection, units: Units, after: int, at_most: int, *, changes: bool
) -> list[int]:
    """The next numbers of events of units, in their order."""
    where = f"AND {_CHANGING}" if changes else ""
    if units is None:
        return _found(database, f"seq > ? {where}", (after, at_most))
    each = max(1, min(at_most, LOOKED_AT // max(1, len(units))))
    found: list[int] = []
    whole_to = None
    for unit in units:
        numbers = _found(database, f"unit_id = ? AND seq > ? {where}", (unit, after, each))
        found += numbers
        if len(numbers) == each:
            # This unit may have more behind its last one here: others wait for those.
            whole_to = min(whole_to or numbers[-1], numbers[-1])
    found.sort()
    return [seq for seq in found if whole_to is None or seq <= whole_to][:at_most]


def _found(database: sqlite3.Connection, where: str, values: tuple[int, ...]) -> list[int]:
    """The numbers that an index gives; the last value is how many of them at most."""
    rows = database.execute(
        f"SELECT seq FROM event WHERE {where} ORDER BY seq LIMIT ?",  # noqa: S608
        values,
    )
    return [seq for (seq,) in rows]


def _newest(
    database: sqlite3.Connection, query: EventQuery, units: Units, wanted: int
) -> Iterator[int]:
    """Walks back over what query asks for; the number before the newest so many, so far."""
    if wanted <= 0:
        yield (1 << 63) - 1
        return
    before, left = (1 << 63) - 1, wanted
    where = f"AND {_CHANGING}" if query.changes else ""
    chosen = [""] if units is None else [f"AND unit_id = {unit:d}" for unit in units]
    each = max(1, LOOKED_AT // max(1, len(chosen)))
    while True:
        found: list[tuple[int, int]] = []
        whole_from = 0
        for unit in chosen:
            rows = database.execute(
                f"SELECT seq, {'time' if query.since_time else '0'} FROM event"  # noqa: S608
                f" WHERE seq > ? AND seq < ? {unit} {where} ORDER BY seq DESC LIMIT ?",
                (query.since_seq, before, each),
            ).fetchall()
            found += rows
            if len(rows) == each:
                whole_from = max(whole_from, rows[-1][0])
        found.sort(reverse=True)
        for seq, time in found:
            if seq < whole_from:
                break
            if time >= query.since_time:
                left -= 1
                if left == 0:
                    yield seq - 1
                    return
        if not whole_from:
            yield query.since_seq
            return
        before = whole_from
        yield before - 1


def _not_before(database: sqlite3.Connection, time: int) -> Iterator[int]:
    """Walks over the times from time on; the number before the first event of those, so far."""
    first, at = (1 << 63) - 1, (time, 0)
    while True:
        rows = database.execute(
            "SELECT time, seq FROM event WHERE (time, seq) >= (?, ?) ORDER BY time, seq LIMIT ?",
            (*at, LOOKED_AT),
        ).fetchall()
        first = min([first, *(seq for _, seq in rows)])
        yield first - 1
        if len(rows) < LOOKED_AT:
            return
        at = rows[-1][0], rows[-1][1] + 1
