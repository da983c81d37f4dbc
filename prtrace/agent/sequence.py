"""Whether every record that the programs numbered has come.

The programs number a record before they look for room for it, so a number that never comes
is a record that found no room, which they count, or one that was lost on this side.  Records
of several processors come a little out of order: a number counts as gone when it was
missing at two looks, a second or so apart.  What is missing is stored with the newest number, so
that the next agent looks for it too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

MOST_STORED: Final = 64
"""Gaps that are kept for the next agent; with more, the oldest become one that is too wide."""


@dataclass(slots=True)
class _Gap:
    """Numbers that have not come, both ends included."""

    first: int
    last: int
    looks: int = 0


class Sequence:
    """The numbers that came.

    newest: the greatest one that a former agent had; what comes below it is late, not new.
    None where nobody had any: the first one to come is taken as it is.
    no_room: how many records had found no room by then.  missing: what that agent still waited
    for: the first and the last number of each gap.
    """

    def __init__(
        self, newest: int | None, no_room: int, missing: Iterable[tuple[int, int]] = ()
    ) -> None:
        self.newest = newest
        self._no_room = no_room
        self._gone = 0
        self._told = 0
        self._gaps = [_Gap(first, last) for first, last in missing]

    @property
    def no_room(self) -> int:
        """For the next agent: what it is to take for no_room, with what is told or gone here."""
        return self._no_room + self._gone - self._told

    def missing_after(self, numbers: Iterable[int]) -> list[tuple[int, int]]:
        """What is missing once these numbers have come too, for the next agent."""
        then = Sequence(self.newest, 0, ((gap.first, gap.last) for gap in self._gaps))
        then.came(numbers)
        gaps = [(gap.first, gap.last) for gap in then._gaps]
        early = gaps[: max(0, len(gaps) - MOST_STORED + 1)]
        if len(early) < 2:
            return gaps
        return [(early[0][0], early[-1][1]), *gaps[len(early) :]]

    def came(self, numbers: Iterable[int]) -> None:
        """These numbers are stored, or what they stand for is."""
        for number in numbers:
            if self.newest is None:
                self.newest = number
            elif number > self.newest:
                if number > self.newest + 1:
                    self._gaps.append(_Gap(self.newest + 1, number - 1))
                self.newest = number
            elif self._gaps:
                self._fill(number)

    def look(self, no_room: int, made: int | None = None) -> int:
        """How many records are gone that nobody has told of and no lack of room explains.

        no_room: how many records have found no room by now.  made: how many were numbered by
        now, where all that came is read; None where more may wait.  told() ends it.
        """
        if made is not None and self.newest is not None and made > self.newest:
            # These numbers were given and are not in the ring, and no later record shows the gap:
            # the store is an older copy, and another agent has read them.
            self._gaps.append(_Gap(self.newest + 1, made))
            self.newest = made
        for gap in self._gaps:
            gap.looks += 1
            if gap.looks > 1:
                self._gone += gap.last - gap.first + 1
        self._gaps = [gap for gap in self._gaps if gap.looks < 2]
        return max(0, self._gone - (no_room - self._no_room) - self._told)

    @property
    def missing(self) -> bool:
        """Whether numbers are missing that may still come."""
        return bool(self._gaps)

    def told(self, count: int) -> None:
        """So many are told of."""
        self._told += count

    def _fill(self, number: int) -> None:
        for at, gap in enumerate(self._gaps):
            if gap.first <= number <= gap.last:
                parts = (
                    _Gap(gap.first, number - 1, gap.looks),
                    _Gap(number + 1, gap.last, gap.looks),
                )
                self._gaps[at : at + 1] = [part for part in parts if part.first <= part.last]
                return
