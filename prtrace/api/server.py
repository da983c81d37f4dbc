"""The server: admits connections, answers calls from an AgentSource, and tells followers.

    server = ApiServer(source, make_moves, admin_gid=None)
    server.admit(accepted, Peer.of(accepted))
    …
    stored = store.commit(…)
    server.publish(stored)
    …
    await server.close()

Everything runs on the event loop's thread, but for what waits for devices (prtrace.api.jobs).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from prtrace.api.address import INTERFACE, MAX_CALL
from prtrace.api.calls import Call, Calls, Refusal, refusal, reply
from prtrace.api.connection import Connection
from prtrace.api.interface import SERVICE, Fault
from prtrace.api.jobs import FAULT, Job, Jobs, News, SourceForThreads
from prtrace.api.moving import NAMING, Work, work_of
from prtrace.api.queries import Queries
from prtrace.api.recent import Recent
from prtrace.api.room import ConnectionLimits, Room, send_away
from prtrace.api.source import HISTORY_BEHIND, AgentSource, MoveCalls, Resolution
from prtrace.api.stream import PORTION, EventStream, Stream
from prtrace.api.turns import Turns
from prtrace.errors import PrtraceError, UsageError
from prtrace.linux.bytesocket import ByteSocket
from prtrace.linux.closer import Closer
from prtrace.linux.peer import Peer
from prtrace.linux.text import clean
from prtrace.state.event import Event, nanoseconds
from prtrace.store.history import MOST_UNITS, EventQuery

_log = logging.getLogger("prtrace.api")

_NEWEST: Final = (1 << 63) - 1
_AT_ONCE: Final = frozenset(
    {
        f"{INTERFACE}.Status",
        f"{INTERFACE}.Resolve",
        f"{SERVICE}.GetInfo",
        f"{SERVICE}.GetInterfaceDescription",
    }
)
"""The calls whose answers wait for nothing."""
_CURRENT: Final = (f"{INTERFACE}.Show", f"{INTERFACE}.Events")
"""The calls whose answers are to know what has happened by now."""


class ApiServer:
    """Serves io.prtrace on connections that others accept.

    moves: called for each call that moves reservations, on that call's thread.
    """

    def __init__(
        self,
        source: AgentSource,
        moves: Callable[[], MoveCalls],
        *,
        admin_gid: int | None = None,
        limits: ConnectionLimits | None = None,
    ) -> None:
        self.calls = Calls(admin_gid)
        self._source = source
        self._moves = moves
        self._jobs = Jobs()
        self._limits = limits or ConnectionLimits()
        self._closer = Closer()
        self._connections: set[Connection] = set()
        self._room = Room(self._limits)
        self._followers: set[EventStream] = set()
        self._recent = Recent()
        self.turns = Turns()
        self._queries = Queries(self.turns)
        self._news = News()
        self._refused = 0
        self._adopting: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """Wait for jobs under way, then close every connection."""
        await self._jobs.close()
        await asyncio.gather(*self._adopting)
        for connection in tuple(self._connections):
            connection.abort()
        await self._queries.close()

    def publish(self, events: Sequence[Event]) -> None:
        """Tell followers of events that were just stored; each is serialised once, if at all.

        Whoever waits for a state to change looks again.
        """
        self._news.came()
        if not self._followers:
            self._recent.skip(len(events))
            return
        added = 0
        for event in events:
            added += self._recent.add(event)
            if added > PORTION:
                self._pump_followers()
                added = 0
        self._pump_followers()

    def _pump_followers(self) -> None:
        for follower in tuple(self._followers):
            if follower.live:
                follower.pump()

    def caught_up(self, call: Call) -> asyncio.Future[bool] | None:
        """What to wait for before call is carried out, None for nothing.

        Its result is whether the answer is current.  Status and what is looked up wait for
        nothing, and a follower hears the rest later.
        """
        follows = call.parameters.get("follow")
        return self._source.caught_up() if call.method in _CURRENT and not follows else None

    def require_room(self, call: Call, peer: Peer) -> None:
        """Refusal where too much waits to be sent for one more answer to peer."""
        if peer.uid and sum(each.waiting() for each in self._connections) > self._limits.unsent:
            raise Refusal(
                Fault.BUSY,
                {"message": "too many answers wait to be read", "hint": "wait"},
                oneway=call.oneway,
            )

    def statistics(self) -> dict[str, int]:
        """Counters: open connections, followers, jobs, and connections refused so far."""
        return {
            "connections": self._room.taken,
            "followers": len(self._followers),
            "jobs": self._jobs.under_way,
            "refused": self._refused,
        }

    def answer(self, call: Call) -> bytes:
        """The reply to a call that has one; Refusal for an error."""
        try:
            return reply(self._parameters(call))
        except PrtraceError as error:
            raise refusal(error, oneway=call.oneway) from error

    def open_stream(self, call: Call, sink: Connection) -> Stream | None:
        """The stream or job that call asks for, None where it is answered at once."""
        if call.method == f"{INTERFACE}.Events":
            return self._events(call, sink)
        work = self._work(call)
        if work is None:
            return None
        job = Job(sink, more=call.more, oneway=call.oneway)
        self._jobs.start(call.peer_may, work, job)
        return job

    def _work(self, call: Call) -> Work | None:
        """What a call that waits for devices has to do, None for other calls."""
        given = call.parameters
        if call.method in NAMING:
            # Not on a thread: a name that leads out of /dev may never come back.
            for name in given["devices"]:
                self._resolve(name)
        seen = SourceForThreads(self._source, self._news, asyncio.get_running_loop())
        if call.method == f"{INTERFACE}.Refresh":
            names = tuple(given.get("devices") or ())
            return lambda _: {"units": seen.refresh(names, given["max_age"])}
        return work_of(call, self._moves, seen)

    def _resolve(self, name: str) -> Resolution:
        try:
            return self._source.resolve(name)
        except PrtraceError as error:
            raise refusal(error) from error

    def _events(self, call: Call, sink: Connection) -> EventStream:
        asked = call.parameters
        devices = asked.get("devices") or []
        if len(devices) > MOST_UNITS:
            raise Refusal(
                Fault.INVALID_ARGUMENT,
                {"message": f"at most {MOST_UNITS} devices", "hint": "leave devices out for all"},
            )
        lus = tuple(self._resolve(name).lu for name in devices) if devices else None
        follow = bool(asked.get("follow")) and asked.get("limit") != 0
        if call.behind and not follow:
            # Whoever took it for all that happened would be misled.
            raise Refusal(
                Fault.BUSY, {"message": HISTORY_BEHIND, "hint": "ask again later, or follow"}
            )
        try:
            query = events_query(call, lus)
            stream = EventStream(
                sink,
                sink.peer.uid,
                self._queries,
                self._recent,
                lambda since: self._source.events(
                    query if since is None else replace(query, since_seq=since, last=None)
                ),
                follow=follow,
                lus=None if lus is None else frozenset(lus),
                limit=query.limit,
                since_seq=query.since_seq,
                changes=query.changes,
            )
        except PrtraceError as error:
            raise refusal(error) from error
        if stream.follows:
            self._followers.add(stream)
        return stream

    def close_stream(self, stream: Stream) -> None:
        """The stream has ended or its connection is gone."""
        if isinstance(stream, EventStream):
            self._followers.discard(stream)

    def closed(self, connection: Connection) -> None:
        """The connection is gone."""
        self._connections.discard(connection)

    def _parameters(self, call: Call) -> dict[str, Any]:
        match call.method.rpartition("."):
            case (interface, _, "Show") if interface == INTERFACE:
                names = tuple(call.parameters.get("devices") or ())
                return self._source.show(names, behind=call.behind)
            case (interface, _, "Status") if interface == INTERFACE:
                return {"status": self._source.status()}
            case (interface, _, "Resolve") if interface == INTERFACE:
                found = self._source.resolve(call.parameters["name"])
                return {
                    "lu": found.lu,
                    "nexus": found.nexus or None,
                    "devices": list(found.devices),
                }
            case _:
                return self.calls.describe(call)

    def admit(self, accepted: socket.socket, peer: Peer) -> None:
        """Answer on a connection of peer, who is at its other end, if there is room for it."""
        if self._room.is_left_for(peer):
            self.adopt(accepted, peer)
            return
        self._refused += 1
        send_away(accepted, peer, self._room, self._closer)

    def adopt(self, accepted: socket.socket, peer: Peer) -> None:
        """Answer on a connection, whether there is room or not.

        What root calls for, and waits for nothing, is answered before anything else is done, if
        the call has come already: the loop has many others to look at before it comes back.
        """
        self._room.enter(peer)
        # Its place is another's once it is closed, and not when it is gone.
        left = partial(self._room.leave, peer)
        accepted = ByteSocket(accepted, self._closer, peer.uid, left)
        try:
            received = b"" if peer.uid else accepted.recv(MAX_CALL)
        except OSError:
            received = b""  # none has come, or whoever was there has gone
        answer = self._at_once(received, peer)
        if answer:
            with contextlib.suppress(OSError):
                answer = answer[accepted.send(answer) :]
            received = b""
        self._serve(accepted, Connection(self, peer, received, answer))

    def _at_once(self, received: bytes, peer: Peer) -> bytes:
        """The answer to a call that waits for nothing; b"" where it is none, or not whole."""
        message, end, more = received.partition(b"\0")
        if not end or more:
            return b""
        try:
            call = self.calls.parse(message, peer)
            wanted = call.method in _AT_ONCE and not call.oneway
            return self.answer(call) if wanted else b""
        except Refusal as refused:
            return refused.reply
        except Exception:
            _log.exception("a call failed: %.200r", message)
            return FAULT

    def _serve(self, accepted: socket.socket, connection: Connection) -> None:
        self._connections.add(connection)
        loop = asyncio.get_running_loop()
        adopting = loop.create_task(loop.connect_accepted_socket(lambda: connection, accepted))
        self._adopting.add(adopting)
        adopting.add_done_callback(self._adopting.discard)


def events_query(call: Call, lus: tuple[str, ...] | None) -> EventQuery:
    """What a call of Events asks of the history of lus (None: of all); PrtraceError."""
    asked = call.parameters
    return EventQuery(
        lus=lus,
        since_seq=asked.get("since_seq") or 0,
        since_time=_since(asked.get("since_time")),
        limit=asked.get("limit"),
        last=asked.get("last"),
        changes=bool(asked.get("changes")),
    )


def _since(text: str | None) -> int:
    """Nanoseconds since the epoch of an RFC 3339 time; UsageError where it is none.

    A time beyond what the store can hold is before, or after, everything in it.
    """
    if not text:
        return 0
    try:
        return max(0, min(nanoseconds(text), _NEWEST))
    except (ValueError, OverflowError) as error:
        raise UsageError(f"since_time: {clean(str(error), 200)}") from None
