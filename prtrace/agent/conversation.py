"""One connection in the mover: calls that move are carried out here, others go to the agent.

The agent may have become anything, so what it sends is an answer to the one call that it was
given, and nothing more.  Each call goes to the agent over a connection of its own, which ends with
the answer: an answer that comes late, or that nobody asked for, reaches no client.
"""

from __future__ import annotations

import contextlib
import json
import logging
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from prtrace.agent.entries import moved
from prtrace.api.calls import Call, Calls, Refusal, refusal, reply, steps_reply, too_long
from prtrace.api.client import Client
from prtrace.api.connection import Deadline
from prtrace.api.interface import Fault
from prtrace.api.jobs import FAULT
from prtrace.api.moving import MOVING, NAMING, work_of
from prtrace.errors import PrtraceError
from prtrace.linux.devnode import stat_below_dev
from prtrace.linux.journal import SystemJournal
from prtrace.linux.peer import Peer
from prtrace.linux.unixsocket import read_away
from prtrace.state.event import Event

if TYPE_CHECKING:
    from prtrace.api.source import MoveCalls, Step

PATIENCE: Final = 60.0
"""Seconds for the agent to answer a call with a single reply."""
_CHUNK: Final = 64 << 10
_LONGEST: Final = 4 << 20
"""Bytes of a reply of the agent's that the mover looks into: what a taken-over agent can make it
hold.  Of a single reply, which is passed on as it comes, there is no limit."""

_log = logging.getLogger("prtrace.mover")


