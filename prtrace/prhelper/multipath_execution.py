"""PERSISTENT RESERVE on a dm-multipath map: one nexus to the guest, several to the unit.

PERSISTENT RESERVE IN goes through the map's own node: the kernel takes a path, and where that one
is dead, another is asked.  The commands that change something go over the paths' own nodes:

REGISTER, REGISTER AND IGNORE  every path, because I/O may take any of them.  A path that is dead
    does not fail the whole; it stays owed the registration and gets it with the guest's next
    command, whatever that is, once it is alive.  Nothing is ever rolled back.  Where some paths
    accept the guest's key and others do not (a path that came back has an old key, or none), the
    others get it by REGISTER AND IGNORE EXISTING KEY, then the first path must still accept it: if
    a peer preempted the guest meanwhile, what was just added is taken back, so that a fenced guest
    stays fenced.  What was owed is held to the same.
RESERVE     a path that accepts it; the reservation may be held by another path of ours already,
    which accepts the same RESERVE again.  If the holder is a dead path of ours, it is held.  So it
    may be sent on the next path when nobody knows what became of it on one.
RELEASE     every path: one that does not hold answers GOOD and releases nothing.  If a dead path
    of ours still holds afterwards, the guest is told of a failure.
CLEAR, PREEMPT, PREEMPT AND ABORT  one path, and not one that failed last time.  A PREEMPT of the
    guest's own key, or of all (key 0), removes our other paths' registrations too; they are made
    again.

The first path's answer is the guest's, unit attentions included.  A unit attention on another
path is about a nexus that the guest does not know: the command is sent there again.  Another
command is sent only after an answer that proves that the one before was not executed.

Lessons of multipath-tools 0.13 (its commits 8d5f4a5e, 92872ca8, 9d177080, 3bd41572, 2a4ca250,
601d09a7, d82fa18c, 672fa81d, 63dab418, e1e1599a).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prtrace.errors import DeviceError
from prtrace.linux.reader import PrState, Reader
from prtrace.linux.sgio import Reply
from prtrace.linux.units import scan
from prtrace.prhelper.answer import (
    COMMUNICATION_FAILURE,
    INVALID_CDB,
    LIST_LENGTH,
    check,
    of_errno,
    of_reply,
)
from prtrace.prhelper.descriptor import Node, open_path
from prtrace.prhelper.protocol import CDB_SIZE, CLEANUP, Request, Response
from prtrace.scsi.cdb import PrOutCdb
from prtrace.scsi.codes import Opcode, OutCode, Status, out_action, type_code
from prtrace.scsi.forms import APTPL, BASIC_PARAMETER_LIST, PR_OUT_CDB, SCOPE_SHIFT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Send = Callable[[int, Request], Reply | int]

_ATTEMPTS: Final = 8
"""Unit attentions of one path in a row, beyond which something else is wrong."""
_NOT_SENT: Final = frozenset({0x01, 0x0F})  # DID_NO_CONNECT, DID_TRANSPORT_FAILFAST
_SCOPE_TYPE_AT: Final = PR_OUT_CDB.offset("scope_type")
_REGISTRATIONS: Final = (OutCode.REGISTER, OutCode.REGISTER_AND_IGNORE)
_PREEMPTIONS: Final = (OutCode.PREEMPT, OutCode.PREEMPT_AND_ABORT)


@dataclass(slots=True)
class _Path:
    """An open path of a map."""

    nexus: str
    fd: int
    reply: Reply | int | None = None
    """Its last answer, an errno where SG_IO failed, None before the first command."""

    @property
    def good(self) -> bool:
        return isinstance(self.reply, Reply) and of_reply(self.reply).status == Status.GOOD

    @property
    def conflict(self) -> bool:
        return isinstance(self.reply, Reply) and self.reply.conflict

    @property
    def attention(self) -> bool:
        return isinstance(self.reply, Reply) and self.reply.attention

    @property
    def dead(self) -> bool:
        """Whether the transport, not the device, decided."""
        if isinstance(self.reply, Reply):
            return self.reply.transport_fault
        return self.reply is not None

    @property
    def untouched(self) -> bool:
        """Whether the command certainly never reached the device."""
        return isinstance(self.reply, Reply) and self.reply.host_status in _NOT_SENT

    @property
    def response(self) -> Response:
        if isinstance(self.reply, Reply):
            return of_reply(self.reply)
        return of_errno(self.reply) if self.reply else check(COMMUNICATION_FAILURE)


@dataclass(slots=True)
class _Owed:
    """What paths of a map are to be sent when they are alive again."""

    request: Request
    key: int
    """The guest's registration after it, 0 for none."""
    nexuses: set[str]


@dataclass(frozen=True, slots=True)
class _MapDevice:
    """A map as a Reader's device."""

    path: str
    ask: Callable[[Request], _Path]

    def send(self, cdb: bytes, data_out: bytes, room: int, timeout_ms: int) -> Reply:
        """Send a command that changes nothing; DeviceError where no path answers."""
        reply = self.ask(Request(cdb.ljust(CDB_SIZE, b"\0"), data_out, room)).reply
        if isinstance(reply, Reply):
            return reply
        raise DeviceError(f"{self.path}: {os.strerror(reply or 0)}")


