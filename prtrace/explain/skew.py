"""How far the clocks of two hosts are apart, by PRGENERATION (pure).

The device counts, so what one host saw at a lower count was before what the other saw at a higher
one.  Each such pair bounds the difference of the clocks from one side.  Only a reply says what the
count is; a host's own commands that count, and the unit attentions of others', say what it is at
least, because other hosts' commands count, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final, NamedTuple

from prtrace.explain.timeline import Step
from prtrace.model import Action, Attention, AttentionSeen, Nexus, Outcome, PrOut

_GOOD: Final = "GOOD"
_TAKING: Final = (Action.CLEAR, Action.PREEMPT, Action.PREEMPT_AND_ABORT)
_REGISTERING: Final = (Action.REGISTER, Action.REGISTER_AND_IGNORE)
_OF_COUNTED: Final = (Attention.RESERVATIONS_PREEMPTED, Attention.REGISTRATIONS_PREEMPTED)


@dataclass(frozen=True, slots=True)
class Bounds:
    """By how much the second clock is ahead of the first: at least and at most, nanoseconds."""

    least: int | None
    most: int | None
    contradict: bool = False
    """No difference fits: a clock was set meanwhile, or the target began to count anew."""


class Span(NamedTuple):
    """What PRGENERATION was while a step took effect, as far as its host's recording tells."""

    least: int | None
    most: int | None
    counted: bool = False
    """Whether the step itself brought it there: before the step it was less."""

    def is_before(self, other: Span) -> bool:
        """Whether the step was before another host's for certain."""
        if self.most is None or other.least is None:
            return False
        return self.most <= other.least if self.counted else self.most < other.least


def apart(one: Sequence[Step], other: Sequence[Step]) -> Bounds:
    """The bounds of other's clock against one's.

    None where nothing bounds it.
    """
    quiet = quiet_counts(one) | quiet_counts(other)
    first, second = _times(one, quiet), _times(other, quiet)
    most = _least_gap(first[0], second[1])
    gap = _least_gap(second[0], first[1])
    least = None if gap is None else -gap
    if least is not None and most is not None and least > most:
        return Bounds(None, None, contradict=True)
    return Bounds(least, most)


def spans(steps: Sequence[Step], quiet: Set[int] = frozenset()) -> list[Span]:
    """What the count was at each of one host's steps.

    quiet: counts to which commands brought it that raise no unit attention for others.
    Nothing is known where the replies count backwards: the target began anew.
    """
    least = list(_least(steps, quiet))
    most: list[int | None] = []
    at_most: int | None = None
    for step in reversed(steps):
        if step.told is not None:
            if at_most is not None and step.told > at_most:
                return [Span(None, None)] * len(steps)
            at_most = step.told
        most.append(at_most)
        if at_most is not None and _counts_it(step):
            at_most -= 1
    counted = (_counts_it(step) for step in steps)
    return [Span(*each) for each in zip(least, reversed(most), counted, strict=True)]


def quiet_counts(steps: Sequence[Step]) -> set[int]:
    """The counts to which registrations of this host brought it, where that is known exactly."""
    return {
        span.least
        for step, span in zip(steps, spans(steps), strict=True)
        if span.least is not None and span.least == span.most and _counts_it(step)
        if not any(isinstance(seen, PrOut) and seen.action in _TAKING for seen in step.seen)
    }


def _times(steps: Sequence[Step], quiet: Set[int]) -> tuple[dict[int, int], dict[int, int]]:
    """By count: the newest time at which it was not above that, the oldest at which it was there.

    By the host's clock, nanoseconds since the epoch.
    """
    not_above: dict[int, int] = {}
    reached: dict[int, int] = {}
    for step, (least, most, counted) in zip(steps, spans(steps, quiet), strict=True):
        event = step.event
        if most is not None:
            begun = event.time - max(event.done_ns - event.start_ns, 0)
            before = most - counted
            not_above[before] = max(begun, not_above.get(before, begun))
        if least is not None:
            reached[least] = min(event.time, reached.get(least, event.time))
    return not_above, reached


def _least(steps: Sequence[Step], quiet: Set[int]) -> Iterator[int | None]:
    """What the count was at least when each of the steps was over."""
    least: int | None = None
    by_nexus: dict[Nexus, int] = {}
    """What the count was, at least, when no unit attention waited on the nexus."""
    for step in steps:
        nexus = step.event.nexus
        if step.told is not None:
            least = max(step.told, -1 if least is None else least)
        elif least is not None and _counts_it(step):
            least += 1
        elif nexus in by_nexus and _tells_of_a_count(step):
            # Somebody's command counted after the last one on this nexus had its answer.
            count = by_nexus.pop(nexus) + 1
            while count in quiet:
                count += 1
            least = max(count, -1 if least is None else least)
        if least is not None and step.event.status == _GOOD:
            by_nexus[nexus] = least
        yield least


def _counts_it(step: Step) -> bool:
    """Whether the step is a command of the host's own that the target counted, once at least.

    SPC-4 5.13.2: REGISTER, REGISTER AND IGNORE EXISTING KEY, CLEAR, PREEMPT and PREEMPT AND ABORT.
    LIO does not count one that ends a registration.
    """
    for seen in step.seen:
        if isinstance(seen, PrOut) and seen.outcome is Outcome.DONE:
            return seen.action in _TAKING or (seen.action in _REGISTERING and seen.sa_key != 0)
    return False


def _tells_of_a_count(step: Step) -> bool:
    """Whether it is a unit attention that only a command raises which counts."""
    return any(
        isinstance(seen, AttentionSeen) and seen.attention in _OF_COUNTED for seen in step.seen
    )


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
