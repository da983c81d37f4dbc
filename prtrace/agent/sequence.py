"""Whether every record that the programs numbered has come.

The programs number a record before they look for room for it, so a number that never comes
is a record that found no room, which they count, or one that was lost on this side.  Records
of several processors come a little out of order: a number counts as gone when it was
missing at two looks, a second or so apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


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
    no_room: how many records had found no room by then.
    """

    def __init__(self, newest: int | None, no_room: int) -> None:
        self.newest = newest
        self._no_room = no_room
        self._gone = 0
        self._told = 0
        self._gaps: list[_Gap] = []

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

    def look(self, no_room: int) -> int:
        """How many records are gone that nobody has told of and no lack of room explains.

        no_room: how many records have found no room by now.  told() ends it.
        """
        for gap in self._gaps:
            gap.looks += 1
            if gap.looks > 1:
                self._gone += gap.last - gap.first + 1
        self._gaps = [gap for gap in self._gaps if gap.looks < 2]
        return max(0, self._gone - (no_room - self._no_room) - self._told)

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