class MapExecution:
    """send sends one request through one descriptor; one thread at a time for each map."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._owed: dict[str, _Owed] = {}
        self._failed: set[str] = set()

    def execute(self, request: Request, fd: int, node: Node) -> Response:
        """Carry the request out on the map whose node fd is; the guest's answer."""
        if node.number in self._owed:
            self._settle(self._owed[node.number], node)
        if request.opcode == Opcode.PR_IN:
            return self._ask(request, fd, node).response
        if request.opcode == CLEANUP:
            request = _register(request, OutCode.REGISTER_AND_IGNORE, 0, 0)
        if request.action > OutCode.REGISTER_AND_IGNORE:
            return check(INVALID_CDB)
        if len(request.parameter) < BASIC_PARAMETER_LIST.size:
            return check(LIST_LENGTH)
        paths = sorted(_open(node), key=lambda path: path.nexus in self._failed)
        if not paths:
            return check(COMMUNICATION_FAILURE)
        try:
            return self._carry_out(request, paths, fd, node)
        finally:
            for path in paths:
                if path.dead:
                    self._failed.add(path.nexus)
                elif path.reply is not None:
                    self._failed.discard(path.nexus)
                os.close(path.fd)

    def _carry_out(self, request: Request, paths: list[_Path], fd: int, node: Node) -> Response:
        action = request.action
        if action in _REGISTRATIONS:
            response = self._register_all(request, paths)
            if response.status == Status.GOOD:
                self._owe(request, paths, node)
            return response
        if action == OutCode.RELEASE:
            return self._release(request, paths, fd, node)
        response, used = self._first(request, paths)
        key, sa_key = _keys(request)
        if action == OutCode.RESERVE and response.status == Status.RESERVATION_CONFLICT:
            # Held by a path of ours that is dead: held by the guest.
            same = self._ours(request, fd, node) == request.cdb[_SCOPE_TYPE_AT]
            return Response(Status.GOOD) if same else response
        if action in _PREEMPTIONS and response.status == Status.GOOD and sa_key in (0, key):
            again = _register(request, OutCode.REGISTER_AND_IGNORE, 0, key)
            for path in paths:
                if path is not used:
                    self._insist(path, again)
            self._owe(again, paths, node)
        if action == OutCode.CLEAR and response.status == Status.GOOD:
            self._owed.pop(node.number, None)
        return response

    def _owe(self, request: Request, paths: list[_Path], node: Node) -> None:
        """Note which paths a registration has not reached, which is over for all others."""
        self._owed.pop(node.number, None)
        missed = set(node.nexuses) - {path.nexus for path in paths if not path.dead}
        if missed:
            key, sa_key = _keys(request)
            again = _register(request, OutCode.REGISTER_AND_IGNORE, 0, sa_key)
            if not sa_key and request.action == OutCode.REGISTER:
                # Not by IGNORE: another's registration may be there when the path is back.
                again = _register(request, OutCode.REGISTER, key, 0)
            self._owed[node.number] = _Owed(again, sa_key, missed)

    def _settle(self, owed: _Owed, node: Node) -> None:
        """Give the paths that are alive again what they are owed."""
        owed.nexuses &= set(node.nexuses)
        for path in _open(node):
            try:
                if path.nexus in owed.nexuses and not self._pay(owed, path, node):
                    owed.nexuses.clear()
            finally:
                os.close(path.fd)
        if not owed.nexuses:
            del self._owed[node.number]

    def _pay(self, owed: _Owed, path: _Path, node: Node) -> bool:
        """Send one path what it is owed; False where nothing is owed any more."""
        self._insist(path, owed.request)
        if path.dead:
            return True
        owed.nexuses.discard(path.nexus)
        if not path.good or not owed.key:
            return True
        proof = _register(owed.request, OutCode.REGISTER, owed.key, owed.key)
        fenced = False
        for other in _open(node):
            try:
                if other.nexus != path.nexus and other.nexus not in owed.nexuses:
                    self._insist(other, proof)
                    if other.good:
                        return True
                    fenced = fenced or other.conflict
            finally:
                os.close(other.fd)
        self._insist(path, _register(owed.request, OutCode.REGISTER, owed.key, 0))
        if not fenced:
            # Nobody can tell now: later.
            owed.nexuses.add(path.nexus)
        return not fenced

    def _ask(self, request: Request, fd: int, node: Node) -> _Path:
        """Send a command that changes nothing: by the map, then by any path that is alive."""
        asked = _Path("", fd, self._send(fd, request))
        if asked.dead:
            for path in _open(node):
                try:
                    self._insist(path, request)
                finally:
                    os.close(path.fd)
                if not path.dead:
                    return path
        return asked

    def _insist(self, path: _Path, request: Request) -> None:
        """Send until the path has no unit attention to tell first."""
        for _ in range(_ATTEMPTS):
            path.reply = self._send(path.fd, request)
            if not path.attention:
                return

    def _first(self, request: Request, paths: list[_Path]) -> tuple[Response, _Path]:
        """Send on one path after the other until one accepts it; the answer and its path.

        A conflict changes nothing, so another path, which may have the key, may try.
        """
        conflict: _Path | None = None
        last = paths[0]
        for path in paths:
            last = path
            if conflict is None:
                path.reply = self._send(path.fd, request)
            else:
                self._insist(path, request)
            if path.conflict:
                conflict = conflict or path
            elif not path.untouched and not (path.dead and request.action == OutCode.RESERVE):
                if conflict is not None and not path.good:
                    break
                return path.response, path
        last = conflict or last
        return last.response, last

    def _register_all(self, request: Request, paths: list[_Path]) -> Response:
        first: _Path | None = None
        for path in paths:
            if first is None:
                path.reply = self._send(path.fd, request)
            else:
                self._insist(path, request)
            if path.dead:
                continue
            if first is None and not path.good and not path.conflict:
                # The guest's to see and to repeat; nothing happened on any path.
                return path.response
            first = first or path
        good = [path for path in paths if path.good]
        refused = [path for path in paths if not path.good and not path.dead]
        if not good:
            return (first or paths[0]).response
        if refused:
            return self._converge(request, good[0], refused)
        return good[0].response

    def _converge(self, request: Request, good: _Path, refused: list[_Path]) -> Response:
        """Give the paths that did not accept the guest's old key the new one."""
        _, key = _keys(request)
        for path in refused:
            self._insist(path, _register(request, OutCode.REGISTER_AND_IGNORE, 0, key))
        response = next((p.response for p in refused if not p.good and not p.dead), good.response)
        if not key:
            return response
        self._insist(good, _register(request, OutCode.REGISTER, key, key))
        if not good.conflict:
            return response
        for path in refused:
            if path.good:
                self._insist(path, _register(request, OutCode.REGISTER, key, 0))
        return good.response

    def _release(self, request: Request, paths: list[_Path], fd: int, node: Node) -> Response:
        first: _Path | None = None
        for path in paths:
            if first is None:
                path.reply = self._send(path.fd, request)
                if path.attention:
                    return path.response
            else:
                self._insist(path, request)
            if not path.dead:
                first = first or path
        if first is None:
            return paths[0].response
        # A wrong type is told by the holder alone.
        for path in paths:
            if not path.dead and not path.good and not path.conflict:
                return path.response
        if not any(path.good for path in paths):
            return first.response
        unseen = len(paths) < len(node.nexuses) or any(path.dead for path in paths)
        conflict = next((path.response for path in paths if path.conflict), None)
        if (unseen or conflict) and self._ours(request, fd, node) is not None:
            # Not released: on a path that is dead, or with another type, which LIO answers with
            # RESERVATION CONFLICT.
            return conflict or check(COMMUNICATION_FAILURE)
        return Response(Status.GOOD)

    def _ours(self, request: Request, fd: int, node: Node) -> int | None:
        """Scope and type of a reservation that a path of the map holds with the guest's key.

        None where nobody holds one, or another host, or where the unit does not say: keys
        can be shared, so the key alone proves nothing (READ FULL STATUS names the port).
        """
        key, _ = _keys(request)
        device = _MapDevice(node.number, lambda asked: self._ask(asked, fd, node))
        state = Reader(device).read()
        if not isinstance(state, PrState) or not state.named or state.reservation is None:
            return None
        reservation = state.reservation
        if reservation.key != key:
            return None
        found = scan()
        mine = [found.nexus(nexus) for nexus in node.nexuses]
        ports = {(n.initiator_port, n.relative_target_port) for n in mine if n is not None}
        for registration in state.registrations:
            port = registration.transport_id and registration.transport_id.text
            if registration.holder and (port, registration.relative_target_port) in ports:
                return reservation.scope << SCOPE_SHIFT | type_code(reservation.type)
        return None


def _keys(request: Request) -> tuple[int, int]:
    """RESERVATION KEY and SERVICE ACTION RESERVATION KEY."""
    given = BASIC_PARAMETER_LIST.parse(request.parameter)
    return given.reservation_key, given.service_action_reservation_key


def _register(request: Request, action: int, key: int, sa_key: int) -> Request:
    """A registration of the proxy's own, with the guest's APTPL where it gave one."""
    flags = 0
    if request.action in _REGISTRATIONS and request.parameter:
        flags = BASIC_PARAMETER_LIST.parse(request.parameter).flags & APTPL
    parameter = BASIC_PARAMETER_LIST.build(
        reservation_key=key, service_action_reservation_key=sa_key, flags=flags
    )
    cdb = PrOutCdb(out_action(action), parameter_length=len(parameter)).build()
    return Request(cdb.ljust(CDB_SIZE, b"\0"), parameter)


def _open(node: Node) -> Iterator[_Path]:
    """The paths that can be opened; the others are as good as dead."""
    for nexus in node.nexuses:
        try:
            yield _Path(nexus, open_path(nexus))
        except DeviceError:
            continue
