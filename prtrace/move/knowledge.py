"""What is known of the units that are to move: what was observed, and by whom it was done.

An Observer answers for the agent: the commands ask it over its socket
(prtrace.cli.knowledge), the agent's own calls ask it directly (prtrace.agent.moves).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from prtrace.errors import UsageError
from prtrace.move.facts import Sender
from prtrace.move.guest import find_guest, find_process, guests_of, helpers_of, moves_itself
from prtrace.move.side import Side
from prtrace.state.event import Command, Event, rfc3339

LAST: Final = 1000
"""How many events of a unit an Observer is asked for."""

_GOOD = "GOOD"


class Observer(Protocol):
    """The agent, as far as a move asks it.  AgentUnreachableError where there is none."""

    def units(self, lus: Sequence[str]) -> list[Mapping[str, Any]]:
        """Return "units" of prtrace.show/1 for these designators."""

    def events(self, lu: str) -> Iterator[Event]:
        """Return the newest LAST events of commands that can change the unit, oldest first."""


@dataclass(frozen=True, slots=True)
class Knowledge:
    """units: as in prtrace.show/1, by designator.  users: who changed reservations through a
    side's nexuses since they were registered.
    """

    units: Mapping[str, Mapping[str, Any]]
    users: Mapping[str, tuple[Sender, ...]] = field(default_factory=dict)


def asked_user(guest: str | None, pid: int | None) -> tuple[Sender | None, str]:
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
    helpers = helpers_of(process.pid) if identity is not None else frozenset()
    uuid = identity.uuid if identity is not None else ""
    sender = Sender(process.pid, process.comm, name, helpers, process.start_ns, uuid)
    return sender, moves_itself(process.pid)


def itself_of(users: Iterable[Sender]) -> str:
    """Why a QEMU that acts for one of users moves its reservations itself, "" where none does."""
    qemus = {pid for user in users for pid in guests_of(user.pid)}
    return next((why for pid in sorted(qemus) if (why := moves_itself(pid))), "")


Read = Callable[[Iterable[Side]], dict[str, dict[str, Any]]]
"""Reads the units of sides, as prtrace.show/1 has them, by designator."""


def learn(sides: Sequence[Side], observer: Observer, read: Read | None = None) -> Knowledge:
    """What observer knows of sides; with read, the state is what the devices say now.

    A reading takes the unit attentions that wait for the guest's nexus.
    """
    shown = observer.units([side.lu for side in sides])
    units = {unit["lu"]: unit for unit in shown}
    # A reading is later than the registrations, and than whoever changed them since.
    begun = {lu: _earliest(unit) for lu, unit in units.items()}
    if read is not None:
        found = read(sides)
        units = {lu: _with_authors(unit, units.get(lu)) for lu, unit in found.items()}
    users: dict[str, tuple[Sender, ...]] = {}
    for side in sides:
        changes = [event for event in observer.events(side.lu) if _changed(event, side)]
        users[side.lu] = _users(changes, begun.get(side.lu, ""))
    return Knowledge(units, users)


def _earliest(unit: Mapping[str, Any]) -> str:
    """When the first registration that is there was seen; "" where there is none."""
    return min((str(each["at"]) for each in unit.get("registrations", ())), default="")


def _changed(event: Event, side: Side) -> bool:
    """Whether the event changed reservations through one of the side's nexuses."""
    return (
        event.command in (Command.PR_OUT, Command.RESERVE)
        and event.status == _GOOD
        and side.path(event.nexus) is not None
    )


def _users(changes: Iterable[Event], since: str) -> tuple[Sender, ...]:
    found: dict[Sender, None] = {}
    for event in changes:
        issuer = event.issuer
        # Not to_json(), which looks into the bytes of commands and replies: this is root.
        recent = not since or rfc3339(event.time) >= since
        if issuer is not None and recent:
            sender = Sender(
                issuer.pid,
                issuer.comm,
                issuer.guest,
                start_ns=issuer.start_ns,
                uuid=issuer.uuid,
            )
            found[sender] = None
    return tuple(found)


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
