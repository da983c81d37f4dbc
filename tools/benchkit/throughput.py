"""Events from ring to store, and back out of their JSON: processor time for each, natively.

Floor: parsing alone, which is a record's bytes to its header, CDB and list or reply.  The
rate of `prtrace replay` is that of the whole command in a process of its own.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchkit.figure import Figure, Ratio, Series
from benchkit.workload import Workload
from prtrace.agent.surroundings import Surroundings
from prtrace.agent.tracker import Tracker
from prtrace.linux.process import start_of
from prtrace.probe.record import Record
from prtrace.scsi.cdb import PrInCdb, PrOutCdb, parse_cdb
from prtrace.scsi.codes import ReservedCode
from prtrace.scsi.parameter import parse_list
from prtrace.scsi.reply import parse_reply
from prtrace.state.event import Event
from prtrace.store.database import Store

_RECORDS = 20_000
_UNITS = 64
_REPEATS = 3
_BATCH = 256
"""As prtrace/agent/watch.py reads them."""
_EPOCH = "0" * 16
_RATE = 5000
_MOST = 8


def run() -> Iterator[Figure]:
    pid = os.getpid()
    started = start_of(pid)
    if started is None:
        raise SystemExit("this process is not to be found below /proc")
    raws = list(Workload(_UNITS, pid, started).records(_RECORDS))
    shm = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="prtrace-bench-", dir=shm) as name:
        folder = Path(name)
        parsing, tracking = _alternately(
            lambda: _parse(raws), lambda: _track(raws, folder / f"{time.time_ns()}.db")
        )
        stored = _track(raws, folder / "last.db")
        lines = folder / "events.jsonl"
        with lines.open("w") as file:
            file.writelines(json.dumps(event.to_json()) + "\n" for event in stored)
        replaying = Series.of([_replay(lines) for _ in range(_REPEATS)], "µs")
    yield Figure(
        "ring to store, CPU for each event",
        (
            Ratio(tracking.median / parsing.median, "parsing alone", _MOST),
            Ratio(1e6 / tracking.median, "", unit="events/s"),
        ),
        {"agent's path": tracking, "parsing alone": parsing},
    )
    yield Figure(
        "replay, PR commands a second of CPU",
        (
            Ratio(1e6 / replaying.median, "", _RATE, at_least=True, unit="/s"),
            Ratio(replaying.median / parsing.median, "parsing alone", _MOST),
        ),
        {"replay": replaying},
    )


def _alternately(one: Callable[[], object], other: Callable[[], object]) -> tuple[Series, Series]:
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(_REPEATS):
        for work, into in ((one, times[0]), (other, times[1])):
            begun = time.process_time()
            work()
            into.append((time.process_time() - begun) / _RECORDS * 1e6)
    return Series.of(times[0], "µs"), Series.of(times[1], "µs")


def _parse(raws: list[bytes]) -> None:
    for raw in raws:
        record = Record.parse(raw)
        cdb = parse_cdb(record.cdb)
        if isinstance(cdb, PrOutCdb) and not isinstance(cdb.action, ReservedCode):
            parse_list(record.data, cdb.action)
        elif isinstance(cdb, PrInCdb) and not isinstance(cdb.action, ReservedCode):
            parse_reply(cdb.action, record.data)


def _track(raws: list[bytes], path: Path) -> list[Event]:
    """What Watch does with a batch, without the ring."""
    stored: list[Event] = []
    with Store.open(path) as store:
        tracker = Tracker(_EPOCH, store.states(), Surroundings())
        for at in range(0, len(raws), _BATCH):
            proposal = tracker.propose(raws[at : at + _BATCH], frozenset())
            stored += store.commit(_EPOCH, proposal.events, list(proposal.states.values()), None)
            tracker.accept(proposal)
    doubtful = [state for state in tracker.states.values() if state.doubts]
    if len(stored) != len(raws) or doubtful:
        raise SystemExit(f"{len(stored)} of {len(raws)} stored, {len(doubtful)} units in doubt")
    return stored


def _replay(lines: Path) -> float:
    """Microseconds of processor time for each event; start-up of the command included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "prtrace", "replay", str(lines)],
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=120,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent / _RECORDS * 1e6
