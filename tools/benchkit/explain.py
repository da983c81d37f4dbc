"""explain of a unit with 1,000,000 stored events, against the same with 1,000.

Two stores are made by the store itself.  Measured is what an answer takes on both sides of the
socket, without the socket: the store's query, the events as JSON and back, the timeline and the
account.  CPU time, natively, in processes of their own, alternately.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchkit.figure import Figure, Ratio, Series

_MANY, _FEW = 1_000_000, 1_000
_REPEATS = 5


def run() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        many, few = Path(folder) / "many", Path(folder) / "few"
        for path, events in ((many, _MANY), (few, _FEW)):
            _child("make", str(path), str(events))
        took = [(float(_child("ask", str(many))), float(_child("ask", str(few)))) for _ in
                range(_REPEATS)]  # fmt: skip
    at_many = Series.of([each for each, _ in took], "s of CPU")
    at_few = Series.of([each for _, each in took], "s of CPU")
    yield Figure(
        f"explain, {_MANY:,} events",
        (
            Ratio(at_many.median / at_few.median, f"with {_FEW:,}", 10),
            Ratio(at_many.median, "", 1, unit="s of CPU"),
        ),
        {f"{_MANY:,}": at_many, f"{_FEW:,}": at_few},
    )


def _child(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "benchkit.in_explain", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=900,
    )
    return json.dumps(json.loads(done.stdout or "0"))
