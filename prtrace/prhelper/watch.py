"""The same-host guard at work: its lock, its book, and whom it tells."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prtrace.errors import UnavailableError
from prtrace.prhelper.answer import INSUFFICIENT_RESOURCES, check
from prtrace.prhelper.guard import Company, Effect, SameHostGuard, User, guard_refusal
from prtrace.prhelper.policy import Guard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prtrace.prhelper.guard_book import GuardBook
    from prtrace.prhelper.protocol import Request, Response
    from prtrace.prhelper.sparing_log import SparingLog

_TOLD: Final = 4096
"""Pairs of guests that are remembered as told."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What the guard says of a command before it is sent."""

    refusal: Response | None = None
    """The answer, where the device is not to see the command."""
    note: str = ""
    """For the attribution record."""
    new: bool = False
    """Whether the guest uses the nexus from this command on."""


class NexusWatch:
    """For all connections; called by any thread.

    alive says whether a user's process still exists.  book None: a restart forgets.  Raises
    UnavailableError where the book cannot be read or written.
    """

    def __init__(
        self, alive: Callable[[User], bool], book: GuardBook | None, log: SparingLog
    ) -> None:
        self._lock = threading.Lock()
        self._guard = SameHostGuard(alive)
        self._book = book
        self._log = log
        self._told: set[tuple[str, ...]] = set()
        if book is not None:
            for keys, user in book.load():
                if alive(user):
                    self._guard.add(keys, user)
            book.begin(self._guard.users)

    def admit(
        self, keys: Sequence[str], nexuses: Sequence[str], user: User, request: Request, how: Guard
    ) -> Admission:
        """The guest is about to send a command over the nexus; undo it with settle().

        keys are the nexus's, nexuses its "H:C:T:L" for people.
        """
        note = ""
        with self._lock:
            if how is not Guard.OFF:
                company = self._guard.company(keys, user)
                note = self._tell(company, nexuses, user, how)
                if how is Guard.REFUSE and (company.others or not user.start_ns):
                    return Admission(guard_refusal(request), note)
            # With the guard off, too: the policy can be another one at any time.
            new = self._guard.add(keys, user)
            if new and not self._write(keys, user, using=True) and how is Guard.REFUSE:
                self._guard.remove(keys, [user.process])
                note = (
                    "the guard's book cannot be written, so that a restart would forget the guest"
                )
                return Admission(check(INSUFFICIENT_RESOURCES), note)
        return Admission(None, note, new)

    def settle(
        self, keys: Sequence[str], user: User, request: Request, outcome: Effect, *, new: bool
    ) -> None:
        """The command that was admitted has ended; new is the admission's."""
        with self._lock:
            for gone in self._guard.settle(keys, user, request, outcome, new=new):
                self._write(keys, gone, using=False)

    def close(self) -> None:
        """Close the book."""
        if self._book is not None:
            self._book.close()

    def _write(self, keys: Sequence[str], user: User, *, using: bool) -> bool:
        if self._book is None:
            return True
        try:
            if self._book.note(keys, user, using=using):
                self._book.begin(self._guard.users)
        except (OSError, UnavailableError) as error:
            self._log.say(logging.ERROR, "book", f"the guard's book cannot be written: {error}")
            return False
        return True

    def _tell(self, company: Company, nexuses: Sequence[str], user: User, how: Guard) -> str:
        """Warn of the company; the note for the attribution record, "" where there is none."""
        place = ", ".join(nexuses)
        note = ""
        if not user.start_ns:
            note = f"nobody can tell which guest {user.title} is"
            self._once((user.identity,), note)
        for twin in company.twins:
            same = "are" if twin.identity == user.identity else "call themselves"
            note = f"{user.title} and {twin.title} {same} one guest, and both run"
            self._once((*sorted((str(user.process), str(twin.process))), same), note)
        if company.others:
            named = ", ".join(other.title for other in company.others)
            note = f"{user.title} and {named} use one nexus ({place})"
            if how is Guard.REFUSE:
                self._log.say(logging.WARNING, f"guard {user.identity}", f"{note}: refused")
            else:
                self._once((user.identity, named, place), note)
        return note

    def _once(self, what: tuple[str, ...], note: str) -> None:
        if what in self._told:
            return
        if len(self._told) >= _TOLD:
            self._told.clear()
        self._told.add(what)
        self._log.say(logging.WARNING, "guard", note)
