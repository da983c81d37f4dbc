"""From the events of a unit to what went wrong, and why (pure).

What one host recorded tells what its own commands did.  What another host did shows here as a
unit attention and in the next reading; who it was is told where the steps are of several hosts
(joined.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from prtrace.explain import links
from prtrace.explain.incident import Certainty, Incident, IncidentKind, Link, Lost
from prtrace.explain.links import observed, who
from prtrace.explain.memory import Memory
from prtrace.explain.returned import returned
from prtrace.explain.timeline import Step
from prtrace.model import (
    Access,
    Action,
    Attention,
    ConflictSeen,
    LegacyReserve,
    LocalNexus,
    Nexus,
    NotWatched,
    Outcome,
    PrOut,
    RecordsLost,
)
from prtrace.state.access import Standing, standing
from prtrace.state.binding import may_be
from prtrace.state.event import key_text
from prtrace.state.refusal import holder, refusal
from prtrace.state.unit import Fact, LuState, Registration

_TAKES_AWAY: Final = (Action.PREEMPT, Action.PREEMPT_AND_ABORT, Action.CLEAR)
_CHANGES_RESERVATION: Final = (*_TAKES_AWAY, Action.RESERVE, Action.RELEASE)
_FOLLOWS: Final = Certainty.INFERRED
_EPISODE_NS: Final = 300 * 10**9
"""What goes wrong again after a longer time is another incident."""
_LINKS: Final = 12
"""Of a chain to which what is counted adds."""
_SCANNERS: Final = {
    "udevd": "the device manager looks at every disk",
    "(udev-worker)": "the device manager looks at every disk",
    "systemd-udevd": "the device manager looks at every disk",
    "lvm": "LVM scans every disk",
    "pvs": "LVM scans every disk",
    "vgs": "LVM scans every disk",
    "pvscan": "LVM scans every disk",
    "blkid": "blkid looks for file systems",
    "multipathd": "multipathd checks every path",
    "smartd": "smartd asks every disk",
    "sos": "sos collects a report of every disk",
    "sosreport": "sos collects a report of every disk",
}

_EXECUTED: Final = re.compile(
    r"udevadm|systemd-udevd|lvm|blkid|multipathd|smartd|python3?(?:\.\d+)?|sos(?:report)?"
)
"""The files that they execute: pvs and vgs are lvm, udevd is udevadm, sos is a Python's."""


@dataclass(frozen=True, slots=True)
class _Case:
    """What makes an incident, before its chain is looked for: a storm has one chain."""

    kind: IncidentKind
    nexus: Nexus
    title: str
    harmless: str
    count: int
    build: Callable[[], Incident]
    hint: str = ""
    """What is not known of the command."""


def incidents(steps: Sequence[Step], memory: Memory | None = None) -> list[Incident]:
    """What went wrong in steps, oldest first by when it began.

    What goes wrong again in the same way, while neither registrations nor reservation change, is
    one incident that is counted.
    """
    remembered = memory or Memory()
    found: list[Incident] = []
    again: dict[tuple[object, ...], int] = {}
    for number, step in enumerate(steps):
        for case in _of_step(steps, number, remembered):
            key = (case.kind, case.nexus, case.title, case.harmless)
            one = found[again[key]] if key in again else None
            if one is not None and step.event.time - one.last <= _EPISODE_NS:
                found[again[key]] = replace(
                    one,
                    last=step.event.time,
                    count=one.count + case.count,
                    chain=(*one.chain, *_more(one, case, step)),
                )
            else:
                again[key] = len(found)
                found.append(case.build())
        if _changed(step):
            again.clear()
    back = list(returned(steps))
    return sorted((*found, *back), key=lambda each: each.at) if back else found


def _more(one: Incident, case: _Case, step: Step) -> Iterator[Link]:
    """What is not known of an incident that is counted to one, where that differs."""
    known = {link.text for link in one.chain}
    if case.hint and case.hint not in known and len(known) < _LINKS:
        yield Link(case.hint, Certainty.UNKNOWN, step.event.time, step.event.seq)


def _changed(step: Step) -> bool:
    """Whether the step changed who is registered or who holds."""
    before, after = step.before, step.after
    return (before.registrations, before.reservation, before.legacy_holder) != (
        after.registrations,
        after.reservation,
        after.legacy_holder,
    )


