"""Recordings with changed lines: refused, or explained and drawn like any other."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explain.story import read
from prtrace.cli.explain import account_lines
from prtrace.cli.history import in_order, look, units_of
from prtrace.errors import MalformedError, PrtraceError
from prtrace.explain.account import account
from prtrace.explain.chart import chart
from prtrace.explain.recording import Recording
from prtrace.explain.statement import recordings, statements

STORIES = sorted(Path(__file__).with_name("stories").glob("*.txt"))
LINES = [
    [json.loads(line) for line in Recording(host, tuple(events)).lines()]
    for file in STORIES
    for host, events in read(file).hosts.items()
]
VALUES = st.sampled_from(
    [None, True, 0, -1, 1.5, -5e300, 1 << 62, 1 << 70, "", "x" * 300, "0x", "GOOD", "\u202e",
     "\ud800", "2026-09-22T12:00:00+09:00", "1990-01-01T00:00:00Z", "9999-12-31T23:59:59Z",
     [], {}, [[]], [{}]]
)  # fmt: skip


def made_of(recorded):
    """Everything that is said and drawn of recordings."""
    for lu in units_of(recorded):
        looked = look([each for each in recorded if any(e.lu == lu for e in each.events)], lu)
        told = account(looked.unit, looked.steps, joined=looked.joined)
        json.dumps(told)
        list(account_lines(told))
        [each.as_json() for each in (*statements(told), *recordings(told))]
        ahead, clock = {}, ""
        if looked.joined is not None:
            ahead, clock = looked.joined.ahead, looked.joined.reference
        json.dumps(chart(lu, looked.steps, ahead, clock).to_json())
    in_order(recorded, [])


def changed(lines, draw):
    """The lines of a recording with a few changes."""
    lines = [dict(each) for each in lines]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(["member", "drop", "twice", "swap"])):
            case "member":
                lines[at][draw(st.sampled_from(sorted(lines[at])))] = draw(VALUES)
            case "drop":
                lines[at].pop(draw(st.sampled_from(sorted(lines[at]))), None)
            case "twice":
                lines.insert(at, dict(lines[draw(st.integers(0, len(lines) - 1))]))
            case _:
                other = draw(st.integers(0, len(lines) - 1))
                lines[at], lines[other] = lines[other], lines[at]
        lines = [each for each in lines if each] or [{"schema": "x"}]
    return lines


@settings(max_examples=3 * settings.default.max_examples)
@given(st.lists(st.sampled_from(LINES), min_size=1, max_size=2), st.data())
def test_any_change_is_refused_or_explained(several, data):
    with contextlib.suppress(PrtraceError):
        made_of(
            [
                Recording.parse(
                    [json.dumps(line).encode() for line in changed(lines, data.draw)], "file"
                )
                for lines in several
            ]
        )


def test_a_number_that_no_counter_reaches_is_refused():
    for name in ("start_ns", "done_ns", "record", "life", "count", "attempts", "seq"):
        for value in (-1, 1 << 64, float("inf")):
            lines = [dict(each) for each in LINES[0]]
            lines[-1][name] = value
            with pytest.raises(MalformedError):
                Recording.parse([json.dumps(line).encode() for line in lines], "file")
