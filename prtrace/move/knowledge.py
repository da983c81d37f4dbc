"""What is known of the units that are to move: what was observed, and by whom it was done.

An Observer answers for the agent: the commands ask it over its socket
(prtrace.cli.knowledge), the agent's own calls ask it directly (prtrace.move.service).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from prtrace.errors import AgentUnreachableError, UsageError
from prtrace.model import Action
from prtrace.move import actions
from prtrace.move.facts import User
from prtrace.move.guest import find_guest, find_process, moves_itself
from prtrace.move.handover import Plan
from prtrace.move.memory import Memory
from prtrace.move.side import Side
from prtrace.scsi.parameter import BasicList
from prtrace.state.event import Command, Event

LAST: Final = 1000
"""How many events of a unit an Observer is asked for."""

_OURSELVES: Final = "prtrace"
_REGISTERS: Final = (Action.REGISTER.value, Action.REGISTER_AND_IGNORE.value)
_GOOD, _CONFLICT = "GOOD", "RESERVATION CONFLICT"


class Observer(Protocol):
    """The agent, as far as a move asks it.  AgentUnreachableError where there is none."""

    def units(self, lus: Sequence[str]) -> list[Mapping[str, Any]]:
        """Return "units" of prtrace.show/1 for these designators."""

    def events(self, lu: str) -> Iterator[Event]:
        """Return the newest LAST events of commands that can change the unit, oldest first."""


@dataclass(frozen=True, slots=True)
class Knowledge:
    """units: as in prtrace.show/1, by designator.  users: who changed reservations through a
    side's nexuses since they were registered.  aptpl: what the newest REGISTER seen asked for.
    """

    units: Mapping[str, Mapping[str, Any]]
    users: Mapping[str, tuple[User, ...]] = field(default_factory=dict)
    aptpl: Mapping[str, bool | None] = field(default_factory=dict)


def asked_user(guest: str | None, pid: int | None) -> tuple[User | None, str]:
    """The guest that is to move, and why its QEMU moves its reservations itself, or "".

    guest: a name or UUID.  NoSuchDeviceError where there is no such process, UsageError where
    both are given.
    """
    if guest and pid is not None:
        raise UsageError("a name and a process both name the guest", hint="give one of them")
    if guest:
        process = find_guest(guest)
    elif pid is not None:
        process = find_process(pid)
    else:
        return None, ""
    identity = process.guest
    name = (identity.name or identity.uuid) if identity is not None else ""
    return User(process.pid, process.comm, name), moves_itself(process.pid)


def learn(sides: Sequence[Side], observer: Observer, *, read: bool = False) -> Knowledge:
    """What observer knows of sides; with read, the state is what the devices say now.

    A reading takes the unit attentions that wait for the guest's nexus.
    """
    shown = observer.units([side.lu for side in sides])
    units = {unit["lu"]: unit for unit in shown}
    if read:
        found = actions.read(sides)
        units = {lu: _with_authors(unit, units.get(lu)) for lu, unit in found.items()}
    users: dict[str, tuple[User, ...]] = {}
    aptpl: dict[str, bool | None] = {}
    for side in sides:
        changes = [event for event in observer.events(side.lu) if _changed(event, side)]
        since = min(
            (each["at"] for each in units.get(side.lu, {}).get("registrations", ())), default=""
        )
        users[side.lu] = _users(changes, since)
        aptpl[side.lu] = _aptpl(changes)
    return Knowledge(units, users, aptpl)


def witness(observer: Observer) -> Callable[[Plan, Memory], bool | None]:
    """Somebody to ask whether a PREEMPT succeeded: the agent, which saw it in the kernel."""

    def ask(plan: Plan, memory: Memory) -> bool | None:
        try:
            seen = list(observer.events(plan.lu))
        except AgentUnreachableError:
            return None
        for event in reversed(seen):
            fits = event.action == Action.PREEMPT.value and event.key == plan.mine
            if fits and event.sa_key == memory.victim and event.status in (_GOOD, _CONFLICT):
                return event.status == _GOOD
        return None

    return ask


def _changed(event: Event, side: Side) -> bool:
    """Whether the event changed reservations through one of the side's nexuses."""
    return (
        event.command in (Command.PR_OUT, Command.RESERVE)
        and event.status == _GOOD
        and side.path(event.nexus) is not None
    )


def _users(changes: Iterable[Event], since: str) -> tuple[User, ...]:
    found: dict[User, None] = {}
    for event in changes:
        issuer = event.issuer
        recent = not since or event.to_json()["time"] >= since
        if issuer is not None and recent and issuer.comm != _OURSELVES:
            found[User(issuer.pid, issuer.comm, issuer.guest)] = None
    return tuple(found)


def _aptpl(changes: Iterable[Event]) -> bool | None:
    """The APTPL bit of the newest REGISTER that was seen; None where none was."""
    found = None
    for event in changes:
        if event.action in _REGISTERS and event.sa_key:
            raw = event.data or event.head
            found = BasicList.parse(raw).aptpl if len(raw) >= 24 else None
    return found


def _with_authors(read: dict[str, Any], known: Mapping[str, Any] | None) -> dict[str, Any]:
    """A reading, with who made each registration that was known before."""
    before = {
        (each["nexus"], each["key"]): each.get("by")
        for each in (known or {}).get("registrations", ())
    }
    registrations = [
        {**each, "by": before.get((each["nexus"], each["key"]))} for each in read["registrations"]
    ]
    return {**read, "registrations": registrations}