def _of_step(steps: Sequence[Step], number: int, memory: Memory) -> Iterator[_Case]:
    step = steps[number]
    for seen in step.seen:
        match seen:
            case ConflictSeen():
                yield _conflict(steps, number, seen, memory)
            case PrOut() if seen.outcome is Outcome.CONFLICT:
                yield _refused(steps, number, seen, memory)
            case PrOut() if seen.outcome is Outcome.UNKNOWN:
                yield _of(_uncertain(steps, number, seen))
            case LegacyReserve() if seen.outcome is Outcome.CONFLICT:
                yield _refused_spc2(steps, number, seen, memory)
            case NotWatched():
                yield _of(_not_watched(steps, number))
            case RecordsLost():
                many = "record was" if seen.count == 1 else "records were"
                text = f"{seen.count} {many} lost of {seen.nexus} ({seen.cause})"
                if step.event.sense == links.SOME_PARAMETERS:
                    text = (
                        "a unit attention 2A came, of which the qualifier is not there (the "
                        'kernel logs "Parameters changed"): whether it told of reservations is '
                        "not known"
                    )
                yield _of(_incident(step, IncidentKind.NOT_WATCHED, text, (observed(step, text),)))
            case _:
                pass
    lost = list(_lost_registrations(steps, number))
    yield from (_of(incident) for incident, _ in lost)
    if all(away for _, away in lost):
        yield from map(_of, _lost_reservation(steps, number))


def _of(incident: Incident) -> _Case:
    """The case of an incident that is there already."""
    kind, nexus, title = incident.kind, incident.nexus, incident.title
    return _Case(kind, nexus, title, incident.harmless, incident.count, lambda: incident)


def _conflict(steps: Sequence[Step], number: int, seen: ConflictSeen, memory: Memory) -> _Case:
    step = steps[number]
    what = links.command(step.event)
    rule = refusal(step.before, seen, step.event.cdb).removeprefix(f"{what}: ")
    # Which block it was tells one command from another, and not one incident from another.
    title = refusal(step.before, seen, step.event.cdb, block=False)
    harmless = _harmless(step, seen.nexus)

    def build() -> Incident:
        chain = [observed(step, f"{who(step.event)} was answered RESERVATION CONFLICT: {what}")]
        chain.append(_by_rule(steps, number, rule))
        if step.event.problem:
            chain.append(Link(step.event.problem, Certainty.UNKNOWN))
        chain += links.how_reserved(steps, number, memory)
        chain += links.how_unregistered(steps, number, seen.nexus)
        if step.before.doubts:
            chain += links.attention(steps, number, seen.nexus, links.ABOUT_RESERVATIONS)
        chain += _what_it_means(step, seen)
        return replace(
            _incident(step, IncidentKind.CONFLICT, title, chain),
            count=seen.count,
            harmless=harmless,
        )

    hint = step.event.problem
    return _Case(IncidentKind.CONFLICT, seen.nexus, title, harmless, seen.count, build, hint)


def _harmless(step: Step, nexus: Nexus) -> str:
    """A scan of a path that is not registered meets the reservation of those that are.

    A process gives itself its name; which file it executes is the kernel's word, where known.
    """
    issuer = step.event.issuer
    if issuer is None or issuer.comm not in _SCANNERS or step.before.doubts:
        return ""
    program = step.event.exe.rpartition("/")[2]
    if program and _EXECUTED.fullmatch(program) is None:
        return ""
    if standing(step.before, nexus) is not Standing.NOT_REGISTERED:
        return ""
    return f"{_SCANNERS[issuer.comm]}, and this path is not registered: the conflict is expected"


def _by_rule(steps: Sequence[Step], number: int, rule: str) -> Link:
    """The rule that refused it, by what was known: another host may have changed that since."""
    for known in reversed(steps[:number]):
        if _changed(known) or known.told is not None:
            text = f"by what was known since then: {rule}"
            return Link(text, Certainty.INFERRED, known.event.time, known.event.seq)
    return Link(f"by what was known: {rule}", Certainty.INFERRED)


def _what_it_means(step: Step, seen: ConflictSeen) -> Iterator[Link]:
    """Whether it is harmless: of a read that no process is recorded for, that is not known."""
    if seen.access is Access.WRITE:
        yield Link("nothing of it was written; no scan writes: it is not harmless", _FOLLOWS)
    known = step.event.issuer is not None or step.before.doubts
    if known or seen.access is not Access.READ:
        return
    if standing(step.before, seen.nexus) is Standing.NOT_REGISTERED:
        yield Link(
            "the process of an ordinary read is not recorded: udev, LVM and blkid read every "
            "disk when they scan it, and then this conflict is harmless",
            Certainty.UNKNOWN,
        )


