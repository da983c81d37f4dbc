"""The handover by temporary key, as a machine that says which command comes next (pure).

To bring key K of type T to this side's lead path, which carries the temporary key R:
  1  REGISTER AND IGNORE EXISTING KEY, SARK=R
  2  PREEMPT, RK=R, SARK=K, TYPE=T: an atomic check as well, for it is refused where K is gone
  3  REGISTER, RK=R, SARK=K
  4  REGISTER, RK=0, SARK=K on each other path
It begins and ends with a look at the device.  While every command is answered GOOD the next
one follows at once; after any other answer, and after a crash, a look decides
(prtrace.move.decision).

    position = start(plan, memory)
    while not isinstance(position.request, End):
        position = looked(…) or answered(…)

The sender never carries K while it preempts K, so that targets that disagree about
preempting one's own key all do the same.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from prtrace.model import Action, Nexus, Outcome, ReservationType
from prtrace.move.memory import Memory, Sent


class Role(enum.Enum):
    """Which side asks: the destination (LOAD) or the source (ROLLBACK)."""

    LOAD = "load"
    ROLLBACK = "rollback"


class Step(enum.Enum):
    """A command's place in the handover; the value is its name in faults and reports."""

    REGISTER = "step-1"
    PREEMPT = "step-2"
    REKEY = "step-3"
    PATH = "step-4"
    PROBE = "probe"
    EVICT = "evict"
    """Remove the other side's temporary key; this side still has K."""
    REMOVE = "remove"
    """Take the temporary key away again: the guest was fenced, or nothing else works."""
    WITHDRAW = "withdraw"
    """Take the guest's key away from a path: the guest was fenced before it got there."""


class Result(enum.Enum):
    """How a handover ended."""

    MOVED = "moved"
    RESTORED = "restored"
    UNTOUCHED = "untouched"
    """The other side had done nothing, or this side has everything already."""
    NOTHING = "nothing to move"
    FENCED = "fenced"
    """Somebody else removed the guest's key; it does not come back."""
    TAKEN_BACK = "taken back"
    """The source has rolled back; this file is spent."""
    REFUSED = "refused"
    IN_DOUBT = "in doubt"

    @property
    def good(self) -> bool:
        """Whether the guest may run here now."""
        return self in (Result.MOVED, Result.RESTORED, Result.UNTOUCHED, Result.NOTHING)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to end where.

    key, type, held, aptpl: as saved.  mine, theirs: this and the other side's temporary keys.
    paths: the side's usable nexuses, the preferred lead first.  blank: how many registered
    nexuses of the other side have port names that are not known.
    """

    role: Role
    lu: str
    target: str
    key: int
    type: ReservationType | None
    held: bool
    aptpl: bool
    mine: int
    theirs: int
    paths: tuple[Nexus, ...]
    blank: int = 0


@dataclass(frozen=True, slots=True)
class Look:
    """Read the device."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send a PERSISTENT RESERVE OUT through the nexus."""

    step: Step
    nexus: Nexus
    action: Action
    key: int
    sa_key: int
    type: ReservationType | None = None
    aptpl: bool = False


@dataclass(frozen=True, slots=True)
class End:
    """It is over.  why: a sentence for people, "" where there is nothing to add."""

    result: Result
    why: str = ""


Request = Look | Send | End


@dataclass(frozen=True, slots=True)
class Position:
    """Where a handover is: what to do next, and what to write down before doing it.

    kind: the type that a PREEMPT carries.  looks, sends: how many there were in this run.
    """

    request: Request
    memory: Memory
    kind: ReservationType = ReservationType.WE
    looks: int = 0
    sends: int = 0


def start(memory: Memory) -> Position:
    """The beginning of a handover, or of its continuation after a crash."""
    return Position(Look(), memory)


def about_to_send(position: Position) -> Memory:
    """The memory to write down before the command goes out: it may take effect unseen."""
    request = position.request
    memory = position.memory
    if not isinstance(request, Send):
        return memory
    match request.step:
        case Step.REGISTER:
            return replace(memory, registering=True)
        case Step.PREEMPT:
            return replace(memory, preempt=Sent.SENT)
        case Step.REKEY:
            return replace(memory, rekeying=True)
        case _:
            return memory


