"""PERSISTENT RESERVE on a dm-multipath map: one nexus to the guest, several to the unit.

PERSISTENT RESERVE IN goes through the map's own node: the kernel takes a path, and where that one
is dead, another is asked.  The commands that change something go over the paths' own nodes:

REGISTER, REGISTER AND IGNORE  every path, because I/O may take any of them.  A path that is dead
    does not fail the whole; it is owed the registration, as is one that comes later: a session
    that logs in anew is another scsi_device, and may be another I_T nexus.  Where some paths
    accept the guest's key and others do not (a path that came back has an old key, or none), the
    others get it by REGISTER with no key, or with one that this client registered: never over
    somebody else's.
    In the end the path that accepted first must still accept the key: if a peer preempted the
    guest meanwhile, what was added since is taken back, so that a fenced guest stays fenced.
RESERVE     a path that accepts it; the reservation may be held by another path of ours already,
    which accepts the same RESERVE again.  If the holder is a dead path of ours, it is held.  So it
    may be sent on the next path when nobody knows what became of it on one.
RELEASE     every path: one that does not hold answers GOOD and releases nothing.  If a dead path
    of ours still holds afterwards, the guest is told of a failure.
    Where the unit does not say whether a dead path of ours holds, the guest is told of a failure
    too, by RESERVE and RELEASE alike: a conflict would be a fence, and GOOD a disk that is free.
CLEAR, PREEMPT, PREEMPT AND ABORT  one path, and not one that failed last time.  A PREEMPT of the
    guest's own key, or of all (key 0), removes our other paths' registrations too; they are made
    again, between two proofs that the guest is registered still.

What is owed is of one client's connection and of one logical unit.  A path gets it after a command
of that client's that the device accepted with the key: that command, and one after it, prove that
the guest is registered.  PERSISTENT RESERVE IN changes nothing.

What the guest is told of a command that one path may have carried out is never that nothing
happened.

The first path's answer is the guest's, unit attentions included.  A unit attention on another
path is about a nexus that the guest does not know: the command is sent there again.  Another
command is sent only after an answer that proves that the one before was not executed.

Lessons of multipath-tools 0.13 (its commits 8d5f4a5e, 92872ca8, 9d177080, 3bd41572, 2a4ca250,
601d09a7, d82fa18c, 672fa81d, 63dab418, e1e1599a).
"""

from __future__ import annotations

import enum
import os
import time
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Final

from prtrace.errors import DeviceError, MalformedError
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
from prtrace.prhelper.guard import Effect, outcome_of
from prtrace.prhelper.protocol import CDB_SIZE, CLEANUP, Request, Response
from prtrace.scsi.cdb import PrOutCdb
from prtrace.scsi.codes import InAction, Opcode, OutCode, Status, out_action, type_code
from prtrace.scsi.forms import APTPL, BASIC_PARAMETER_LIST, PR_IN_CDB, PR_OUT_CDB, SCOPE_SHIFT
from prtrace.scsi.sense import UNIT_ATTENTION, Sense
from prtrace.scsi.transportid import IscsiPort

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prtrace.linux.reader import ReportedRegistration

    Ports = tuple[str | None, int | None]
    """Of a nexus: the initiator port's name and the relative target port, where they are known."""
    Send = Callable[[int, Request], Reply | int]
    Opened = Callable[[Node], Iterator["_Path"]]

_ATTEMPTS: Final = 8
"""Unit attentions of one path in a row, beyond which something else is wrong."""
_MOST_KEYS: Final = 8
"""Of a client's former keys, each of which is tried on a path that refuses the present one."""
_TRIES: Final = 3
"""Of taking a registration back, in a row."""
_PATIENCE: Final = 10.0
"""So many times as long as an owed path took to fail, it is not asked again: the guest waits."""
_NOT_SENT: Final = frozenset({0x01, 0x0F})  # DID_NO_CONNECT, DID_TRANSPORT_FAILFAST
_SCOPE_TYPE_AT: Final = PR_OUT_CDB.offset("scope_type")
_ROOM: Final = 8
_READ_KEYS: Final = PR_IN_CDB.build(
    operation_code=Opcode.PR_IN,
    byte_1=InAction.READ_KEYS.value,
    allocation_length=_ROOM,
    control=0,
)
_HARMLESS: Final = Request(_READ_KEYS.ljust(CDB_SIZE, b"\0"), b"", _ROOM)
"""Tells whether a path is alive."""
_REGISTRATIONS: Final = (OutCode.REGISTER, OutCode.REGISTER_AND_IGNORE)
_PREEMPTIONS: Final = (OutCode.PREEMPT, OutCode.PREEMPT_AND_ABORT)