def _refused(steps: Sequence[Step], number: int, seen: PrOut, memory: Memory) -> _Case:
    step = steps[number]
    why = refusal(step.before, seen, step.event.cdb)
    what = f"{seen.action.value} by {who(step.event)}"
    title = f"{what}: {why}" if why else what

    def build() -> Incident:
        gave = f"; it gave key {key_text(seen.key)}" if seen.key else ""
        chain = [observed(step, f"{what} was answered RESERVATION CONFLICT{gave}")]
        if why:
            chain.append(Link(why, Certainty.INFERRED, step.event.time, step.event.seq))
        else:
            chain.append(Link("what was known before does not tell why", Certainty.UNKNOWN))
        if seen.action is Action.REGISTER:
            chain += links.how_registered(steps, number, seen.nexus)
        chain += links.key_elsewhere(step, seen)
        chain += links.how_reserved(steps, number, memory)
        return _incident(step, IncidentKind.REFUSED, title, chain)

    return _Case(IncidentKind.REFUSED, seen.nexus, title, "", 1, build)


def _refused_spc2(
    steps: Sequence[Step], number: int, seen: LegacyReserve, memory: Memory
) -> _Case:
    step = steps[number]
    why = refusal(step.before, seen, step.event.cdb)
    what = f"{step.event.action} by {who(step.event)}"
    title = f"{what}: {why}" if why else what

    def build() -> Incident:
        chain = [observed(step, f"{what} was answered RESERVATION CONFLICT")]
        if why:
            chain.append(Link(why, Certainty.INFERRED, step.event.time, step.event.seq))
        chain += links.how_reserved(steps, number, memory)
        return _incident(step, IncidentKind.REFUSED, title, chain)

    return _Case(IncidentKind.REFUSED, seen.nexus, title, "", 1, build)


def _uncertain(steps: Sequence[Step], number: int, seen: PrOut) -> Incident:
    """A command whose answer does not tell whether it took effect, and what showed it later."""
    step = steps[number]
    event = step.event
    ended = " ".join(filter(None, (event.status or "no status", event.host_byte, event.sense)))
    what = f"{seen.action.value} by {who(event)} ended with {ended}"
    chain = [observed(step, f"{what}: whether it took effect is not in that answer")]
    for later in steps[number + 1 :]:
        if later.after.doubted(Fact.REGISTRATIONS) or later.after.doubted(Fact.RESERVATION):
            continue
        each = later.after.registrations.get(seen.nexus)
        now = f"registered with key {key_text(each.key)}" if each else "not registered"
        held = holder(later.after) or "nothing is reserved"
        chain.append(observed(later, f"later {seen.nexus} is {now}; {held}"))
        break
    else:
        chain.append(Link("nothing that was recorded later tells it", Certainty.UNKNOWN))
    return _incident(step, IncidentKind.UNCERTAIN, what, chain)


def _not_watched(steps: Sequence[Step], number: int) -> Incident:
    step = steps[number]
    text = "nobody watched this unit before"
    link = Link(text, Certainty.UNKNOWN, step.event.time, step.event.seq)
    return _incident(step, IncidentKind.NOT_WATCHED, text, (link,))


def _doubtful_since(steps: Sequence[Step], number: int, fact: Fact) -> int:
    """The step that the last state without doubt stands before, or the first one.

    A loss is told once it is certain, and compared with what was certain before: between the two
    an agent reads the keys, which do not say whose they are, and then everything.
    """
    while number and steps[number].before.doubted(fact):
        number -= 1
    return number


