"""What went wrong on a unit, as a chain of facts (values only)."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from prtrace.model import Action, Nexus


class Certainty(enum.Enum):
    """How a link of a chain is known."""

    OBSERVED = "observed"
    """A command or an answer that a host recorded."""
    INFERRED = "inferred"
    """It follows from what was observed, and nothing else was seen to contradict it."""
    UNKNOWN = "not known"
    """It cannot be known from what was recorded; the text says why."""


@dataclass(frozen=True, slots=True)
class Link:
    """One fact in a chain."""

    text: str
    certainty: Certainty
    at: int = 0
    """Nanoseconds since the epoch, 0 where the fact has no time."""
    seq: int = 0
    """The event's number in its recording, 0 where there is none."""
    host: str = ""
    """The host that recorded it, "" where there is only one."""


class IncidentKind(enum.Enum):
    """What kind of incident it is."""

    CONFLICT = "reservation conflict"
    """An ordinary command was refused."""
    REFUSED = "refused PERSISTENT RESERVE"
    UNCERTAIN = "PERSISTENT RESERVE with an unknown effect"
    """Its answer does not tell whether it took effect."""
    LOST_REGISTRATION = "lost registration"
    LOST_RESERVATION = "lost reservation"
    RETURNED = "registered again after a PREEMPT"
    """A key that a fence took away is back."""
    MOVED = "moved reservation"
    """A guest's key went to another host, or came from one."""
    NOT_WATCHED = "not watched"
    """Nobody recorded what happened."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A registration that somebody took away."""

    key: int
    by: Action | None
    """The command, as far as it or its unit attention was seen."""
    own: bool
    """Whether the nexus sent the command itself."""
    reset: bool = False
    """Whether a reset or a power loss was told before, and nobody's PREEMPT or CLEAR."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A guest's key that went from one host to another."""

    key: int
    types: tuple[str, str]
    """Of the reservation before and after, "" for none."""
    recorded: bool
    """Whether the commands that made it were seen; else a fence by the same key looks like it."""


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that somebody may ask about."""

    kind: IncidentKind
    nexus: Nexus
    device: str
    at: int
    """When it was first seen, nanoseconds since the epoch."""
    last: int
    """When it was last seen."""
    count: int
    title: str
    chain: tuple[Link, ...]
    """From the effect to its cause."""
    harmless: str = ""
    """Why nobody needs to act on it, "" where that is not so."""
    lost: Lost | None = None
    """Of a lost registration."""
    moved: Moved | None = None
    """Of a moved reservation."""
    returned: int = 0
    """The key that is back, 0 where none is."""
