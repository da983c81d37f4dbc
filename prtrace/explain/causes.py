"""From the events of a unit to what went wrong, and why (pure).

What one host recorded tells what its own commands did.  What another host did shows here as a unit
attention and in the next reading; who it was is told only where that host's recording is at hand.
PRGENERATION joins them: REGISTER, CLEAR and PREEMPT count it, so a command of another host that
took it from below to above what this host read lies between this host's two readings, whatever the
clocks of both say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from prtrace.explain.incident import Certainty, Incident, Kind, Link
from prtrace.explain.timeline import Step
from prtrace.model import (
    Action,
    AttentionSeen,
    ConflictSeen,
    Nexus,
    NotWatched,
    Outcome,
    PrOut,
    RecordsLost,
)
from prtrace.state.access import Standing, standing
from prtrace.state.event import Event, key_text
from prtrace.state.refusal import holder, refusal
from prtrace.state.unit import Fact, LuState

_TAKES_AWAY: Final = (Action.PREEMPT, Action.PREEMPT_AND_ABORT, Action.CLEAR)
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


class Elsewhere:
    """What the recordings of other hosts say of the same unit: (host, its steps)."""

    def __init__(self, recordings: Sequence[tuple[str, Sequence[Step]]] = ()) -> None:
        self._recordings = recordings

    def took(self, key: int, above: int | None, upto: int | None) -> Iterator[_Taken]:
        """Commands of other hosts that took registrations with key away.

        above, upto: the PRGENERATIONs that this host read before and after, None where not known;
        a command that is known to lie outside them is left out.
        """
        for host, steps in self._recordings:
            for step in steps:
                seen = _taking(step, key)
                if seen is None:
                    continue
                counted = None if step.after.doubted(Fact.GENERATION) else step.after.generation
                if counted is None or above is None or upto is None or above < counted <= upto:
                    yield _Taken(host, step, seen)


@dataclass(frozen=True, slots=True)
class _Taken:
    """A command of another host that took registrations away."""

    host: str
    step: Step
    seen: PrOut


def incidents(steps: Sequence[Step], elsewhere: Elsewhere | None = None) -> list[Incident]:
    """What went wrong in steps, oldest first."""
    others = elsewhere or Elsewhere()
    found: list[Incident] = []
    for number in range(len(steps)):
        for incident in _of_step(steps, number, others):
            if found and _alike(found[-1], incident):
                found[-1] = replace(
                    found[-1], last=incident.last, count=found[-1].count + incident.count
                )
            else:
                found.append(incident)
    return found


def _alike(one: Incident, other: Incident) -> bool:
    return (one.kind, one.nexus, one.title) == (other.kind, other.nexus, other.title)


def _of_step(steps: Sequence[Step], number: int, others: Elsewhere) -> Iterator[Incident]:
    step = steps[number]
    for seen in step.seen:
        match seen:
            case ConflictSeen():
                yield _conflict(steps, number, seen)
            case PrOut() if seen.outcome is Outcome.CONFLICT:
                yield _refused(steps, number, seen)
            case NotWatched():
                yield _not_watched(steps, number)
            case RecordsLost():
                text = f"{seen.count} records of {seen.nexus} were lost ({seen.cause})"
                yield _incident(step, Kind.NOT_WATCHED, text, (_observed(step, text),))
            case _:
                pass
    yield from _lost(steps, number, others)


def _conflict(steps: Sequence[Step], number: int, seen: ConflictSeen) -> Incident:
    step = steps[number]
    why = refusal(step.before, seen, step.event.cdb)
    chain = [_observed(step, f"{_who(step.event)} was answered RESERVATION CONFLICT: {why}")]
    chain += _how_reserved(steps, number)
    chain += _how_unregistered(steps, number, seen.nexus)
    return replace(
        _incident(step, Kind.CONFLICT, why, tuple(chain)),
        count=seen.count,
        harmless=_harmless(step, seen.nexus),
    )


def _harmless(step: Step, nexus: Nexus) -> str:
    """A scan of a path that is not registered meets the reservation of those that are."""
    issuer = step.event.issuer
    if issuer is None or issuer.comm not in _SCANNERS or step.before.doubts:
        return ""
    if standing(step.before, nexus) is not Standing.NOT_REGISTERED:
        return ""
    return f"{_SCANNERS[issuer.comm]}, and this path is not registered: the conflict is expected"


def _refused(steps: Sequence[Step], number: int, seen: PrOut) -> Incident:
    step = steps[number]
    why = refusal(step.before, seen, step.event.cdb)
    what = f"{seen.action.value} by {_who(step.event)}"
    chain = [_observed(step, f"{what} was answered RESERVATION CONFLICT")]
    if why:
        chain.append(Link(why, Certainty.INFERRED, step.event.time, step.event.seq))
    else:
        chain.append(Link("what was known before does not tell why", Certainty.UNKNOWN))
    chain += _how_reserved(steps, number)
    return _incident(step, Kind.REFUSED, f"{what}: {why}" if why else what, tuple(chain))


def _not_watched(steps: Sequence[Step], number: int) -> Incident:
    step = steps[number]
    since = steps[number - 1].event.time if number else 0
    text = "nobody watched this unit before"
    link = Link(text, Certainty.UNKNOWN, since, step.event.seq)
    return replace(_incident(step, Kind.NOT_WATCHED, text, (link,)), at=since or step.event.time)


def _lost(steps: Sequence[Step], number: int, others: Elsewhere) -> Iterator[Incident]:
    """Registrations of this host that were there before the step and are gone after it."""
    step = steps[number]
    for nexus, was in step.before.registrations.items():
        mine = was.local or nexus in step.before.paths
        if not mine or nexus in step.after.registrations:
            continue
        if step.before.doubted(Fact.REGISTRATIONS) and step.after.doubted(Fact.REGISTRATIONS):
            continue
        command = next((seen for seen in step.seen if isinstance(seen, PrOut)), None)
        title = f"{nexus} lost its registration with key {key_text(was.key)}"
        if command is not None:
            if command.nexus == nexus and command.action not in _TAKES_AWAY:
                continue  # it unregistered itself
            taken = f"{command.action.value} on {command.nexus} by {_who(step.event)} took it away"
            yield replace(
                _incident(step, Kind.LOST_REGISTRATION, title, (_observed(step, taken),)),
                nexus=nexus,
                device=_device(step.before, nexus),
            )
            continue
        chain = [_observed(step, f"a reading of the device shows {nexus} unregistered")]
        chain += _attention(steps, number, nexus)
        chain += _author(steps, number, was.key, others)
        yield replace(
            _incident(step, Kind.LOST_REGISTRATION, title, tuple(chain)),
            nexus=nexus,
            device=_device(step.before, nexus),
        )


def _attention(steps: Sequence[Step], number: int, nexus: Nexus) -> Iterator[Link]:
    """The newest unit attention on the nexus before the step."""
    for step in reversed(steps[:number]):
        for seen in step.seen:
            if isinstance(seen, AttentionSeen) and seen.nexus == nexus:
                told = f"a unit attention on {nexus} told of it: {step.event.sense}"
                yield _observed(step, told)
                return


def _author(steps: Sequence[Step], number: int, key: int, others: Elsewhere) -> Iterator[Link]:
    """Who took key away while this host saw nothing: another host, by its own recording."""
    step = steps[number]
    # PRGENERATION never goes back, so the newest one that is certain is a lower bound.
    above = next(
        (
            each.after.generation
            for each in reversed(steps[:number])
            if not each.after.doubted(Fact.GENERATION)
        ),
        None,
    )
    found = list(others.took(key, above, step.after.generation))
    for each in found:
        # What another host did in between and nobody recorded may have been first.
        yield Link(
            f"{each.host or 'another host'} recorded {each.seen.action.value} by "
            f"{_who(each.step.event)}, which took key {key_text(key)} away",
            Certainty.INFERRED,
            each.step.event.time,
            each.step.event.seq,
            each.host,
        )
    if not found:
        now = holder(step.after)
        if now:
            yield Link(f"since then {now}", Certainty.OBSERVED, step.event.time, step.event.seq)
        yield Link(
            "which command it was and who sent it was recorded by no host whose recording is here",
            Certainty.UNKNOWN,
        )


def _taking(step: Step, key: int) -> PrOut | None:
    """The command of the step, where it can have taken registrations with key away."""
    before = step.before
    there = key in before.unattributed or any(
        each.key == key for each in before.registrations.values()
    )
    if not there and not before.doubted(Fact.REGISTRATIONS):
        return None
    for seen in step.seen:
        if isinstance(seen, PrOut) and seen.action in _TAKES_AWAY:
            fits = seen.action is Action.CLEAR or seen.sa_key == key
            return seen if fits and seen.outcome is Outcome.DONE else None
    return None


def _how_reserved(steps: Sequence[Step], number: int) -> Iterator[Link]:
    """The step that made the reservation what it was at steps[number]."""
    held = steps[number].before.reservation
    if held is None:
        return
    for step in reversed(steps[:number]):
        was = step.before.reservation
        if was is not None and (was.type, was.holder) == (held.type, held.holder):
            continue
        command = next((seen for seen in step.seen if isinstance(seen, PrOut)), None)
        now = holder(step.after)
        if command is not None:
            yield _observed(step, f"{command.action.value} by {_who(step.event)}: {now}")
        else:
            yield _observed(step, f"a reading showed: {now}")
            yield Link(
                "who reserved it was not recorded here: it was another host, or it was before "
                "anybody watched",
                Certainty.UNKNOWN,
            )
        return
    yield Link("the reservation is older than what was recorded", Certainty.UNKNOWN)


def _how_unregistered(steps: Sequence[Step], number: int, nexus: Nexus) -> Iterator[Link]:
    """The step that took the registration of nexus away, where one did."""
    before = steps[number].before
    if nexus in before.registrations or before.doubted(Fact.REGISTRATIONS):
        return
    for step in reversed(steps[:number]):
        if nexus in step.before.registrations and nexus not in step.after.registrations:
            command = next((seen for seen in step.seen if isinstance(seen, PrOut)), None)
            what = "a reading showed that it is not"
            if command is not None:
                what = f"{command.action.value} by {_who(step.event)} ended it"
            yield _observed(step, f"{nexus} was registered until then: {what}")
            return
    yield Link(f"{nexus} was never seen registered", Certainty.OBSERVED)


def _incident(step: Step, kind: Kind, title: str, chain: Iterable[Link]) -> Incident:
    event = step.event
    return Incident(
        kind, event.nexus, event.device, event.time, event.time, 1, title, tuple(chain)
    )


def _observed(step: Step, text: str) -> Link:
    return Link(text, Certainty.OBSERVED, step.event.time, step.event.seq)


def _device(state: LuState, nexus: Nexus) -> str:
    path = state.paths.get(nexus)
    return "" if path is None else path.local.device


def _who(event: Event) -> str:
    """Who sent a command, as people know him."""
    issuer = event.issuer
    if issuer is None:
        return "a process that is not known"
    if issuer.guest:
        return f"guest {issuer.guest}"
    if issuer.client_comm:
        return f"{issuer.client_comm}[{issuer.client_pid}]"
    return f"{issuer.comm}[{issuer.pid}]"
