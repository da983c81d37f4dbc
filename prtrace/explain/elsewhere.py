"""What is said of the same unit beside one host's steps (pure): by other hosts' recordings, and by
what the agent remembers of commands that are older than the steps.

PRGENERATION joins them: REGISTER, CLEAR and PREEMPT count it, so a command of another host that
took it from below to above what this host read lies between this host's two readings, whatever the
clocks of both say.  RESERVE does not count it; there the holder's ports and the type join.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from prtrace.explain.timeline import Step
from prtrace.model import Action, Nexus, Outcome, PrOut
from prtrace.state.event import nanoseconds
from prtrace.state.unit import Fact, Source

TAKES_AWAY: Final = (Action.PREEMPT, Action.PREEMPT_AND_ABORT, Action.CLEAR)
CHANGES_RESERVATION: Final = (*TAKES_AWAY, Action.RESERVE, Action.RELEASE)
_RESERVES: Final = (Action.RESERVE, Action.PREEMPT, Action.PREEMPT_AND_ABORT)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A command that another host recorded."""

    host: str
    step: Step
    seen: PrOut


@dataclass(frozen=True, slots=True)
class Remembered:
    """A command that the state remembers."""

    who: str
    at: int
    """Nanoseconds since the epoch."""


class Elsewhere:
    """The recordings of other hosts: (host, its steps); and the unit as Show has it.

    unit: an element of prtrace.show/1's units, of the host whose steps are asked about.
    """

    def __init__(
        self,
        recordings: Sequence[tuple[str, Sequence[Step]]] = (),
        unit: Mapping[str, Any] | None = None,
    ) -> None:
        self._recordings = recordings
        self._held = None if unit is None else unit["reservation"]

    def remembered(self, kind: str, nexus: Nexus | None) -> Remembered | None:
        """Who made the reservation of that type and holder, if it is the one that is there now."""
        held = self._held
        if held is None or held["by"] is None or held["source"] != Source.OBSERVED.value:
            return None
        if held["type"] != kind or (nexus is not None and held["holders"] != [nexus]):
            return None
        by = held["by"]
        name, pid = by["client_comm"] or by["comm"], by["client_pid"] or by["pid"]
        who = f"guest {by['guest']}" if by["guest"] else f"{name}[{pid}]"
        return Remembered(who, nanoseconds(held["at"]))

    def took(self, key: int, above: int | None, upto: int | None) -> Iterator[Recorded]:
        """Commands of other hosts that took registrations with key away.

        above, upto: the PRGENERATIONs that this host read before and after, None where not known;
        a command that is known to lie outside them is left out.  What a host makes of its own
        command is the least that the device counted; its next reading has the most.
        """
        for host, steps in self._recordings:
            for number, step in enumerate(steps):
                seen = _taking(step, key)
                if seen is None:
                    continue
                least = step.after.generation
                most = next(
                    (each.told for each in steps[number + 1 :] if each.told is not None), None
                )
                late = least is not None and upto is not None and least > upto
                early = most is not None and above is not None and most <= above
                if not late and not early:
                    yield Recorded(host, step, seen)

    def reserved(self, kind: str, nexus: Nexus) -> Recorded | None:
        """The newest command of another host after which its own nexus held a reservation.

        kind: the type's name.  nexus: the holder as this host names it, by its ports.
        """
        for host, steps in self._recordings:
            for step in reversed(steps):
                held = step.after.reservation
                seen = next((each for each in step.seen if isinstance(each, PrOut)), None)
                if seen is None or held is None or held.holder != seen.nexus:
                    continue
                path = step.after.paths.get(seen.nexus)
                done = seen.action in _RESERVES and seen.outcome is Outcome.DONE
                if done and held.type.name == kind and path is not None:
                    local = path.local
                    if f"{local.initiator_port},{local.relative_target_port}" == nexus:
                        return Recorded(host, step, seen)
        return None


def _taking(step: Step, key: int) -> PrOut | None:
    """The command of the step, where it can have taken registrations with key away."""
    before = step.before
    there = key in before.unattributed or any(
        each.key == key for each in before.registrations.values()
    )
    if not there and not before.doubted(Fact.REGISTRATIONS):
        return None
    for seen in step.seen:
        if isinstance(seen, PrOut) and seen.action in TAKES_AWAY:
            fits = seen.action is Action.CLEAR or seen.sa_key == key
            return seen if fits and seen.outcome is Outcome.DONE else None
    return None
