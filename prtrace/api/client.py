"""A blocking client of the agent, from the standard library alone: commands start fast."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any, Final

from prtrace.api.address import INTERFACE, SOCKET_VARIABLE, roots_door
from prtrace.errors import (
    AgentUnreachableError,
    NoSuchDeviceError,
    PrtraceError,
    StoreError,
    UnavailableError,
    UsageError,
)
from prtrace.linux.peer import Peer

MAX_REPLY: Final = 256 << 20
"""Bytes of one reply; more come from no agent."""

_CHUNK: Final = 256 << 10

_ERRORS: Final[dict[str, type[PrtraceError]]] = {
    f"{INTERFACE}.NoSuchDevice": NoSuchDeviceError,
    f"{INTERFACE}.InvalidArgument": UsageError,
    f"{INTERFACE}.PermissionDenied": UnavailableError,
    f"{INTERFACE}.StoreFailed": StoreError,
    f"{INTERFACE}.Busy": AgentUnreachableError,
    "org.varlink.service.InvalidParameter": UsageError,
}


class Client:
    """Calls methods of io.prtrace, each over a connection of its own.

    timeout: seconds, at least 1, for connecting and for each reply that is due.  longest: bytes
    of one reply.  Raises AgentUnreachableError where nobody answers, and otherwise what the
    agent's error stands for.
    """

    def __init__(self, path: str, *, timeout: float = 30.0, longest: int = MAX_REPLY) -> None:
        self._path = path
        self._timeout = timeout
        self._longest = longest

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The reply's parameters to a method ("Show") with a single reply; None is left out."""
        with self._connected(method, parameters, more=False) as connection:
            for reply in self._replies(connection):
                return reply
        raise self._closed()

    def stream(self, method: str, *, patient: bool = False, **parameters: Any) -> Iterator[Any]:
        """The parameters of each reply to a method with several, until the last one.

        patient: there is no telling when the next reply is due.
        """
        with self._connected(method, parameters, more=True) as connection:
            if patient:
                connection.settimeout(None)
            yield from self._replies(connection)

    def _connected(self, method: str, parameters: dict[str, Any], *, more: bool) -> socket.socket:
        call: dict[str, Any] = {
            "method": f"{INTERFACE}.{method}",
            "parameters": {name: value for name, value in parameters.items() if value is not None},
        }
        if more:
            call["more"] = True
        try:
            connection = self._opened()
        except OSError as error:
            raise self._unreachable(error) from error
        try:
            connection.settimeout(self._timeout)
            # Who closes before it has read all of a call may have said why.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(json.dumps(call).encode() + b"\0")
        except OSError as error:
            connection.close()
            raise self._unreachable(error) from error
        return connection

    def _opened(self) -> socket.socket:
        """A connection to who answers; OSError."""
        return (os.geteuid() == 0 and self._by_roots_door()) or self._by_everybodys()

    def _by_roots_door(self) -> socket.socket | None:
        """None where there is none, or nobody is let in at once."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            connection.connect(roots_door(self._path))
            # Nobody but root listens there, unless the agent could not.
            if Peer.of(connection).uid == 0:
                return connection
        except OSError:
            pass
        connection.close()
        return None

    def _by_everybodys(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # With settimeout() a full backlog would be an error at once (EAGAIN).
            limit = struct.pack("ll", int(self._timeout), 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            connection.connect(self._path)
        except OSError:
            connection.close()
            raise
        return connection

    def _replies(self, connection: socket.socket) -> Iterator[dict[str, Any]]:
        received = bytearray()
        scanned = 0
        while True:
            end = received.find(0, scanned)
            if end >= 0:
                reply = self._parse(bytes(received[:end]))
                del received[: end + 1]
                scanned = 0
                yield reply.get("parameters") or {}
                if not reply.get("continues"):
                    return
                continue
            scanned = len(received)
            if scanned > self._longest:
                raise PrtraceError(f"a reply on {self._path} has more than {self._longest} bytes")
            try:
                chunk = connection.recv(_CHUNK)
            except TimeoutError as error:
                raise AgentUnreachableError(
                    f"the agent on {self._path} did not answer in {self._timeout:g} s",
                    hint="see the agent's log for what it is doing",
                ) from error
            except OSError as error:
                raise self._closed() from error
            if not chunk:
                raise self._closed()
            received += chunk

    def _parse(self, message: bytes) -> dict[str, Any]:
        try:
            reply = json.loads(message)
        except (ValueError, RecursionError) as error:
            raise PrtraceError(f"what answers on {self._path} does not speak Varlink") from error
        if not isinstance(reply, dict):
            raise PrtraceError(f"what answers on {self._path} does not speak Varlink")
        if "error" in reply:
            raise _error(reply)
        return reply

    def _unreachable(self, error: OSError) -> PrtraceError:
        if isinstance(error, PermissionError):
            return UnavailableError(
                f"{self._path} may not be connected to",
                hint="be root, or a member of the group that the socket belongs to",
            )
        if isinstance(error, BlockingIOError | TimeoutError):
            return AgentUnreachableError(
                f"the agent on {self._path} takes no connection", hint="see the agent's log"
            )
        reason = os.strerror(error.errno) if error.errno else str(error)
        return AgentUnreachableError(
            f"no agent on {self._path}: {reason}",
            hint=f"start one (prtrace agent), or name its socket: --socket or {SOCKET_VARIABLE};"
            " `prtrace read DEVICE` asks the device itself and needs none",
        )

    def _closed(self) -> AgentUnreachableError:
        return AgentUnreachableError(
            f"the agent on {self._path} closed the connection", hint="see the agent's log"
        )


def _error(reply: dict[str, Any]) -> PrtraceError:
    name = str(reply["error"])
    parameters = reply.get("parameters")
    told = parameters if isinstance(parameters, dict) else {}
    message = str(told.get("message") or f"{name} {json.dumps(told)}")
    return _ERRORS.get(name, PrtraceError)(message, hint=str(told.get("hint") or ""))