class Whose(enum.Enum):
    """Whose the reservation of a unit is, as far as the unit says."""

    OURS = "a path of the map holds it"
    NOT_OURS = "somebody else holds it, or nobody"
    NOT_TOLD = "a path of the map may hold it"


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
    def lost(self) -> bool:
        """Whether the command may have been carried out, and nobody knows."""
        return self.dead and not self.untouched

    @property
    def response(self) -> Response:
        if isinstance(self.reply, Reply):
            return of_reply(self.reply)
        return of_errno(self.reply) if self.reply else check(COMMUNICATION_FAILURE)


@dataclass(slots=True)
class _Known:
    """What is known of a client's registrations on a map."""

    lu: str
    key: int = 0
    """The guest's, 0 for none."""
    reached: set[str] = field(default_factory=set)
    """The paths that have it, by their lives: see Node."""
    keys: list[int] = field(default_factory=list)
    """The keys that the client has asked to be registered with, the newest first."""
    strays: set[tuple[str, int]] = field(default_factory=set)
    """Paths that may have a key still which was to be taken back: the guest was fenced."""
    not_before: float = 0.0
    """When a path that is owed something may be asked again; of time.monotonic()."""

    def asks_for(self, key: int) -> None:
        """The client asks to be registered with key."""
        self.keys = [key, *(each for each in self.keys if each != key)][:_MOST_KEYS]

    def note(self, key: int, paths: list[_Path], node: Node) -> None:
        """The guest's registration is key now, on those of paths that accepted it."""
        self.key, self.not_before = key, 0.0
        reached = {path.nexus for path in paths if path.good}
        self.reached = {node.life(nexus) for nexus in reached}
        self.strays = {stray for stray in self.strays if stray[0] not in reached}

    def lacking(self, node: Node) -> frozenset[str]:
        """The paths that have not got the registration: those that came after it, too."""
        if not self.key:
            return frozenset()
        return frozenset(each for each in node.nexuses if node.life(each) not in self.reached)

    def has_answered(self, paths: list[_Path], node: Node) -> bool:
        """Whether a conflict is one of a path that has the registration, or none lacks it."""
        lacking = self.lacking(node)
        return not lacking or any(path.conflict and path.nexus not in lacking for path in paths)


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
    """Of one client, on one thread at a time.

    send: sends one request through one descriptor.  opened: gives the paths of a map, open.
    """

    def __init__(self, send: Send, opened: Opened | None = None) -> None:
        self._send = send
        self._opened = opened or _open
        self._known: dict[str, _Known] = {}
        self._failed: set[str] = set()
        self._changed = False
        """Whether the request under way has, or may have, changed something on the device."""
        self._lost: Response | None = None
        """The answer of a path on which nobody knows what became of the guest's own command."""

    def execute(self, request: Request, fd: int, node: Node) -> Response:
        """Carry the request out on the map whose node fd is; the guest's answer."""
        if request.opcode == Opcode.PR_IN:
            return self._ask(request, fd, node).response
        if request.opcode == CLEANUP:
            request = _register(request, OutCode.REGISTER_AND_IGNORE, 0, 0)
        if request.action > OutCode.REGISTER_AND_IGNORE:
            return check(INVALID_CDB)
        if len(request.parameter) < BASIC_PARAMETER_LIST.size:
            return check(LIST_LENGTH)
        paths = sorted(self._opened(node), key=lambda path: path.nexus in self._failed)
        if not paths:
            return check(COMMUNICATION_FAILURE)
        self._changed, self._lost = False, None
        try:
            response = self._carry_out(request, paths, fd, node)
        finally:
            for path in paths:
                if path.dead:
                    self._failed.add(path.nexus)
                elif path.reply is not None:
                    self._failed.discard(path.nexus)
                os.close(path.fd)
        return self._told(response)

    def _told(self, response: Response) -> Response:
        """What the guest is told where this is what the paths' answers come to."""
        if response.status == Status.GOOD or not self._changed:
            return response
        # Not what another path said to it: the guest would take it for a command without effect.
        # But a unit attention is told once, may be of a fence, and has the guest send it again.
        told = response if _is_attention(response) else self._lost or response
        return told._replace(unsure=True)

    def _carry_out(self, request: Request, paths: list[_Path], fd: int, node: Node) -> Response:
        action = request.action
        known = self._of(node)
        for nexus, stray in sorted(known.strays):
            for path in (each for each in paths if each.nexus == nexus):
                self._take_back(request, path, known, stray)
                path.reply = None  # it says nothing of the guest's command
        key, sa_key = _keys(request)
        if action in _REGISTRATIONS:
            known.asks_for(sa_key)
            response = self._register_all(request, paths, known)
            if response.status == Status.GOOD:
                known.note(sa_key, paths, node)
            elif self._changed:
                # Nobody knows which paths have it: none is owed anything.
                known.note(0, [], node)
            return response
        if action == OutCode.RELEASE:
            response = self._release(request, paths, fd, node)
            used = next((path for path in paths if path.good), paths[0])
        else:
            response, used = self._first(request, paths)
        conflict = response.status == Status.RESERVATION_CONFLICT
        if action == OutCode.RESERVE and conflict:
            whose = self._whose(request, fd, node, request.cdb[_SCOPE_TYPE_AT])
            if whose is Whose.OURS:
                # Held by a path of ours that is dead: held by the guest.
                return Response(Status.GOOD)
            if whose is Whose.NOT_TOLD and _unseen(paths, node):
                return check(COMMUNICATION_FAILURE)
        if conflict and known.key == key and not known.has_answered(paths, node):
            # No path that has the registration said anything: that is no fence.
            return check(COMMUNICATION_FAILURE)
        if response.status != Status.GOOD or not used.good:
            return response
        if action == OutCode.CLEAR:
            known.note(0, [], node)
        elif action in _PREEMPTIONS and sa_key in (0, key):
            known.asks_for(key)
            known.note(key, [used], node)
            self._pay(request, used, paths, known, node)
        elif known.key == key and time.monotonic() >= known.not_before:
            self._pay(request, used, paths, known, node)
        return response

    def _of(self, node: Node) -> _Known:
        """What is known of the client on this map: nothing, where another unit has its number."""
        known = self._known.get(node.number)
        if known is None or known.lu != node.lu:
            known = self._known[node.number] = _Known(node.lu)
        return known

    def _pay(
        self, request: Request, used: _Path, paths: list[_Path], known: _Known, node: Node
    ) -> None:
        """Register the paths that lack the registration which the used path has just proved."""
        # Also where nobody said so before: a path may be registered that this client did not ask.
        known.reached.add(node.life(used.nexus))
        lacking = known.lacking(node)
        for path in paths:
            if path.nexus not in lacking:
                continue
            begun = time.monotonic()
            if not self._proves(request, used, known.key):
                return
            former = self._add(request, path, known, known.key)
            if path.dead:
                now = time.monotonic()
                known.not_before = now + _PATIENCE * (now - begun)
            # Also where nobody knows what became of it.
            added = path.good
            if (added or path.lost) and not self._proves(request, used, known.key):
                if used.conflict or former == 0:
                    self._take_back(request, path, known, known.key)
                return
            if added:
                known.reached.add(node.life(path.nexus))

    def _proves(self, request: Request, path: _Path, key: int) -> bool:
        """Whether the path accepts the guest's key: no peer has taken it away."""
        self._insist(path, _register(request, OutCode.REGISTER, key, key))
        return path.good

    def _add(self, request: Request, path: _Path, known: _Known, key: int) -> int | None:
        """Register a path, over nothing or over a key of the client's own.

        Over what, 0 for nothing; None where it is another's.
        """
        for former in dict.fromkeys((0, key, *known.keys)):
            self._insist(path, _register(request, OutCode.REGISTER, former, key))
            if not path.conflict:
                return former
        return None

    def _take_back(self, request: Request, path: _Path, known: _Known, key: int) -> None:
        """Unregister a path of a guest that was fenced; one that does not answer, later."""
        for _ in range(_TRIES):
            self._insist(path, _register(request, OutCode.REGISTER, key, 0))
            if not path.dead:
                known.strays.discard((path.nexus, key))
                return
        known.strays.add((path.nexus, key))

    def _ask(self, request: Request, fd: int, node: Node) -> _Path:
        """Send a command that changes nothing: by the map, then by any path that is alive."""
        asked = _Path("", fd, self._send(fd, request))
        if asked.dead:
            for path in self._opened(node):
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
            self._to(path, request)
            if not path.attention:
                return

    def _is_spared(self, path: _Path, paths: list[_Path]) -> bool:
        """Whether a path is left out: it failed last time and still does, and another conflicts.

        Otherwise a guest that a peer has fenced would be told of the fault, and not of the fence.
        """
        conflict = any(each.conflict for each in paths) and not any(each.good for each in paths)
        if not conflict or path.nexus not in self._failed:
            return False
        return _Path(path.nexus, path.fd, self._send(path.fd, _HARMLESS)).dead

    def _send_guests(self, path: _Path, request: Request, *, insist: bool) -> None:
        """Send the guest's own command.  insist: unit attentions of this path are not its."""
        if insist:
            self._insist(path, request)
        else:
            self._to(path, request)
        if path.lost:
            self._lost = path.response

    def _to(self, path: _Path, request: Request) -> None:
        path.reply = self._send(path.fd, request)
        if request.opcode == Opcode.PR_IN or path.untouched:
            return
        if outcome_of(path.response) is not Effect.NOTHING:
            self._changed = True

    def _first(self, request: Request, paths: list[_Path]) -> tuple[Response, _Path]:
        """Send on one path after the other until one accepts it; the answer and its path.

        A conflict changes nothing, so another path, which may have the key, may try.
        """
        conflict: _Path | None = None
        last = paths[0]
        for path in paths:
            if self._is_spared(path, paths):
                continue
            last = path
            self._send_guests(path, request, insist=conflict is not None)
            if path.conflict:
                conflict = conflict or path
            elif not path.untouched and not (path.dead and request.action == OutCode.RESERVE):
                if conflict is not None and not path.good:
                    break
                return path.response, path
        last = conflict or last
        return last.response, last

    def _register_all(self, request: Request, paths: list[_Path], known: _Known) -> Response:
        first: _Path | None = None
        for path in paths:
            if self._is_spared(path, paths):
                continue
            self._send_guests(path, request, insist=first is not None)
            if path.dead:
                continue
            if first is None and not path.good and not path.conflict:
                # The guest's to see and to repeat.
                return path.response
            first = first or path
        accepted = next((path for path in paths if path.good), None)
        if accepted is None:
            return (first or paths[0]).response
        former, key = _keys(request)
        added = [path for path in paths if path.conflict]
        new = [path for path in added if self._add(request, path, known, key) == 0]
        if request.action == OutCode.REGISTER and not former:
            new = paths
        others = [each for each in paths if each is not accepted and (each.good or each.lost)]
        if key and others and not self._proves(request, accepted, key):
            for path in others:
                # Where no answer came, nobody knows of a fence: what was there before stays, and
                # with it the reservation that it may hold.
                if accepted.conflict or path in new:
                    self._take_back(request, path, known, key)
            return accepted.response
        if any(path.conflict for path in paths):
            # Somebody else's registration is on one of the paths.
            return check(COMMUNICATION_FAILURE)
        asked = (each for each in paths if each.reply is not None and not each.dead)
        return next((each for each in asked if not each.good), accepted).response

    def _release(self, request: Request, paths: list[_Path], fd: int, node: Node) -> Response:
        first: _Path | None = None
        for path in paths:
            if self._is_spared(path, paths):
                continue
            self._send_guests(path, request, insist=first is not None)
            if path.attention:
                return path.response
            if not path.dead:
                first = first or path
        if first is None:
            return paths[0].response
        # A wrong type is told by the holder alone.
        for path in paths:
            if path.reply is not None and not path.dead and not path.good and not path.conflict:
                return path.response
        if not any(path.good for path in paths):
            return first.response
        conflict = next((path.response for path in paths if path.conflict), None)
        if _unseen(paths, node) or conflict:
            whose = self._whose(request, fd, node)
            if whose is Whose.OURS:
                # Not released: on a path that is dead, or with another type, which LIO answers
                # with RESERVATION CONFLICT.
                return conflict or check(COMMUNICATION_FAILURE)
            if whose is Whose.NOT_TOLD:
                return check(COMMUNICATION_FAILURE)
        return Response(Status.GOOD)

    def _whose(
        self, request: Request, fd: int, node: Node, scope_type: int | None = None
    ) -> Whose:
        """Whose the reservation is, by READ FULL STATUS, which names the holder's ports.

        scope_type: of the reservation that is meant, as in the CDB; None for any.  Keys can be
        shared, so the key alone does not tell whose a reservation with it is.
        """
        key, _ = _keys(request)
        device = _MapDevice(node.number, lambda asked: self._ask(asked, fd, node))
        state = Reader(device).read()
        if not isinstance(state, PrState):
            return Whose.NOT_TOLD
        reservation = state.reservation
        if reservation is None or reservation.key != key:
            return Whose.NOT_OURS
        held = reservation.scope << SCOPE_SHIFT | type_code(reservation.type)
        if scope_type not in (None, held):
            return Whose.NOT_OURS
        holders = [each for each in state.registrations if each.holder]
        if not state.named or not holders:
            return Whose.NOT_TOLD
        found = scan()
        mine = [found.nexus(nexus) for nexus in node.nexuses]
        ports = [None if n is None else (n.initiator_port, n.relative_target_port) for n in mine]
        return whose(holders, ports)


