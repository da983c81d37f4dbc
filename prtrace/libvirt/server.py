"""The socket that the hook and the plugin ask on: Varlink, root only, a thread a call.

    method Hook(operation: string, reason: string, xml: string, incoming: ?bool, flags: ?int)
        -> (deadline: ?int, allow: ?bool, why: ?string)
    method Acquire(uuid: string) -> (deadline: ?int, allow: ?bool, why: ?string)

A call has "more": the first reply says within how many seconds the second comes, the answer.
Both callers hold a lock in libvirt while they wait, and take a missing answer for a refusal.
"""

from __future__ import annotations

import json
import logging
import math
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from prtrace.errors import MalformedError, PrtraceError
from prtrace.linux.peer import Peer
from prtrace.linux.unixsocket import Listener

INTERFACE: Final = "io.prtrace.libvirt"
_MAX_CALL: Final = 8 << 20
_PATIENCE_S: Final = 5.0
_MOST_CALLS: Final = 64
_log = logging.getLogger(__name__)

Reply = Callable[[bool, str], None]
"""Called once with whether the caller may go on, and why not."""


class Answerer(Protocol):
    """Who answers.  Each returns when nothing of the call is left to do; replying comes first."""

    deadline: float

    def hook(self, call: Mapping[str, Any], reply: Reply) -> None:
        """A hook was called."""

    def acquire(self, uuid: str, reply: Reply) -> None:
        """The plugin asks whether the guest may go on here."""


class MoveServer:
    """Serves until its listener is closed."""

    def __init__(self, listener: Listener, asked: Answerer) -> None:
        self._listener = listener
        self._asked = asked
        self._places = threading.BoundedSemaphore(_MOST_CALLS)

    def run(self) -> None:
        """Accept connections; ends with the listener."""
        self._listener.socket.setblocking(True)
        while True:
            try:
                connection, _ = self._listener.socket.accept()
            except OSError:
                return
            if not self._places.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(_PATIENCE_S)
                if Peer.of(connection).uid != 0:
                    _send(connection, {"error": f"{INTERFACE}.PermissionDenied"})
                    return
                self._answer(connection, _receive(connection))
        except (OSError, MalformedError) as error:
            _log.warning("a call was not understood, or its caller went away: %s", error)
        except Exception:
            # The caller takes the closed connection for a refusal.
            _log.exception("a call failed")
        finally:
            self._places.release()

    def _answer(self, connection: socket.socket, call: Mapping[str, Any]) -> None:
        parameters = call.get("parameters")
        if not isinstance(parameters, dict):
            raise MalformedError("call", "it has no parameters")
        method = call.get("method")
        if method not in (f"{INTERFACE}.Hook", f"{INTERFACE}.Acquire"):
            _send(connection, {"error": "org.varlink.service.MethodNotFound"})
            return
        seconds = math.ceil(self._asked.deadline) + 1
        _send(connection, {"continues": True, "parameters": {"deadline": seconds}})

        def reply(allow: bool, why: str) -> None:
            try:
                _send(connection, {"parameters": {"allow": allow, "why": why}})
            except OSError as error:
                _log.warning("nobody waits for an answer any more: %s", error)

        try:
            if method == f"{INTERFACE}.Hook":
                self._asked.hook(parameters, reply)
            else:
                self._asked.acquire(str(parameters.get("uuid")), reply)
        except PrtraceError as error:
            _log.warning("%s: %s", method, error.message)
            reply(False, error.message)


def _send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\0")


def _receive(connection: socket.socket) -> Mapping[str, Any]:
    received = bytearray()
    while not received.endswith(b"\0"):
        chunk = connection.recv(65536)
        if not chunk or len(received) > _MAX_CALL:
            raise MalformedError("call", "cut off, or too long")
        received += chunk
    try:
        call = json.loads(received[:-1])
    except (ValueError, RecursionError) as error:
        raise MalformedError("call", f"not JSON: {error}"[:100]) from None
    if not isinstance(call, dict):
        raise MalformedError("call", "not a JSON object")
    return call
