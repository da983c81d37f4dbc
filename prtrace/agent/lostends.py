"""Commands that timed out, whose requests are over by now, and whose ends no record told.

What a command that timed out could change stays in doubt until its request is over.  Where the
record of that end found no room nobody would ever tell, and the doubt would stay for as long as
the path does.  But the programs remember every request until its end: one that they do not
remember is over.  Of one that was sent before there were these programs the midlayer tells: it is
over once nothing is under way for the device.
"""

from __future__ import annotations

from collections.abc import Iterable

from prtrace.model import Nexus
from prtrace.state.unit import UnderWay


class LostEnds:
    """Compares what is under way for the states with what is for the kernel, look by look."""

    def __init__(self) -> None:
        self._over: frozenset[tuple[str, UnderWay]] = frozenset()

    def look(
        self,
        waiting: Iterable[tuple[str, UnderWay]],
        idle: frozenset[Nexus],
        quiet: frozenset[Nexus],
    ) -> list[tuple[str, Nexus]]:
        """Logical units and nexuses of which every request is over, and an end was lost.

        waiting: what is under way for the state of a unit.  idle: nexuses on which the programs
        knew of no PR command, and quiet: those on which the midlayer had no command at all, before
        what was recorded by then was taken into the states.
        An end is remembered an instant before its record is there, so that one look is no proof.
        """
        all_waiting = frozenset(waiting)
        over = frozenset(
            each for each in all_waiting if each[1].nexus in (quiet if each[1].unwatched else idle)
        )
        lost = {(lu, each.nexus) for lu, each in over & self._over}
        # Of a command that timed out since the last look nothing is proved yet.
        unproved = {(lu, each.nexus) for lu, each in all_waiting - self._over}
        self._over = over
        return sorted(lost - unproved)