def whose(holders: Iterable[ReportedRegistration], paths: Iterable[Ports | None]) -> Whose:
    """Whose a reservation is, by the ports of its holders and of the map's paths (pure).

    paths: None for one that sysfs does not describe any more.
    """
    same = {_same(holder, path) for holder, path in product(holders, tuple(paths))}
    if True in same:
        return Whose.OURS
    return Whose.NOT_TOLD if None in same else Whose.NOT_OURS


def _same(holder: ReportedRegistration, path: Ports | None) -> bool | None:
    """Whether holder is the path's nexus; None where the names do not tell."""
    mine, here = path or (None, None)
    port, relative = holder.transport_id, holder.relative_target_port
    if None not in (relative, here) and relative != here:
        return False
    if port is None or mine is None:
        return None
    mine = mine.casefold()
    if isinstance(port, IscsiPort):
        # Without the session's part it is the name of each session of that initiator.
        each = IscsiPort(port.name).text.casefold()
        if mine == each or (port.isid is None and mine.startswith(f"{each},")):
            return None
    if port.text.casefold() != mine:
        return False
    return None if None in (relative, here) else True


def _unseen(paths: list[_Path], node: Node) -> bool:
    """Whether a path of the map has not said anything of the command."""
    return len(paths) < len(node.nexuses) or any(path.dead or path.reply is None for path in paths)


def _is_attention(response: Response) -> bool:
    try:
        key = Sense.parse(response.sense).key
    except MalformedError:
        return False
    return response.status == Status.CHECK_CONDITION and key == UNIT_ATTENTION


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
