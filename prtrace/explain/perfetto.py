"""A chart as trace events, which ui.perfetto.dev and chrome://tracing read (pure).

Source: "Trace Event Format" of the Catapult project: "X" is a complete event, "i" an instant, "M"
names a process or a thread; ts and dur are microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from prtrace.explain.chart import Chart


def trace(charts: Iterable[Chart]) -> dict[str, Any]:
    """The trace of all units: a process for each unit, a thread for each nexus."""
    events = [event for number, chart in enumerate(charts, 1) for event in _unit(number, chart)]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _unit(process: int, chart: Chart) -> Iterator[dict[str, Any]]:
    start = chart.start // 1000
    yield _name("process_name", process, 0, chart.lu)
    yield _name("thread_name", process, 0, "the whole unit")
    for lane, name in enumerate(chart.lanes):
        yield _name("thread_name", process, lane + 1, name)
    for band in chart.bands:
        yield {
            "ph": "X",
            "name": band.text,
            "cat": band.what.value,
            "pid": process,
            "tid": band.lane + 1,
            "ts": start + band.begin,
            "dur": band.end - band.begin,
        }
    for mark in chart.marks:
        yield {
            "ph": "i",
            "s": "t",
            "name": mark.what,
            "cat": mark.sort.value,
            "pid": process,
            "tid": mark.lane + 1,
            "ts": start + mark.at,
            "args": {
                "who": mark.who,
                "result": mark.result,
                "count": mark.count,
                "host": mark.host,
            },
        }


def _name(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}
