"""Keys that were preempted and are registered again: a fence that does not hold any more (pure).

A cluster lets a node in again by this, after a restart.  A program that registers by itself, when
a path appears or at its next monitor, does it as well: a node that was fenced and still runs
writes on then.  Which of the two it was is not in the commands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from prtrace.explain.incident import Certainty, Incident, IncidentKind, Link
from prtrace.explain.links import device, observed, pr_out, who
from prtrace.explain.timeline import Step
from prtrace.model import PREEMPTS, Action, Attention, AttentionSeen, Nexus, Outcome, PrOut
from prtrace.state.event import key_text
from prtrace.state.unit import Fact, Registration


def returned(steps: Sequence[Step]) -> Iterator[Incident]:
    """The keys that came back, oldest first."""
    taken: dict[int, _Fence] = {}
    """By key."""
    known: Mapping[Nexus, Registration] = {}
    for number, step in enumerate(steps):
        for key, sure, sender in _preempted(step, known):
            taken[key] = _Fence(number, sure, sender)
        after = step.after
        if after.registrations is known or after.doubted(Fact.REGISTRATIONS):
            continue
        known = after.registrations
        for key, fence in list(taken.items()):
            nexus = fence.look(known, key)
            if nexus is not None:
                yield _incident(steps, fence, number, key, nexus)
                del taken[key]


@dataclass(slots=True)
class _Fence:
    """A PREEMPT of a key, and what became of it as far as registrations were certain since."""

    number: int
    """The step that tells of it."""
    sure: bool
    """Whether a nexus was registered with the key before."""
    sender: Nexus | None
    """The nexus that sent it, None where only a unit attention tells of it."""
    gone: bool = False
    """Whether the key was nowhere since."""
    stayed: set[Nexus] | None = None
    """The nexuses that were registered all the time since: they were not fenced by it."""

    def look(self, registered: Mapping[Nexus, Registration], key: int) -> Nexus | None:
        """The nexus that has the key again, None where none has."""
        back = [nexus for nexus, each in registered.items() if each.key == key]
        stayed = self.stayed or set()
        new = [each for each in back if each not in stayed and each != self.sender]
        if self.gone and new:
            return new[-1]
        self.gone = self.gone or not back
        others = {nexus for nexus, each in registered.items() if self.gone or each.key != key}
        self.stayed = others if self.stayed is None else others & self.stayed
        return None


def _preempted(
    step: Step, known: Mapping[Nexus, Registration]
) -> Iterator[tuple[int, bool, Nexus | None]]:
    """The keys that the step tells to be preempted, whether somebody had them, and the sender.

    known: the registrations before, as far as they were certain.
    """
    before = step.before
    for seen in step.seen:
        if isinstance(seen, AttentionSeen):
            if seen.attention is Attention.REGISTRATIONS_PREEMPTED and seen.nexus in known:
                yield known[seen.nexus].key, True, None
        elif (
            isinstance(seen, PrOut)
            and seen.outcome is Outcome.DONE
            and seen.action in PREEMPTS
            # By its own key a nexus takes a guest's reservation over.
            and seen.sa_key not in (0, seen.key)
        ):
            sure = not before.doubted(Fact.REGISTRATIONS)
            if not sure or seen.sa_key in {each.key for each in before.registrations.values()}:
                yield seen.sa_key, sure, seen.nexus


def _incident(
    steps: Sequence[Step], preempt: _Fence, number: int, key: int, nexus: Nexus
) -> Incident:
    preempted = preempt.number
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
        now = f"{command.action.value} on {command.nexus} by {who(step.event)} registered it"
        now += " again" if preempt.sure else ""
    chain = [observed(step, now)]
    if preempt.sure:
        chain.append(observed(took, f"{by} had taken key {key_text(key)} away"))
    else:
        text = f"{by} was to take key {key_text(key)} away"
        chain.append(observed(took, text))
        text = "whether anybody was registered with that key then"
        chain.append(Link(text, Certainty.UNKNOWN, took.event.time, took.event.seq))
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
    again = "again" if preempt.sure else "now"
    return Incident(
        IncidentKind.RETURNED,
        nexus,
        device(after, nexus),
        step.event.time,
        step.event.time,
        1,
        f"key {key_text(key)} was preempted and is registered {again}",
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
