"""What arrives from the mover: connections to answer on, as the agent takes them."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import socket
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from prtrace.agent.moverlink import (
    ACCEPTED,
    ASKED_FOR,
    NUMBER,
    READER_S,
    SCARCE_RETRY,
    SETTLED,
    NoDescriptorError,
    most_for_strangers,
    taken,
    unpacked,
)
from prtrace.errors import PrtraceError
from prtrace.linux.closer import Closer
from prtrace.linux.peer import Peer

if TYPE_CHECKING:
    from prtrace.api.server import ApiServer


class Arrival(NamedTuple):
    """A connection to answer on.  accepted: from outside, so that limits hold for it."""

    connection: socket.socket
    peer: Peer
    accepted: bool


class Mover:
    """The agent's side.  path: of the socket, for messages."""

    def __init__(self, link: socket.socket, path: str) -> None:
        self.path = path
        self._link = link
        self._called: socket.socket | None = None
        self._closer = Closer()
        self._numbers = itertools.count()
        self._wanted: dict[int, Future[socket.socket | None]] = {}

    @property
    def links(self) -> tuple[socket.socket, ...]:
        """What is readable when something arrives: first the one with the mover's own calls."""
        return (self._link,) if self._called is None else (self._called, self._link)

    def close(self) -> None:
        """Have nothing more accepted, and no move begun."""
        # What is on its way here is closed along.
        for link in self.links:
            self._closer.close(link, None)

    def await_settled(self) -> None:
        """Until what was in question has been settled; PrtraceError where the mover ends."""
        message, self._called = taken(self._link)
        if message != SETTLED or self._called is None:
            raise _gone()

    def arrived(self, link: socket.socket) -> Arrival | None:
        """Take what the mover sent on one of links; None where it is nothing to answer on.

        Raises PrtraceError where the mover has ended, NoDescriptorError where it is left there
        because this process has no descriptor for it.  Strangers leave some to the mover's calls.
        """
        most = None if link is self._called else most_for_strangers()
        try:
            message, connection = taken(link, socket.MSG_DONTWAIT, most)
        except BlockingIOError:
            return None
        except OSError as error:
            raise _gone() from error
        if not message:
            raise _gone()
        if link is self._called:
            return None if connection is None else Arrival(connection, unpacked(message), False)
        kind, rest = message[:1], message[1:]
        if kind == ACCEPTED:
            return None if connection is None else self._unwrapped(connection)
        if kind == ASKED_FOR:
            (number,) = NUMBER.unpack(rest)
            wanted = self._wanted.pop(number, None)
            if wanted is not None:
                wanted.set_result(connection)
            elif connection is not None:
                connection.close()  # nobody waits for it any more
        return None

    def _unwrapped(self, wrapping: socket.socket) -> Arrival | None:
        try:
            packed, connection = taken(wrapping, socket.MSG_DONTWAIT)
        except (OSError, NoDescriptorError):
            # Whoever connected sees it closed.
            self._closer.let_go(wrapping, None)
            return None
        wrapping.close()  # there is nothing in it any more
        return None if connection is None else Arrival(connection, unpacked(packed), True)

    def reader(self) -> socket.socket:
        """A connection to the mover for Check and Moves.

        For any thread but the loop's, which calls arrived().  OSError where there is none now.
        """
        number = next(self._numbers)
        wanted = self._wanted[number] = Future()
        try:
            self._link.send(NUMBER.pack(number))
            connection = wanted.result(READER_S)
        finally:
            self._wanted.pop(number, None)
        if connection is None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return connection


class Arrivals:
    """Has a server answer on what the mover hands over; on the event loop's thread.

    watched: calls what it is given, and ends the agent where that raises.
    """

    def __init__(
        self,
        mover: Mover,
        server: ApiServer,
        watched: Callable[[Callable[[], None]], None],
    ) -> None:
        self._mover = mover
        self._server = server
        self._watched = watched
        self._loop = asyncio.get_running_loop()
        for link in mover.links:
            self._look_at(link)

    def close(self) -> None:
        """Take nothing more; then close the mover's links."""
        for link in self._mover.links:
            self._loop.remove_reader(link)
        self._mover.close()

    def _look_at(self, link: socket.socket) -> None:
        if link.fileno() >= 0:
            self._loop.add_reader(link, self._watched, partial(self._arrived, link))

    def _arrived(self, link: socket.socket) -> None:
        try:
            arrival = self._mover.arrived(link)
        except PrtraceError:
            self._loop.remove_reader(link)
            raise
        except NoDescriptorError:
            self._loop.remove_reader(link)
            self._loop.call_later(SCARCE_RETRY, self._look_at, link)
            return
        if arrival is not None:
            take = self._server.admit if arrival.accepted else self._server.adopt
            take(arrival.connection, arrival.peer)


def _gone() -> PrtraceError:
    return PrtraceError(
        "the agent's mover has ended",
        hint="see the log for why; an agent that starts goes on where this one was",
    )