def _lost_registrations(steps: Sequence[Step], number: int) -> Iterator[tuple[Incident, bool]]:
    """Registrations of this host that are gone for certain after the step, and were not before;
    and whether their paths were away then."""
    after = steps[number].after
    if after.doubted(Fact.REGISTRATIONS):
        return
    gone: dict[Nexus, tuple[int, Registration]] = {}
    away: dict[Nexus, Nexus] = {}
    for at in range(_doubtful_since(steps, number, Fact.REGISTRATIONS), number + 1):
        then = steps[at]
        # A path that goes leaves its registration behind, under the names of its ports.
        if then.before.registrations is then.after.registrations or then.renames:
            continue
        for nexus, was in then.before.registrations.items():
            if _is_still(then.before, nexus, was, after):
                continue
            if nexus in then.after.registrations:
                continue
            if was.local or nexus in then.before.paths:
                gone[nexus] = at, was
            elif former := _lost_while_away(steps, at, was):
                gone[nexus] = at, was
                away[nexus] = former
    by: Action | None
    for nexus, (at, was) in gone.items():
        reset = False
        if nexus in after.registrations:
            continue
        # What was told to it was told to its address.
        address = away.get(nexus, nexus)
        step = steps[at]
        began = step
        command = links.pr_out(step)
        if command is not None:
            if command.nexus == nexus and command.action not in _TAKES_AWAY:
                continue  # it unregistered itself
            taken = f"{command.action.value} on {command.nexus} by {who(step.event)} took it away"
            chain = [observed(step, taken), *links.lost_abort(step, command)]
            chain += links.told_later(steps, at, nexus)
            chain += links.how_registered(steps, at, command.nexus)
            by = command.action
        else:
            chain = [observed(step, f"a reading of the device shows {nexus} unregistered")]
            chain += links.attention(steps, at, address)
            chain += links.author(steps, number, address, was.key)
            if steps[at].before.reservation is not None and after.reservation is None:
                chain.append(_free(step))
            signs = list(links.attentions_before(steps, number, address))
            began = signs[-1][0] if signs else step
            told = {each for _, each in signs}
            if told.isdisjoint(links.ABOUT_RESERVATIONS):
                # The reading went over another path, and the nexus itself is told later.
                chain += links.told_later(steps, number, nexus)
                told |= links.attentions_after(steps, number, nexus)
            by = Action.PREEMPT if Attention.REGISTRATIONS_PREEMPTED in told else None
            reset = Attention.RESET in told and not told & links.OF_OTHERS
        if nexus in away:
            chain[1:1] = links.former_nexus(steps, at, nexus)
        chain += links.registered_again(steps, number, address, was.key)
        title = f"{nexus} lost its registration with key {key_text(was.key)}"
        incident = replace(
            _incident(step, IncidentKind.LOST_REGISTRATION, title, chain),
            # An address may be another nexus's by now.
            nexus=f"{nexus}{_of_host(address)}" if nexus in away else nexus,
            at=began.event.time,
            last=began.event.time,
            device=links.device(step.before, nexus),
            lost=Lost(
                was.key, by, own=command is not None and command.nexus == nexus, reset=reset
            ),
        )
        yield incident, nexus in away


def _lost_while_away(steps: Sequence[Step], at: int, was: Registration) -> Nexus | None:
    """The address that a registration had while its path was here, where it went while that was
    away: neither the holder's, of which the lost reservation tells, nor by its own host."""
    step = steps[at]
    held = step.before.reservation
    if (held is not None and held.holder == was.nexus) or step.after.unattributed:
        return None
    address = links.former_address(steps, at, was)
    command = links.pr_out(step)
    if address and command is not None and _of_host(command.nexus) == _of_host(address):
        return None
    return address


def _of_host(nexus: Nexus) -> str:
    """The host in a nexus's name, "" where the history is one host's."""
    return "".join(nexus.partition(" of ")[1:])


def _free(step: Step) -> Link:
    """What it means that nothing is reserved any more."""
    text = "since then nothing keeps any host from writing, one that was fenced neither"
    return Link(text, _FOLLOWS, step.event.time, step.event.seq)


def _is_still(before: LuState, nexus: Nexus, was: Registration, after: LuState) -> bool:
    """Whether a registration is there under another name, or may be: an address is no nexus."""
    ports = _ports(before, nexus, was)
    if ports[0] is None:
        return nexus not in after.paths
    path = LocalNexus(nexus, after.lu, initiator_port=ports[0], relative_target_port=ports[1])
    return any(
        _ports(after, *each) == ports
        # One of elsewhere may stand for this one: ALL_TG_PT has no target port.
        or (not each[1].local and each[1].initiator_port and may_be(*_ports(after, *each), path))
        for each in after.registrations.items()
    )


def _ports(state: LuState, nexus: Nexus, each: Registration) -> tuple[str | None, int | None]:
    """The initiator port and the relative target port of a registration, as far as known."""
    path = state.paths.get(nexus)
    if path is not None:
        return path.local.initiator_port, path.local.relative_target_port
    return each.initiator_port, each.relative_target_port


