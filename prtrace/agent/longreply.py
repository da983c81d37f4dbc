"""Replies of PR IN that are longer than what a record holds (pure).

A record holds the first 8 KiB (PR_DATA_LARGE in bpf/pr_record.h); some 170 registrations of FC
ports fill that, and the state learns nothing from a part.  Of the agent's own commands the whole
reply is here too.  It is told as a second event of the same command, with the record's span.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prtrace.state.event import Event


@dataclass(frozen=True, slots=True)
class LongReply:
    """A whole reply."""

    cdb: bytes
    received: bytes
    begun_ns: int
    """CLOCK_MONOTONIC before the command was sent."""
    ended_ns: int
    """CLOCK_MONOTONIC after its answer came."""


def completed(cut: Event | None, replies: Iterable[LongReply]) -> Event | None:
    """The event cut, of a reply that its record cuts, with the whole reply; None without it.

    The reply's span has the command's in it, and it begins with what the record holds.
    """
    if cut is None:
        return None
    for reply in replies:
        within = reply.begun_ns <= cut.start_ns <= cut.done_ns <= reply.ended_ns
        if within and reply.cdb == cut.cdb and reply.received.startswith(cut.data):
            return cut._replace(seq=0, record=0, data=reply.received, truncated=False)
    return None
