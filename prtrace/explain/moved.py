"""Moves of a guest's reservation, whoever made them, and whether they went right (pure).

It stands here and not beside prtrace's own moves: a move is recognised in recordings, and judged
with what they say, as everything that prtrace explains.

Seen from the host that it went to, a move is the PREEMPT of a key by a nexus that has that very
key, and that registered it shortly before: QEMU from 11.0 on sends these two commands
(scsi_generic_pr_state_preempt, hw/scsi/scsi-generic.c), and so do prtrace prepare and load.  A
guest on a cluster's own fencing preempts another node's key.  Seen from the host that it left,
it is a reading in which the key is gone from this host and is on a nexus that had it not.

Judged is what the guest and the other nodes need: the key on every path, the type kept, nobody
else's registration or hold lost, no key left behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from prtrace.explain.incident import Certainty, Incident, IncidentKind, Link, Moved
from prtrace.explain.links import observed, pr_out, who
from prtrace.explain.ports import Ports, host_of
from prtrace.explain.timeline import Step
from prtrace.model import PREEMPTS, REGISTERS, FullStatusRead, Nexus, Outcome, PrOut
from prtrace.state.binding import same_ports
from prtrace.state.event import key_text
from prtrace.state.unit import Doubt, Fact, LuState, Registration

_MOVERS: Final = ("qemu", "prtrace")
"""How the names of programs begin that move a guest's reservation."""
_WELL: Final = "it went right"


def moves(steps: Sequence[Step], ports: Iterable[Ports] = ()) -> Iterator[Incident]:
    """The moves in one host's steps, oldest first; ports: whose initiator ports are whose."""
    known = tuple(ports)
    certain: LuState | None = None
    for number, step in enumerate(steps):
        command = pr_out(step)
        if command is not None:
            yield from _arrived(steps, number, command, known)
        elif any(isinstance(seen, FullStatusRead) for seen in step.seen):
            yield from _left(step, certain or step.before, known)
        if not _doubts(step.after):
            certain = step.after


def _arrived(
    steps: Sequence[Step], number: int, command: PrOut, ports: tuple[Ports, ...]
) -> Iterator[Incident]:
    """The move that command ended on this host."""
    key = command.key
    own = command.action in PREEMPTS and key != 0 and command.sa_key == key
    if not own or command.outcome is not Outcome.DONE:
        return
    start = _registered(steps, number, command)
    if start is None:
        return
    step, before = steps[number], steps[start].before
    # What a target makes of a PREEMPT can be in doubt until somebody reads.
    after = next((each.after for each in steps[number:] if not _doubts(each.after)), step.after)
    taken = [each for each in _with_key(before, key) if each not in _with_key(after, key)]
    if not taken and not before.doubted(Fact.REGISTRATIONS):
        return  # nobody had the key before: nothing came from anywhere
    chain = [
        observed(step, f"{command.action.value} of its own key {key_text(key)} on {command.nexus} "
                       f"by {who(step.event)}"),
        observed(steps[start], f"REGISTER of it there by {who(steps[start].event)}"),
    ]  # fmt: skip
    wrong = [
        f"no key on {nexus} ({path.local.device or path.local.sg}), another path of this host"
        for nexus, path in after.paths.items()
        if not _has(after, nexus, key)
    ]
    wrong += _harm(before, after, key, ports)
    wrong += [
        f"the key is left on {_named(after, nexus, ports)}"
        for nexus in _with_key(after, key)
        if nexus not in after.paths
    ]
    came = ", ".join(_named(before, each, ports) for each in taken) or "a nexus that is not known"
    doubts = (*_doubts(before), *_doubts(after))
    moved = Moved(key, (_type(before), _type(after)), recorded=_is_mover(step))
    yield _incident(step, command.nexus, f"came here from {came}", moved, wrong, doubts, chain)


def _registered(steps: Sequence[Step], number: int, command: PrOut) -> int | None:
    """The step that put the key on the command's nexus; None where it had another way there."""
    issuer = steps[number].event.issuer
    for place in range(number - 1, -1, -1):
        found = pr_out(steps[place])
        if found is None or found.nexus != command.nexus:
            continue
        fits = found.action in REGISTERS and found.sa_key == command.key
        known = issuer is None or steps[place].event.issuer is None
        same = known or _program(steps[place]) == _program(steps[number])
        return place if fits and same and found.outcome is Outcome.DONE else None
    return None


def _is_mover(step: Step) -> bool:
    """Whether the command is a guest's, or of a program that moves guests.

    A process gives itself the name that ps shows; which file it executes is the kernel's word.  A
    program in Python executes the interpreter, so its name is all that there is of it.
    """
    issuer = step.event.issuer
    if issuer is None:
        return False
    program = step.event.exe.rpartition("/")[2]
    known = bool(program) and not program.startswith("python")
    return bool(issuer.guest) or (program if known else issuer.comm).startswith(_MOVERS)


