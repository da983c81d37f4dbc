"""Holding a guest's PERSISTENT RESERVE OUT commands for a while, and seeing them before it does.

While a guest's reservation moves to another host, two things must not happen unseen: that the
guest changes its registration between the look and the commit, and that it is told so before
the move knows.  A hold keeps the guest's PERSISTENT RESERVE OUT commands from being sent; it ends
by release(), or by itself.  A watch is called with what a command that may have changed a
registration was answered, and the guest is told only when the watch returns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prtrace.prhelper.guard import Effect, outcome_of
from prtrace.prhelper.protocol import CLEANUP
from prtrace.scsi.codes import OutCode

if TYPE_CHECKING:
    from prtrace.prhelper.client import HelperClient
    from prtrace.prhelper.protocol import Request, Response

MOST_HOLD_SECONDS: Final = 60.0
_LOOKS_EACH: Final = 0.5
_LATE_SECONDS: Final = 60.0
"""How long a command can go on that nobody waits for any more: its time limit, and the kernel's
error handler's."""
_CHANGE_REGISTRATIONS: Final = frozenset(
    {
        OutCode.REGISTER,
        OutCode.REGISTER_AND_IGNORE,
        OutCode.CLEAR,
        OutCode.PREEMPT,
        OutCode.PREEMPT_AND_ABORT,
        OutCode.REGISTER_AND_MOVE,
        OutCode.REPLACE_LOST,
    }
)


@dataclass(frozen=True, slots=True)
class Named:
    """Which clients are meant: those of a guest, or one process."""

    guest: str = ""
    """A name that the kernel or the administrator vouches for."""
    pid: int = 0

    def means(self, client: HelperClient) -> bool:
        """Whether the client is one of them."""
        if self.guest:
            return client.vouched.is_called(self.guest)
        return bool(self.pid) and self.pid == client.pid


@dataclass(eq=False, slots=True)
class Hold:
    """A hold on some clients' commands, until a time of time.monotonic()."""

    named: Named
    until: float


Watcher = Callable[["HelperClient", "Request", "Response | None"], None]


class Gate:
    """One for all clients; called by any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holds: list[Hold] = []
        self._watches: list[tuple[Named, Watcher]] = []
        self._present: list[HelperClient] = []
        """One for each connection."""
        self._inside: list[HelperClient] = []
        self._late: dict[HelperClient, float] = {}
        """Whose command may go on though nobody waits for it, and until when at most."""

    def come(self, client: HelperClient) -> None:
        """A connection of the client begins."""
        with self._changed:
            self._present.append(client)

    def go(self, client: HelperClient) -> None:
        """A connection of the client ends."""
        with self._changed:
            self._present.remove(client)

    def meant(self, named: Named) -> list[int]:
        """The processes that are meant and connected now: nobody is, by a name that no one bears.

        A guest whose name nobody vouches for (its QEMU was started by hand, say) bears none.
        """
        with self._changed:
            return sorted({client.pid for client in self._present if named.means(client)})

    @contextmanager
    def passing(self, client: HelperClient) -> Iterator[bool]:
        """A PERSISTENT RESERVE OUT of the client is sent inside; True where it had to wait."""
        with self._changed:
            waited = False
            while (left := self._left(client)) > 0:
                waited = True
                self._changed.wait(left)
            self._inside.append(client)
        try:
            yield waited
        finally:
            with self._changed:
                self._inside.remove(client)
                self._changed.notify_all()

    def hold(self, named: Named, seconds: float) -> tuple[Hold, bool]:
        """Send no PERSISTENT RESERVE OUT of the clients from now on, for at most so many seconds.

        Waits for those under way, and for those that may be; False where one of them has not
        ended in that time, so that the hold is over already.
        """
        hold = Hold(named, time.monotonic() + min(seconds, MOST_HOLD_SECONDS))
        with self._changed:
            self._holds.append(hold)
            while self._under_way(named):
                left = hold.until - time.monotonic()
                if left <= 0:
                    # A command that it held back may have found that it is over.
                    if hold in self._holds:
                        self._holds.remove(hold)
                    return hold, False
                # Nobody says when a command that nobody waits for is over.
                self._changed.wait(min(left, _LOOKS_EACH))
        return hold, True

    def release(self, hold: Hold) -> bool:
        """End a hold; False where it had ended before, so that commands may have been sent."""
        with self._changed:
            in_time = time.monotonic() < hold.until
            if hold in self._holds:
                self._holds.remove(hold)
            self._changed.notify_all()
            return in_time

    def watch(self, named: Named, watcher: Watcher) -> Callable[[], None]:
        """Call watcher before one of the clients is answered; call what is returned to end that.

        watcher is called on the client's thread, and is to return within a bounded time.
        """
        entry = named, watcher
        with self._changed:
            self._watches.append(entry)

        def end() -> None:
            with self._changed:
                if entry in self._watches:
                    self._watches.remove(entry)

        return end

    def lose(self, client: HelperClient) -> None:
        """Nobody waits any more for a command that the client has passed with: it may go on."""
        with self._changed:
            self._forget_late()
            self._late[client] = time.monotonic() + _LATE_SECONDS

    def tell(self, client: HelperClient, request: Request, response: Response | None) -> None:
        """A PERSISTENT RESERVE OUT has ended and the client is about to be told.

        response: None where there is no answer, so that it may have been carried out.
        """
        if response is not None and outcome_of(response) is Effect.NOTHING:
            return
        changes = request.opcode == CLEANUP or request.action in _CHANGE_REGISTRATIONS
        if not self._watches or not changes:
            return
        with self._changed:
            watchers = [watcher for named, watcher in self._watches if named.means(client)]
        for watcher in watchers:
            watcher(client, request, response)

    def _under_way(self, named: Named) -> bool:
        """Whether a command of the clients may be; called with the lock held."""
        self._forget_late()
        return any(named.means(client) for client in (*self._inside, *self._late))

    def _forget_late(self) -> None:
        now = time.monotonic()
        self._late = {client: until for client, until in self._late.items() if until > now}

    def _left(self, client: HelperClient) -> float:
        """How long the client's commands are still held; called with the lock held."""
        now = time.monotonic()
        self._holds = [hold for hold in self._holds if hold.until > now]
        return max((h.until - now for h in self._holds if h.named.means(client)), default=0.0)
