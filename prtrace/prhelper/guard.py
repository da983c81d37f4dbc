"""The same-host guard: two guests that use one I_T nexus of one logical unit (pure).

A registration belongs to the nexus, so guests behind one host port share it, and neither
knows: what one registers, reserves or clears happens to the other too.

A guest uses a nexus from before its first PERSISTENT RESERVE OUT is sent.  It ceases to when
the command has certainly changed nothing and it did not use the nexus before, when it has
unregistered, when anybody has cleared the unit's registrations over that nexus, and when its
process has ended.  A command whose outcome is unknown leaves the guest a user.

A nexus goes by several keys (prtrace.prhelper.descriptor): whoever has one in common uses the
same nexus.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from prtrace.errors import MalformedError
from prtrace.prhelper.answer import INSUFFICIENT_REGISTRATIONS, check
from prtrace.prhelper.protocol import CLEANUP, Request, Response
from prtrace.scsi.codes import Opcode, OutCode, Status
from prtrace.scsi.forms import BASIC_PARAMETER_LIST
from prtrace.scsi.sense import ILLEGAL_REQUEST, UNIT_ATTENTION, Sense

_SA_KEY: Final = BASIC_PARAMETER_LIST.field("service_action_reservation_key")
_UNTOUCHED: Final = frozenset({Status.RESERVATION_CONFLICT, Status.BUSY, Status.TASK_SET_FULL})


class Effect(enum.Enum):
    """What is known of a command's effect."""

    DONE = "done"
    NOTHING = "nothing"
    """It has certainly changed nothing."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class User:
    """A guest's process that uses a nexus."""

    identity: str
    """Of prtrace.prhelper.identity: two users with one identity are one guest."""
    title: str
    """For people."""
    pid: int
    start_ns: int
    claimed: str = ""
    """What the process calls its guest, "" for nothing."""

    @property
    def process(self) -> tuple[int, int]:
        """The process, which no other one shares."""
        return self.pid, self.start_ns


@dataclass(frozen=True, slots=True)
class Company:
    """Who else is there when a guest is about to use a nexus; all of them are alive."""

    others: tuple[User, ...] = ()
    """Other guests that use the nexus."""
    twins: tuple[User, ...] = ()
    """Other processes that are the same guest, or say so, and use any nexus."""


class SameHostGuard:
    """Who uses which nexus; used by one thread at a time."""

    def __init__(self, alive: Callable[[User], bool]) -> None:
        self._alive = alive
        self._users: dict[str, dict[tuple[int, int], User]] = {}

    @property
    def users(self) -> Iterable[tuple[str, User]]:
        """Each key of a nexus that is used, with each of its users."""
        for key, users in self._users.items():
            for user in users.values():
                yield key, user

    def company(self, keys: Iterable[str], user: User) -> Company:
        """Who else is there; users whose process has ended are forgotten."""
        wanted = set(keys)
        others: dict[tuple[int, int], User] = {}
        twins: dict[tuple[int, int], User] = {}
        for key, each in list(self.users):
            if each.process == user.process:
                continue
            same = each.identity == user.identity
            alike = same or (each.claimed and each.claimed == user.claimed)
            if not alike and key not in wanted:
                continue
            if not self._alive(each):
                self.remove((key,), [each.process])
                continue
            if alike:
                twins[each.process] = each
            if not same and key in wanted:
                others[each.process] = each
        return Company(tuple(others.values()), tuple(twins.values()))

    def add(self, keys: Iterable[str], user: User) -> bool:
        """The user is about to send a command; True where it uses the nexus from now on."""
        new = False
        for key in keys:
            users = self._users.setdefault(key, {})
            new = new or user.process not in users
            users[user.process] = user
        return new

    def remove(
        self, keys: Iterable[str], processes: Iterable[tuple[int, int]] | None = None
    ) -> tuple[User, ...]:
        """The processes, or all where it is None, use the nexus no more; those that did."""
        gone: dict[tuple[int, int], User] = {}
        wanted = None if processes is None else set(processes)
        for key in keys:
            users = self._users.get(key, {})
            for process in list(users):
                if wanted is None or process in wanted:
                    gone[process] = users.pop(process)
            if not users:
                self._users.pop(key, None)
        return tuple(gone.values())

    def settle(
        self, keys: Iterable[str], user: User, request: Request, outcome: Effect, *, new: bool
    ) -> tuple[User, ...]:
        """The command has ended; those who use the nexus no more.  new: what add() said."""
        if outcome is Effect.NOTHING and new:
            return self.remove(keys, [user.process])
        if outcome is not Effect.DONE:
            return ()
        if request.opcode == CLEANUP or unregisters(request):
            # Every process of the guest: the registration is the nexus's.
            same = [each.process for _, each in self.users if each.identity == user.identity]
            return self.remove(keys, same)
        if request.action == OutCode.CLEAR:
            return self.remove(keys)
        return ()


def outcome_of(response: Response) -> Effect:
    """What an answer says of the effect of a command that was sent.

    Sense data other than ILLEGAL REQUEST and UNIT ATTENTION leave it open: LIO answers NOT READY
    to a REGISTER that it has carried out (target_core_pr.c, core_scsi3_update_and_write_aptpl).
    """
    if response.status == Status.GOOD:
        return Effect.DONE
    if response.unsure:
        return Effect.UNKNOWN
    if response.status in _UNTOUCHED:
        return Effect.NOTHING
    if response.status == Status.CHECK_CONDITION:
        try:
            key = Sense.parse(response.sense).key
        except MalformedError:
            return Effect.UNKNOWN
        if key in (ILLEGAL_REQUEST, UNIT_ATTENTION):
            return Effect.NOTHING
    return Effect.UNKNOWN


def registers(request: Request) -> bool:
    """Whether the command is REGISTER, with either treatment of the existing key."""
    return request.opcode == Opcode.PR_OUT and request.action in (
        OutCode.REGISTER,
        OutCode.REGISTER_AND_IGNORE,
    )


def unregisters(request: Request) -> bool:
    """Whether the command takes the registration of its own nexus away."""
    key = request.parameter[_SA_KEY.offset : _SA_KEY.offset + _SA_KEY.size]
    return registers(request) and len(key) == _SA_KEY.size and not any(key)


def guard_refusal(request: Request) -> Response:
    """What a guest is told whose nexus is another guest's.

    To a registration, that there is no room for one; to everything else what a nexus without
    registration is told (SPC-4, Registering: RESERVATION CONFLICT).
    """
    if registers(request):
        return check(INSUFFICIENT_REGISTRATIONS)
    return Response(Status.RESERVATION_CONFLICT)
