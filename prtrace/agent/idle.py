"""Readings of our own that told nothing new: counted, not stored one by one.

A doubt that no reading clears makes the agent ask again and again.  Of such readings the
newest of each kind stays in the history and says by its count how many there were, as long
as nothing else happened to the unit.  Replaying loses nothing by it: each of them left what is
known as it was, and the newest one, which says how old that is, is there.  A reading that failed
or whose reply was cut off says less than a whole one: it is of another kind.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Final

from prtrace.scsi.codes import Status, status_title
from prtrace.state.event import Event

_GOOD: Final = status_title(Status.GOOD)
Kind = tuple[str, bool, bool]
"""Which reading it was, whether it was answered GOOD, whether its reply was cut off."""


def _kind(event: Event) -> Kind:
    return event.action, event.status == _GOOD, event.truncated


@dataclass(frozen=True, slots=True)
class _Kept:
    """A stored event that stands for count readings."""

    seq: int
    count: int


class Idle:
    """Which stored reading the next one of its kind replaces.

    own: whether the agent itself sent the command of an event.
    """

    def __init__(self, own: Callable[[Event], bool]) -> None:
        self._own = own
        self._kept: dict[str, dict[Kind, _Kept]] = {}
        self.replaced: list[int] = []

    def counted(self, events: Iterable[Event], idle: Container[int]) -> list[Event]:
        """The events that are to be stored; replaced: the stored ones that must go for them.

        idle: the records of readings that told nothing new.
        """
        self.replaced = []
        chosen: list[Event | None] = []
        here: dict[str, dict[Kind, int]] = {}
        disturbed: set[str] = set()
        for event in events:
            if not self._is_counted(event, idle):
                disturbed.add(event.lu)
                here.pop(event.lu, None)
                chosen.append(event)
                continue
            same = here.setdefault(event.lu, {})
            count = 1
            kind = _kind(event)
            if kind in same:
                earlier = chosen[same[kind]]
                chosen[same[kind]] = None
                count += earlier.count if earlier else 0
            elif event.lu not in disturbed:
                kept = self._kept.get(event.lu, {}).get(kind)
                if kept is not None:
                    self.replaced.append(kept.seq)
                    count += kept.count
            same[kind] = len(chosen)
            chosen.append(event._replace(count=count))
        return [event for event in chosen if event is not None]

    def stored(self, events: Iterable[Event], idle: Container[int]) -> None:
        """These are in the store now, in this order."""
        for event in events:
            if self._is_counted(event, idle):
                of_unit = self._kept.setdefault(event.lu, {})
                of_unit[_kind(event)] = _Kept(event.seq, event.count)
            else:
                self._kept.pop(event.lu, None)

    def forget(self) -> None:
        """Replace nothing that is stored by now."""
        self._kept.clear()
        self.replaced = []

    def _is_counted(self, event: Event, idle: Container[int]) -> bool:
        return event.record in idle and self._own(event)
