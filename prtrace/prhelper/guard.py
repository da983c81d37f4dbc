"""The same-host guard: two guests that use one I_T nexus of one logical unit (pure).

A registration belongs to the nexus, so guests behind one host port share it, and neither
knows: what one registers, reserves or clears happens to the other too.  A guest uses a nexus
from its first PERSISTENT RESERVE OUT that the device accepted until it unregisters or clears,
or its process ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prtrace.prhelper.policy import (
    NO_REGISTRATION_LEFT,
    REGISTER,
    REGISTER_AND_IGNORE,
    illegal,
)
from prtrace.prhelper.wire import CLEANUP, Request, Response
from prtrace.scsi.codes import Opcode, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_CLEAR: Final = 3


@dataclass(frozen=True, slots=True)
class User:
    """A guest as the guard tells them apart.

    identity: the guest's UUID, which both ends of a migration on one host share, else its
    name, else its process.  title names it to people.
    """

    identity: str
    title: str
    pid: int
    start_ns: int


class SameHostGuard:
    """Who uses which nexus; alive says whether a user's process still exists."""

    def __init__(self, alive: Callable[[User], bool]) -> None:
        self._alive = alive
        self._users: dict[str, dict[str, User]] = {}

    def others(self, nexuses: Iterable[str], user: User) -> tuple[User, ...]:
        """Guests other than user that use one of the nexuses ("H:C:T:L") now."""
        found: dict[str, User] = {}
        for nexus in nexuses:
            using = self._users.get(nexus, {})
            for identity, other in list(using.items()):
                if identity == user.identity:
                    continue
                if self._alive(other):
                    found[identity] = other
                else:
                    del using[identity]
        return tuple(found.values())

    def note(self, nexuses: Iterable[str], user: User, request: Request, status: int) -> None:
        """A command of user was answered with status on these nexuses."""
        if status != Status.GOOD or request.opcode == Opcode.PR_IN:
            return
        ends = request.opcode == CLEANUP or _unregisters(request)
        for nexus in nexuses:
            if request.opcode == Opcode.PR_OUT and request.action == _CLEAR:
                self._users.pop(nexus, None)
            elif ends:
                self._users.get(nexus, {}).pop(user.identity, None)
            else:
                self._users.setdefault(nexus, {})[user.identity] = user
            if not self._users.get(nexus, True):
                del self._users[nexus]


def guard_refusal(request: Request) -> Response:
    """What a guest is told whose nexus is another guest's.

    To a registration, that there is no room for one; to everything else what a nexus without
    registration is told (SPC-4, Registering: RESERVATION CONFLICT).
    """
    if request.action in (REGISTER, REGISTER_AND_IGNORE):
        return illegal(NO_REGISTRATION_LEFT)
    return Response(Status.RESERVATION_CONFLICT)


def _unregisters(request: Request) -> bool:
    return (
        request.action in (REGISTER, REGISTER_AND_IGNORE)
        and len(request.parameter) >= 16
        and not any(request.parameter[8:16])
    )