def _program(step: Step) -> tuple[str, str]:
    issuer = step.event.issuer
    return ("", "") if issuer is None else (issuer.comm, issuer.guest)


def _left(step: Step, before: LuState, ports: tuple[Ports, ...]) -> Iterator[Incident]:
    """The move away from this host that a reading shows; before: what was certain last."""
    after = step.after
    for nexus, each in before.registrations.items():
        gone = nexus in before.paths and not _has(after, nexus, each.key)
        arrived = [
            other
            for other in _with_key(after, each.key)
            if other not in after.paths
            and not _has(before, other, each.key)
            and not _is_own(before, after.registrations[other])
        ]
        if not gone or not arrived:
            continue
        wrong = _harm(before, after, each.key, ports)
        wrong += [
            f"the key is left on {other} of this host"
            for other in _with_key(after, each.key)
            if other in after.paths
        ]
        went = ", ".join(_named(after, other, ports) for other in arrived)
        chain = [
            observed(step, f"the key {key_text(each.key)} is not on {nexus} any more"),
            Link(
                "a guest that moved leaves so; a host that fenced this one by the same key looks "
                "the same from here",
                Certainty.INFERRED,
            ),
        ]
        doubts = (*_doubts(before), *_doubts(after))
        moved = Moved(each.key, (_type(before), _type(after)), recorded=False)
        yield _incident(step, nexus, f"went from here to {went}", moved, wrong, doubts, chain)
        return


def _is_own(state: LuState, each: Registration) -> bool:
    """Whether it is of an initiator port of this host: its path is gone, or cannot be told."""
    ports = (path.local.initiator_port for path in state.paths.values())
    return any(port and same_ports(port, each.initiator_port) for port in ports)


def _harm(before: LuState, after: LuState, key: int, ports: tuple[Ports, ...]) -> list[str]:
    """What the reservation's type and the other registrants lost."""
    found = []
    was, now = before.reservation, after.reservation
    if was is not None and (now is None or now.type is not was.type):
        became = "nothing is reserved" if now is None else f"it is {now.type.name}"
        found.append(f"the type was {was.type.name}, and now {became}")
    others = [nexus for nexus, each in before.registrations.items() if each.key != key]
    for nexus in others:
        name = _named(before, nexus, ports)
        if nexus not in after.registrations:
            found.append(f"{name} lost its registration")
        elif was is not None and was.type.all_registrants and nexus not in after.holders:
            found.append(f"{name} held the reservation, too, and does not any more")
    return found


def _incident(
    step: Step,
    nexus: Nexus,
    what: str,
    moved: Moved,
    wrong: Sequence[str],
    doubts: Sequence[Doubt],
    chain: Sequence[Link],
) -> Incident:
    certain = Certainty.UNKNOWN if doubts else Certainty.INFERRED
    links = [Link(each, certain, step.event.time, step.event.seq) for each in wrong]
    if doubts:
        why = f"{doubts[0].what.value}: {doubts[0].reason}"
        links.append(Link(f"not everything can be judged: {why}", Certainty.UNKNOWN))
    verdict = wrong[0] if wrong else "not everything can be judged" if doubts else _WELL
    return Incident(
        IncidentKind.MOVED,
        nexus,
        step.event.device,
        step.event.time,
        step.event.time,
        1,
        f"{'the' if moved.recorded else 'perhaps the'} guest's key {key_text(moved.key)} {what}: "
        f"{verdict}",
        (*links, *chain),
        moved=moved,
    )


def _type(state: LuState) -> str:
    return "" if state.reservation is None else state.reservation.type.name


_JUDGED: Final = (Fact.REGISTRATIONS, Fact.RESERVATION)


def _doubts(state: LuState) -> tuple[Doubt, ...]:
    return tuple(each for each in state.doubts if each.what in _JUDGED)


def _with_key(state: LuState, key: int) -> list[Nexus]:
    return [nexus for nexus, each in state.registrations.items() if each.key == key]


def _has(state: LuState, nexus: Nexus, key: int) -> bool:
    each = state.registrations.get(nexus)
    return each is not None and each.key == key


def _named(state: LuState, nexus: Nexus, ports: tuple[Ports, ...]) -> str:
    """A nexus of another host, with the host where somebody told whose port it is."""
    each = state.registrations.get(nexus)
    port = None if each is None else each.initiator_port
    host = host_of(port, ports).name if port else ""
    return f"{nexus} of {host}" if host else nexus
