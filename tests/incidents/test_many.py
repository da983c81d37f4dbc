"""A unit with a million stored events is explained like one with a thousand."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path

import pytest
from unit.explain import story

from prtrace.cli.explain import EVENTS, account_lines
from prtrace.cli.rebuild import Rebuilt
from prtrace.explain.account import account
from prtrace.explain.timeline import timeline
from prtrace.state.event import Event
from prtrace.state.view import unit_view
from prtrace.store.database import FILE, Store

FEW, MANY = 1_000, 1_000_000
STORIES = Path(story.__file__).with_name("stories")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def filled(file: Path, name: str, count: int) -> Rebuilt:
    """Store a story whose last event comes again and again, count events in all."""
    events = story.read(STORIES / f"{name}.txt").hosts[""]
    last, rebuilt = events[-1], Rebuilt()
    for more in range(1, FEW - len(events) + 1):
        events.append(
            last._replace(
                seq=last.seq + more,
                record=last.record + more,
                time=last.time + more * 1000,
                start_ns=last.start_ns + more * 1000,
                done_ns=last.done_ns + more * 1000,
            )
        )
    with Store.open(file, keep_events=2 * MANY, keep_bytes=1 << 40) as store:
        folded = [rebuilt.add(event) for event in events]
        store.commit("e", folded, [rebuilt.states[story.LU]])
    with sqlite3.connect(file) as database:
        columns = [name for _, name, *_ in database.execute("PRAGMA table_info(event)")]
        numbered = {"seq", "record", "time"}
        same = ", ".join(name for name in columns if name not in numbered)
        database.execute(
            f"WITH RECURSIVE more(n) AS (SELECT 1 WHERE ? > 0 UNION ALL"
            f" SELECT n + 1 FROM more WHERE n < ?)"
            f" INSERT INTO event (seq, record, time, {same})"
            f" SELECT seq + n, record + n, time + n * 1000, {same} FROM more, event WHERE seq = ?",
            (count - FEW, count - FEW, FEW),
        )
        database.execute("UPDATE extent SET events = ?", (count,))
    database.close()
    return rebuilt


def explained(file: Path, rebuilt: Rebuilt) -> float:
    """Seconds of CPU from the store to the words: both ends of the agent's socket."""
    state = rebuilt.states[story.LU]
    unit = unit_view(state, rebuilt.unit(state), rebuilt.newest)
    before = time.process_time()
    with Store.open(file, readonly=True) as store:
        sent = [json.dumps(each.to_json()) for each in store.events(lus=[story.LU], last=EVENTS)]
    events = (Event.from_json(json.loads(each)) for each in sent)
    lines = list(account_lines(account(unit, [("", timeline(events, story.LU))])))
    assert lines
    return time.process_time() - before


@pytest.mark.parametrize(
    "name", ["other-process-of-this-host", "reserved-before-a-day-of-readings"]
)
def test_a_million_events(tmp_path: Path, name: str) -> None:
    taken = {}
    for count in (FEW, MANY):
        file = tmp_path / str(count) / FILE
        rebuilt = filled(file, name, count)
        taken[count] = min(explained(file, rebuilt) for _ in range(3))
    print(f"{name}: " + ", ".join(f"{count}: {each:.3f} s" for count, each in taken.items()))
    assert taken[MANY] < 10 * taken[FEW]
    assert taken[MANY] < 1
