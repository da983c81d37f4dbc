"""The control socket, by which root holds and watches a guest's commands (prtrace.prhelper.gate).

One JSON object a line, at most 4096 bytes, in both directions.  Asked:

    {"do": "hold", "guest": NAME, "seconds": N}    or "pid": PID instead of "guest"
        {"hold": ID, "held": true, "clients": [PID, …]}
                                        once no PERSISTENT RESERVE OUT of the guest is under way
        {"hold": ID, "held": false, …}  where one did not end within N seconds; nothing is held
    {"do": "release", "hold": ID}
        {"hold": ID, "released": true}  false where the hold had ended by itself before
    {"do": "watch", "guest": NAME}
        {"watch": ID, "clients": [PID, …]}
        {"watch": ID, "command": C, "pid": PID, "cdb": HEX, "parameter": HEX, "status": S}
                                        whenever a command may have changed a registration; the
                                        guest is told when C is answered, or after 5 s
    {"do": "answer", "command": C}
        no reply

clients are the processes that are meant and connected; where there is none, nobody is held back
yet.  A hold lasts 60 s at most.  The end of the connection ends its holds and watches, and answers
what it left unanswered.  What is not understood gets {"error": SENTENCE}.
"""

from __future__ import annotations

import itertools
import json
import logging
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any, Final

from prtrace.errors import UsageError
from prtrace.linux.unixsocket import read_away
from prtrace.prhelper.client import HelperClient, client_of
from prtrace.prhelper.gate import MOST_HOLD_SECONDS, Gate, Hold, Named

if TYPE_CHECKING:
    from collections.abc import Callable

    from prtrace.prhelper.protocol import Request, Response
    from prtrace.prhelper.sparing_log import SparingLog

ANSWER_SECONDS: Final = 5.0
_MOST_LINE: Final = 4096
_MOST_CONNECTIONS: Final = 16
_MOST_EACH: Final = 64
"""Holds and watches of one connection."""
_SEND_SECONDS: Final = 5.0


class Control:
    """Serves the control socket's connections; owner: the user who may use it beside root."""

    def __init__(self, gate: Gate, owner: int, sparing: SparingLog) -> None:
        self._gate = gate
        self._owner = owner
        self._log = sparing
        self._places = threading.Semaphore(_MOST_CONNECTIONS)

    def welcome(self, sock: socket.socket) -> None:
        """Serve an accepted connection on a thread of its own, or refuse it with a sentence."""
        try:
            client = client_of(sock, "")
        except OSError:
            sock.close()
            return
        refusal = ""
        if client.uid not in (0, self._owner):
            refusal = f"uid {client.uid} may not hold guests' commands: root may"
        elif not self._places.acquire(blocking=False):
            refusal = f"there are {_MOST_CONNECTIONS} connections already"
        if refusal:
            self._log.say(logging.WARNING, "control", f"control: {refusal}")
            with sock:
                sock.setblocking(False)
                _send(sock, {"error": refusal})
            return
        try:
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()
        except RuntimeError:
            self._places.release()
            sock.close()

    def _serve(self, sock: socket.socket) -> None:
        try:
            _Conversation(self._gate, sock).serve()
        finally:
            self._places.release()


class _Conversation:
    """One connection."""

    def __init__(self, gate: Gate, sock: socket.socket) -> None:
        self._gate = gate
        self._sock = sock
        self._sending = threading.Lock()
        self._numbers = itertools.count(1)
        self._holds: dict[int, Hold] = {}
        self._ends: list[Callable[[], None]] = []
        self._unanswered: dict[int, threading.Event] = {}

    def serve(self) -> None:
        """Until the other end leaves."""
        # Who does not read what it is told must not hold up the guest whose command it is told.
        self._sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(_SEND_SECONDS), 0)
        )
        try:
            with self._sock, self._sock.makefile("rb") as lines:
                while line := lines.readline(_MOST_LINE):
                    if not line.endswith(b"\n"):
                        self._say({"error": f"a line has at most {_MOST_LINE} bytes"})
                        read_away(self._sock)
                        return
                    try:
                        self._do(line)
                    except UsageError as error:
                        self._say({"error": error.message})
        except OSError:
            return
        finally:
            for end in self._ends:
                end()
            for hold in self._holds.values():
                self._gate.release(hold)
            for answered in list(self._unanswered.values()):
                answered.set()

    def _do(self, line: bytes) -> None:
        try:
            asked = json.loads(line)
        except (ValueError, RecursionError):
            raise UsageError("this is not JSON") from None
        if not isinstance(asked, dict):
            raise UsageError("this is not a JSON object")
        match asked.get("do"):
            case "hold":
                self._hold(_named(asked), _seconds(asked))
            case "release":
                self._release(asked.get("hold"))
            case "watch":
                self._watch(_named(asked))
            case "answer":
                answered = self._unanswered.get(_number(asked.get("command")))
                if answered is not None:
                    answered.set()
            case other:
                raise UsageError(f"{other!r} is none of hold, release, watch, answer")

    def _hold(self, named: Named, seconds: float) -> None:
        self._count()
        hold, held = self._gate.hold(named, seconds)
        number = next(self._numbers)
        if held:
            self._holds[number] = hold
        self._say({"hold": number, "held": held, "clients": self._gate.meant(named)})

    def _release(self, given: Any) -> None:
        hold = self._holds.pop(_number(given), None)
        if hold is None:
            raise UsageError(f"there is no hold {given!r}")
        self._say({"hold": given, "released": self._gate.release(hold)})

    def _watch(self, named: Named) -> None:
        self._count()
        number = next(self._numbers)

        def changed(client: HelperClient, request: Request, response: Response | None) -> None:
            command, answered = next(self._numbers), threading.Event()
            self._unanswered[command] = answered
            try:
                self._say(
                    {
                        "watch": number,
                        "command": command,
                        "pid": client.pid,
                        "cdb": request.cdb.hex(),
                        "parameter": request.parameter.hex(),
                        "status": None if response is None else response.status,
                    }
                )
                answered.wait(ANSWER_SECONDS)
            except OSError:
                return
            finally:
                del self._unanswered[command]

        # Whoever reads that the watch is there misses no command from then on, and is told of none
        # before: a command that ends meanwhile waits for the lock.
        with self._sending:
            self._ends.append(self._gate.watch(named, changed))
            _send(self._sock, {"watch": number, "clients": self._gate.meant(named)})

    def _count(self) -> None:
        if len(self._holds) + len(self._ends) >= _MOST_EACH:
            raise UsageError(f"a connection has at most {_MOST_EACH} holds and watches")

    def _say(self, what: dict[str, object]) -> None:
        with self._sending:
            _send(self._sock, what)


def _send(sock: socket.socket, what: dict[str, object]) -> None:
    sock.sendall(json.dumps(what).encode() + b"\n", socket.MSG_NOSIGNAL)


def _named(asked: dict[str, Any]) -> Named:
    guest, pid = asked.get("guest", ""), asked.get("pid", 0)
    if not isinstance(guest, str) or type(pid) is not int or bool(guest) is bool(pid):
        raise UsageError('either "guest", a text, or "pid", a number, is wanted')
    return Named(guest, pid)


def _seconds(asked: dict[str, Any]) -> float:
    seconds: Any = asked.get("seconds")
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or not 0 < seconds <= MOST_HOLD_SECONDS:
        raise UsageError(f'"seconds" must be a number above 0, at most {MOST_HOLD_SECONDS:.0f}')
    return float(seconds)


def _number(given: Any) -> int:
    if type(given) is not int:
        raise UsageError(f"{given!r} is not a number")
    return given
