"""A record that cannot be digested: its place in the history, and the doubt that it leaves.

What happened is not known then, so the unit is in doubt; which unit it was may itself be
unknown, and then all of them are.
"""

from __future__ import annotations

import time
from typing import Final

from prtrace.agent.tracker import Proposal, Tracker
from prtrace.errors import MalformedError, PrtraceError
from prtrace.linux.text import clean
from prtrace.probe.record import Record
from prtrace.state.event import Command, Event

_PROBLEM_LIMIT: Final = 300
_NOBODY: Final = "unknown"
"""The unit of a record that names none, where no unit is known at all."""


def put_aside(tracker: Tracker, raw: bytes, error: Exception) -> Proposal:
    """The events that tell of a record which raised error, and the states they lead to.

    The first event has the record's number, so that the record is told of once.
    """
    record = _parsed(raw)
    number, nexus = (0, "") if record is None else (record.header.seq, record.nexus)
    now, at = time.time_ns(), time.monotonic_ns()
    told = Event(
        Command.LOST,
        record=number,
        time=now,
        start_ns=at,
        done_ns=at,
        nexus=nexus,
        target="" if record is None else record.target,
        problem=clean(
            f"a record cannot be digested: {type(error).__name__}: {error}", _PROBLEM_LIMIT
        ),
    )
    proposal = Proposal(numbers=[number] if number else [])
    units = _units(tracker, record) or tracker.everybody(proposal) or [_NOBODY]
    for lu in units:
        tracker.add(proposal, told._replace(lu=lu))
        told = told._replace(record=0)
    return proposal


def _parsed(raw: bytes) -> Record | None:
    try:
        return Record.parse(raw)
    except MalformedError:
        return None


def _units(tracker: Tracker, record: Record | None) -> list[str]:
    """Whose record it is, if that can be told."""
    if record is not None:
        try:
            return [tracker.surroundings.unit(record.nexus, record.page83)]
        except (OSError, PrtraceError):
            pass  # which unit it is may be the very thing that cannot be found out
    return []