def _same_holder(before: LuState, after: LuState) -> bool:
    """Whether the same ports hold the reservation, under whatever name."""
    was, now = before.reservation, after.reservation
    if was is None or now is None:
        return False
    if was.holder == now.holder:
        return True
    one = before.registrations.get(was.holder or "")
    other = after.registrations.get(now.holder or "")
    if one is None or other is None:
        return False
    ports = _ports(before, one.nexus, one)
    return ports[0] is not None and ports == _ports(after, other.nexus, other)


def _lost_reservation(steps: Sequence[Step], number: int) -> Iterator[Incident]:
    """A reservation that this host's nexuses held, and that another one ended or changed."""
    step = steps[number]
    if step.after.doubted(Fact.RESERVATION):
        return
    since = _doubtful_since(steps, number, Fact.RESERVATION)
    base = steps[since].before
    was, now = base.reservation, step.after.reservation
    if was is None or base.doubted(Fact.RESERVATION):
        return
    mine = [nexus for nexus in base.holders if nexus in base.paths]
    if now is not None and now.type is was.type:
        if _same_holder(base, step.after):
            return
        title = f"{was.type.name} has another holder"
    elif now is not None:
        title = f"the reservation changed from {was.type.name} to {now.type.name}"
    else:
        title = f"{was.type.name} ended"
    at = _changing(steps, since, number)
    if at is None:
        return
    told = steps[at]
    between = _that_may_have(steps[since : number + 1])
    command = links.pr_out(told)
    reset = any(
        told is Attention.RESET
        for nexus in mine
        for _, told in links.attentions_before(steps, number, nexus)
    )
    alone = len(mine) == 1 and {each.nexus for _, each in between} == set(mine)
    if alone and not reset and (now is None or now.holder in mine):
        return  # its holder gave it up, or changed it
    if command is not None:
        what = f"{command.action.value} on {command.nexus} by {who(told.event)} did it"
        chain = [observed(told, what), *links.lost_abort(told, command)]
        chain += links.how_registered(steps, at, command.nexus)
        if command.action is Action.RELEASE and was.type.all_registrants:
            chain.append(
                observed(told, f"a RELEASE by one registrant ends {was.type.name} for all of them")
            )
    elif not mine:
        return
    else:
        chain = [observed(told, f"a reading shows {holder(step.after) or 'nothing reserved'}")]
        for nexus in mine:
            chain += links.attention(steps, number, nexus)
        for each, seen in () if reset else between:
            text = f"{seen.action.value} on {seen.nexus} by {who(each.event)} can have done it"
            chain.append(Link(text, Certainty.INFERRED, each.event.time, each.event.seq))
        if not between and not reset:
            text = "which command it was and who sent it was not recorded here"
            if forgotten := list(links.forgotten(steps[since : number + 1], mine)):
                chain += forgotten
                text = "whether a command did it instead was not recorded here"
            chain.append(Link(text, Certainty.UNKNOWN))
    if now is None:
        chain.append(_free(told))
    for nexus in mine[:1]:
        yield replace(
            _incident(told, IncidentKind.LOST_RESERVATION, title, chain),
            nexus=nexus,
            device=links.device(told.before, nexus),
        )


def _that_may_have(steps: Sequence[Step]) -> list[tuple[Step, PrOut]]:
    """The commands of this host that may have changed the reservation."""
    return [
        (step, seen)
        for step in steps
        for seen in step.seen
        if isinstance(seen, PrOut)
        and seen.action in _CHANGES_RESERVATION
        and seen.outcome in (Outcome.DONE, Outcome.UNKNOWN)
    ]


def _changing(steps: Sequence[Step], since: int, number: int) -> int | None:
    """The newest of the steps from since to number that changed the reservation itself."""
    for at in range(number, since - 1, -1):
        step = steps[at]
        was, now = step.before.reservation, step.after.reservation
        same = was is now or (was and (was.type, was.holder)) == (now and (now.type, now.holder))
        if not same and not step.renames:
            return at
    return None


def _incident(step: Step, kind: IncidentKind, title: str, chain: Iterable[Link]) -> Incident:
    event = step.event
    return Incident(
        kind, event.nexus, event.device, event.time, event.time, 1, title, tuple(chain)
    )