def answered(plan: Plan, position: Position, outcome: Outcome) -> Position:
    """The position after the command of position.request had this outcome."""
    sent = position.request
    if not isinstance(sent, Send):
        raise TypeError(f"{sent} is no command")
    memory = about_to_send(position)
    done = outcome is Outcome.DONE
    after = replace(position, request=Look(), sends=position.sends + 1)
    match sent.step:
        case Step.REGISTER if done:
            memory = replace(memory, registered=True, bumps=memory.bumps + 1)
            return replace(after, memory=memory, request=preempt(plan, after, memory))
        case Step.PREEMPT:
            memory = replace(memory, preempt=_SENT[outcome])
            if done:
                memory = replace(memory, bumps=memory.bumps + 1)
                following = remove(plan, memory) if memory.fenced else rekey(plan, memory)
                return replace(after, memory=memory, request=following)
        case Step.REKEY if done:
            memory = replace(memory, probe=True)
            return replace(after, memory=memory, request=next_path(plan, memory))
        case Step.PATH:
            if done:
                memory = replace(memory, paths_done=(*memory.paths_done, sent.nexus))
            elif outcome is not Outcome.CONFLICT:
                memory = replace(memory, paths_failed=(*memory.paths_failed, sent.nexus))
            request = next_path(plan, memory) if done else Look()
            return replace(after, memory=memory, request=request)
        case Step.PROBE if outcome in (Outcome.DONE, Outcome.CONFLICT):
            memory = replace(memory, probe=done)
        case _:
            pass
    return replace(after, memory=memory)


_SENT = {
    Outcome.DONE: Sent.DONE,
    Outcome.CONFLICT: Sent.REFUSED,
    Outcome.NOT_EXECUTED: Sent.NO,
    Outcome.UNKNOWN: Sent.SENT,
}


def register(plan: Plan, memory: Memory) -> Send:
    """Step 1."""
    return Send(
        Step.REGISTER,
        memory.lead,
        Action.REGISTER_AND_IGNORE,
        0,
        plan.mine,
        aptpl=plan.aptpl,
    )


def preempt(plan: Plan, position: Position, memory: Memory) -> Send:
    """Step 2.  LIO and SCST refuse TYPE 0 even where the type does not count."""
    return Send(Step.PREEMPT, memory.lead, Action.PREEMPT, plan.mine, memory.victim, position.kind)


def rekey(plan: Plan, memory: Memory) -> Send:
    """Step 3."""
    return Send(Step.REKEY, memory.lead, Action.REGISTER, plan.mine, plan.key, aptpl=plan.aptpl)


def next_path(plan: Plan, memory: Memory) -> Send | Look:
    """Step 4 for the next path that still lacks the key; a look when there is none."""
    settled = {memory.lead, *memory.paths_done, *memory.paths_failed}
    for nexus in plan.paths:
        if nexus not in settled:
            return path(plan, nexus)
    return Look()


def path(plan: Plan, nexus: Nexus) -> Send:
    """Step 4 for one path."""
    return Send(Step.PATH, nexus, Action.REGISTER, 0, plan.key, aptpl=plan.aptpl)


def probe(plan: Plan, memory: Memory) -> Send:
    """Ask the lead whether it has the key: registering it once more changes nothing."""
    return Send(Step.PROBE, memory.lead, Action.REGISTER, plan.key, plan.key, aptpl=plan.aptpl)


def evict(plan: Plan, position: Position, nexus: Nexus) -> Send:
    """Remove the other side's temporary key."""
    return Send(Step.EVICT, nexus, Action.PREEMPT, plan.key, plan.theirs, position.kind)


def remove(plan: Plan, memory: Memory) -> Send:
    """Take the temporary key away."""
    return Send(Step.REMOVE, memory.lead, Action.REGISTER, plan.mine, 0, aptpl=plan.aptpl)


def withdraw(plan: Plan, nexus: Nexus) -> Send:
    """Take the guest's key away from a path."""
    return Send(Step.WITHDRAW, nexus, Action.REGISTER, plan.key, 0, aptpl=plan.aptpl)