class Switchboard(Protocol):
    """The mover, as far as a conversation needs it."""

    calls: Calls
    moves: Callable[[], MoveCalls]
    journal: SystemJournal
    path: str

    def to_agent(self, peer: Peer, call: bytes, patience: float) -> socket.socket:
        """A new connection on which the agent answers peer's call; OSError where it takes none.

        call: a message, or b"" where it is sent later.  patience: seconds, of what is returned.
        """

    def under_way(self, call: Call) -> contextlib.AbstractContextManager[None]:
        """Around a call that moves, which the mover brings to its end; Refusal once it ends."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A connection of peer's.  of_agent: the agent made it, to ask for what a reader may."""

    switchboard: Switchboard
    client: socket.socket
    peer: Peer
    of_agent: bool = False

    def run(self) -> None:
        """Serve it, until the client has gone or is too slow."""
        try:
            with self.client, contextlib.suppress(OSError):
                for message in self._messages():
                    if not self._served(message):
                        return
        except Exception:
            _log.exception("a connection failed")

    def _messages(self) -> Iterator[bytes]:
        """What the client sends, message by message."""
        longest = self.switchboard.calls.longest(self.peer)
        received = bytearray()
        scanned = 0
        end_by = 0.0
        while True:
            end = received.find(0, scanned)
            if 0 <= end < longest:
                message = bytes(received[:end])
                del received[: end + 1]
                scanned = 0
                yield message
                end_by = time.monotonic() + Deadline.PARTIAL.value
                continue
            scanned = len(received)
            if scanned >= longest:
                self._refuse_length(longest)
                return
            wait = end_by - time.monotonic() if received else Deadline.IDLE.value
            if wait <= 0:
                return
            self.client.settimeout(wait)
            chunk = self.client.recv(_CHUNK)
            if not chunk:
                return
            if not received:
                end_by = time.monotonic() + Deadline.PARTIAL.value
            received += chunk

    def _refuse_length(self, longest: int) -> None:
        self._tell(too_long(longest).reply)
        read_away(self.client)

    def _served(self, message: bytes) -> bool:
        """Answer a call; returns whether the conversation goes on."""
        try:
            call = self.switchboard.calls.parse(message, self.peer)
            if call.method not in MOVING:
                return not self.of_agent and self._passed_on(call)
            with self.switchboard.under_way(call):
                last = self._carried_out(call)
                if not call.oneway:
                    # Whoever has gone does not hear how it ended.
                    with contextlib.suppress(OSError):
                        self._tell(last)
        except Refusal as refused:
            self._tell(refused.reply)
        return True

    def _tell(self, message: bytes, limit: Deadline = Deadline.STALLED) -> None:
        """Send message; TimeoutError where the client does not read it in time."""
        self.client.settimeout(limit.value)
        self.client.sendall(message)

    # ---- Calls that move ----

    def _carried_out(self, call: Call) -> bytes:
        try:
            return reply(self._result(call))
        except Refusal as refused:
            return refused.reply
        except PrtraceError as error:
            return refusal(error).reply
        except Exception:
            _log.exception("a call failed: %s", call.method)
            return FAULT

    def _result(self, call: Call) -> Mapping[str, Any]:
        if call.method in NAMING:
            for name in call.parameters["devices"]:
                if name.startswith("/"):
                    # A name that leads out of /dev may lead to where nobody ever answers.
                    stat_below_dev(name)
        work = work_of(call, self.switchboard.moves, _Known(_ToAgent(self.switchboard, self.peer)))
        if work is None:
            raise LookupError(call.method)
        done = work(self._teller(call))
        if self.switchboard.journal and (report := done.get("report")) is not None:
            for entry in moved(report):
                self.switchboard.journal.send(entry)
        return done

    def _teller(self, call: Call) -> Step:
        def step(lu: str, what: str) -> None:
            # A move waits for no client that does not read: one step too many is left out.
            if call.more and _has_room(self.client):
                with contextlib.suppress(OSError):
                    self._tell(steps_reply(lu, what))

        return step

    # ---- Calls that the agent answers ----

    def _passed_on(self, call: Call) -> bool:
        """Have the agent answer; returns whether the conversation goes on."""
        # A reply is wanted even where the client wants none: by it the mover knows the end.
        document = {"method": call.method, "parameters": call.parameters, "more": call.more}
        try:
            agent = self.switchboard.to_agent(self.peer, _message(document), PATIENCE)
        except OSError as error:
            raise _unanswered(call) from error
        with agent:
            return self._several(agent, call) if call.more else self._single(agent, call)

    def _single(self, agent: socket.socket, call: Call) -> bool:
        """Pass on the one reply, as it comes."""
        end_by = time.monotonic() + PATIENCE
        begun = False
        while chunk := self._chunk(agent, end_by):
            part, end, _ = chunk.partition(b"\0")
            if not call.oneway:
                self._tell(part + end)
            if end:
                return True
            begun = True
        if begun:
            return False
        raise _unanswered(call)

    def _several(self, agent: socket.socket, call: Call) -> bool:
        """Pass on replies, up to the one that says it is the last.

        What says so is read here and written anew: of a text with two answers to that, the client
        might take the other one, and the agent's next reply for the mover's.
        """
        received = bytearray()
        scanned = 0
        while True:
            end = received.find(0, scanned)
            if end < 0:
                scanned = len(received)
                chunk = self._chunk(agent, None) if scanned <= _LONGEST else b""
                if not chunk:
                    raise _unanswered(call)
                received += chunk
                continue
            try:
                document = json.loads(received[:end])
            except (ValueError, RecursionError) as error:
                raise _unanswered(call) from error
            if not isinstance(document, dict):
                raise _unanswered(call)
            del received[: end + 1]
            scanned = 0
            # A follower may be slow: the agent knows what to do with it.
            self._tell(_message(document), Deadline.IDLE)
            if document.get("continues") is not True:
                return True

    def _chunk(self, agent: socket.socket, end_by: float | None) -> bytes:
        """What the agent sends next; b"" where it has ended, or the time is over.

        Raises ConnectionResetError where the client has gone meanwhile.
        """
        poll = select.poll()
        poll.register(self.client, 0)
        poll.register(agent, select.POLLIN)
        wait = None if end_by is None else max(0.0, end_by - time.monotonic()) * 1000
        ready = dict(poll.poll(wait))
        if self.client.fileno() in ready:
            raise ConnectionResetError
        try:
            return agent.recv(_CHUNK) if ready else b""
        except OSError:
            return b""


class _ToAgent(Client):
    """Calls that the mover itself has for the agent, on behalf of peer."""

    def __init__(self, switchboard: Switchboard, peer: Peer) -> None:
        super().__init__(switchboard.path, longest=_LONGEST)
        self._switchboard = switchboard
        self._peer = peer

    def _opened(self) -> socket.socket:
        return self._switchboard.to_agent(self._peer, b"", PATIENCE)


class _Known(NamedTuple):
    """What the agent knows: prtrace.api.source.Observed."""

    agent: Client

    def show(self, names: Sequence[str]) -> dict[str, Any]:
        return self.agent.call("Show", devices=list(names))

    def changes(self, lu: str, last: int) -> Iterator[Event]:
        for answer in self.agent.stream("Events", devices=[lu], last=last, changes=True):
            for event in answer.get("events", ()):
                yield Event.from_json(event)


def _has_room(client: socket.socket) -> bool:
    """Whether a short message can be sent without waiting (unix_writable() of af_unix.c)."""
    poll = select.poll()
    poll.register(client, select.POLLOUT)
    return bool(poll.poll(0))


def _unanswered(call: Call) -> Refusal:
    return Refusal(
        Fault.BUSY,
        {
            "message": "the agent does not answer",
            "hint": "see its log; calls that move reservations are answered without it",
        },
        oneway=call.oneway,
    )


def _message(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode() + b"\0"
