"""Keys that were preempted and are registered again: a fence that does not hold any more (pure).

A cluster lets a node in again by this, after a restart.  A program that registers by itself, when
a path appears or at its next monitor, does it as well: a node that was fenced and still runs
writes on then.  Which of the two it was is not in the commands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prtrace.explain.incident import Certainty, Incident, IncidentKind, Link
from prtrace.explain.links import device, observed, pr_out, who
from prtrace.explain.timeline import Step
from prtrace.model import Action, Attention, AttentionSeen, Nexus, Outcome, PrOut
from prtrace.state.event import key_text
from prtrace.state.unit import Fact, Registration

_PREEMPTS = (Action.PREEMPT, Action.PREEMPT_AND_ABORT)


def returned(steps: Sequence[Step]) -> Iterator[Incident]:
    """The keys that came back, oldest first."""
    taken: dict[int, int] = {}
    """By key: the step that tells of the PREEMPT."""
    gone: set[int] = set()
    known: Mapping[Nexus, Registration] = {}
    for number, step in enumerate(steps):
        for key in _preempted(step, known):
            taken[key] = number
            gone.discard(key)
        after = step.after
        if after.registrations is known or after.doubted(Fact.REGISTRATIONS):
            continue
        known = after.registrations
        if not taken:
            continue
        holding = {each.key: nexus for nexus, each in after.registrations.items()}
        for key, preempted in list(taken.items()):
            if key not in holding:
                gone.add(key)
            elif key in gone:
                gone.discard(key)
                yield _incident(steps, preempted, number, key, holding[key])
                del taken[key]


def _preempted(step: Step, known: Mapping[Nexus, Registration]) -> Iterator[int]:
    """The keys that the step tells to be preempted.

    known: the registrations before, as far as they were certain.
    """
    for seen in step.seen:
        if isinstance(seen, AttentionSeen):
            if seen.attention is Attention.REGISTRATIONS_PREEMPTED and seen.nexus in known:
                yield known[seen.nexus].key
        elif (
            isinstance(seen, PrOut)
            and seen.outcome is Outcome.DONE
            and seen.action in _PREEMPTS
            # By its own key a nexus takes a guest's reservation over.
            and seen.sa_key not in (0, seen.key)
        ):
            yield seen.sa_key


def _incident(
    steps: Sequence[Step], preempted: int, number: int, key: int, nexus: Nexus
) -> Incident:
    took = steps[preempted]
    # What a command in the middle of a doubt did is certain when a reading has shown it.
    made = _registering(steps[preempted + 1 : number + 1], nexus, key)
    step = steps[number] if made is None else made
    command, fence = pr_out(step), pr_out(took)
    by = "a PREEMPT, of which a unit attention told,"
    if fence is not None:
        by = f"{fence.action.value} on {fence.nexus} by {who(took.event)}"
    if command is None:
        now = f"a reading shows {nexus} registered with it; who did it was not recorded here"
    else:
        now = f"{command.action.value} on {command.nexus} by {who(step.event)} registered it again"
    chain = [observed(step, now), observed(took, f"{by} had taken key {key_text(key)} away")]
    chain += _appeared(steps[preempted : number + 1], nexus)
    after = steps[number].after
    held = after.reservation
    if held is not None and not after.doubted(Fact.RESERVATION) and not held.type.single_nexus:
        chain.append(
            Link(
                f"since then {nexus} may write again: {held.type.name} lets registrants write",
                Certainty.INFERRED,
                step.event.time,
                step.event.seq,
            )
        )
    chain.append(
        Link(
            "whether its host was restarted in between, as fencing wants it, was not recorded",
            Certainty.UNKNOWN,
        )
    )
    return Incident(
        IncidentKind.RETURNED,
        nexus,
        device(after, nexus),
        step.event.time,
        step.event.time,
        1,
        f"key {key_text(key)} was preempted and is registered again",
        tuple(chain),
        returned=key,
    )


def _registering(steps: Sequence[Step], nexus: Nexus, key: int) -> Step | None:
    """The newest command that registered nexus with key, None where none was seen."""
    for step in reversed(steps):
        command = pr_out(step)
        if (
            command is not None
            and command.nexus == nexus
            and command.outcome is Outcome.DONE
            and command.action in (Action.REGISTER, Action.REGISTER_AND_IGNORE)
            and command.sa_key == key
        ):
            return step
    return None


def _appeared(steps: Sequence[Step], nexus: Nexus) -> Iterator[Link]:
    """That the nexus's path came after the PREEMPT."""
    for step in steps:
        if nexus in step.after.paths and nexus not in step.before.paths:
            yield observed(step, f"the path {nexus} appeared")
            return
