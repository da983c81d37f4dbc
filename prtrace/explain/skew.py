"""How far the clocks of two hosts are apart, by PRGENERATION (pure).

The device counts, so what one host saw at a lower count was before what the other saw at a higher
one.  Each such pair bounds the difference of the clocks from one side.  Only a reply says what the
count is; what a host makes of its own commands is the least that it can be, because other hosts'
commands count, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prtrace.explain.timeline import Step


@dataclass(frozen=True, slots=True)
class Bounds:
    """By how much the second clock is ahead of the first: at least and at most, nanoseconds."""

    least: int | None
    most: int | None
    contradict: bool = False
    """No difference fits: a clock was set meanwhile, or the target began to count anew."""


@dataclass(frozen=True, slots=True)
class _Counts:
    """When a host knew of which count: by its clock, nanoseconds since the epoch."""

    not_above: Mapping[int, int]
    """The newest time at which the count was not above this one yet."""
    reached: Mapping[int, int]
    """The oldest time at which it had reached this one."""


def apart(one: Sequence[Step], other: Sequence[Step]) -> Bounds:
    """The bounds of other's clock against one's.

    None where nothing bounds it.
    """
    first, second = _counts(one), _counts(other)
    if first is None or second is None:
        return Bounds(None, None)
    most = _least_gap(first.not_above, second.reached)
    gap = _least_gap(second.not_above, first.reached)
    least = None if gap is None else -gap
    if least is not None and most is not None and least > most:
        return Bounds(None, None, contradict=True)
    return Bounds(least, most)


def _counts(steps: Sequence[Step]) -> _Counts | None:
    """What one host knew; None where its replies count backwards: the target began anew."""
    not_above: dict[int, int] = {}
    reached: dict[int, int] = {}
    at_most: int | None = None
    """The count before the steps that were looked at, from the newest backwards."""
    for step in reversed(steps):
        event = step.event
        begun = event.time - max(event.done_ns - event.start_ns, 0)
        count = step.told
        if count is not None:
            if at_most is not None and count > at_most:
                return None
            at_most = count
        elif _counted(step):
            count = step.after.generation
            at_most = None if at_most is None else at_most - 1
        else:
            continue
        if count is not None:
            reached[count] = min(event.time, reached.get(count, event.time))
        if at_most is not None:
            not_above[at_most] = max(begun, not_above.get(at_most, begun))
    return _Counts(not_above, reached)


def _counted(step: Step) -> bool:
    """Whether the step is a command of the host's own that the target counted."""
    before, after = step.before.generation, step.after.generation
    return before is not None and after is not None and after > before


def _least_gap(not_above: Mapping[int, int], reached: Mapping[int, int]) -> int | None:
    """The least of reached - not_above over all pairs with a higher count in reached."""
    gaps = []
    counts = sorted(reached, reverse=True)
    soonest: int | None = None
    at = 0
    for count in sorted(not_above, reverse=True):
        while at < len(counts) and counts[at] > count:
            time = reached[counts[at]]
            soonest = time if soonest is None else min(soonest, time)
            at += 1
        if soonest is not None:
            gaps.append(soonest - not_above[count])
    return min(gaps, default=None)
