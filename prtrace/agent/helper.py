"""The process that sends commands for the agent, which may not: PR IN, and nothing that changes.

The agent asks on the helper's socket with a message of fixed size, and gets the end of a
connection of its own for this request, or none where there is too much to do.  The helper makes
both ends: what comes from the agent could be anything, and root would write to it.  A request
names a device by the number of its node; the helper looks in sysfs whether that is a SCSI
device's, opens it by the kernel's own name, and then sends what comes over the connection, one
command after the other: the four commands that read reservations, and the INQUIRY that tells which
logical unit answers.
To a request for the nodes in use it answers with their numbers: that is how the agent knows which
nexus is nobody's.  It opens the records of proxies, too, in directories that it was started with.

The agent reads bytes of devices and of strangers.  Whatever it may have become by that, the helper
does no more for it than this; it looks into no reply.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from prtrace.agent.child import receive
from prtrace.agent.schedule import ReadingLimits
from prtrace.errors import (
    DeviceError,
    NoSuchDeviceError,
    PrtraceError,
    UnavailableError,
    UsageError,
)
from prtrace.linux.capabilities import Capability
from prtrace.linux.sgio import Reply, SgDevice
from prtrace.linux.sysfs import SYS, read_bytes, target
from prtrace.linux.text import clean
from prtrace.linux.users import Nodes, Users, nodes_in_use, users_of
from prtrace.prhelper.attribution_log import NAME
from prtrace.prhelper.attribution_reader import open_records
from prtrace.scsi.codes import InAction, Opcode
from prtrace.scsi.designator import PAGE_CODE
from prtrace.scsi.forms import EVPD, INQUIRY_CDB, PR_IN_CDB

if TYPE_CHECKING:
    from prtrace.linux.directory import Directory

KEPT: Final = (Capability.DAC_READ_SEARCH, Capability.SYS_PTRACE, Capability.SYS_RAWIO)
"""To send commands, and to see who has which device open."""

_DEVICE, _NODES, _RECORDS = b"D", b"N", b"R"
_REQUEST: Final = struct.Struct("=c?II")
"""What; of _DEVICE whether a block node, its major and minor number; of _RECORDS whether the
newest file, the directory's place among those that the helper was started with, and 0."""
_GIVEN, _NONE = b"+", b"-"
"""To a request: with the end of a connection, or without."""
_COMMAND: Final = struct.Struct("=B16sHI")
"""Length of the CDB, the CDB, ALLOCATION LENGTH in bytes, time limit in milliseconds."""
_ANSWER: Final = struct.Struct("=BBHHIHI")
"""Place in _ERRORS or _GOOD; status, host byte, driver byte, milliseconds; bytes of sense data
and of the reply, which follow."""
_GOOD: Final = 0xFF
_ERRORS: Final[tuple[type[PrtraceError], ...]] = (
    DeviceError,
    NoSuchDeviceError,
    UnavailableError,
    UsageError,
)
_NODE: Final = struct.Struct("=?II")
"""Whether a block node, its major and minor number."""
_COUNT: Final = struct.Struct("=I")
_MOST_NODES: Final = 8192
_LONGEST: Final = 1 << 17
"""Bytes of a message: the longest reply has 65,535 and its sense data."""
_MOST_READINGS: Final = ReadingLimits().under_way
_MOST: Final = {_DEVICE: _MOST_READINGS, _NODES: 4, _RECORDS: 8}
"""Connections, by what is asked for: devices that hang keep nobody from the rest."""
_LONGEST_CDB: Final = 16
_LONGEST_WAIT_MS: Final = 60_000
_AT_ONCE: Final = 5.0
"""Seconds for what waits for no device: a connection, and the records of a proxy.  The agent's
event loop waits for the latter."""
_LOOK: Final = 60.0
"""Seconds to look at what every process of the host has open."""
_RECOVERY: Final = 300.0
"""Seconds that a command may take beyond its time limit, and that a device may take to be opened:
the kernel's error handler holds both, and so does a transport that waits for its target."""
_TEXT: Final = 400


class NoPlaceError(UnavailableError):
    """The helper has too much to do: that says nothing of the device."""


class _Lanes:
    """How many devices are served of each target port; for any thread.

    The kernel may hold a command for longer than the agent waits for it, so what the agent has
    under way does not tell.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._served: Counter[str] = Counter()

    @contextmanager
    def place(self, port: str) -> Iterator[bool]:
        """Whether there is one: of one target port at most as many as are left for others."""
        with self._lock:
            left = _MOST_READINGS - self._served.total()
            given = self._served[port] < left
            self._served[port] += given
        try:
            yield given
        finally:
            with self._lock:
                self._served[port] -= given
                if not self._served[port]:
                    del self._served[port]


@dataclass(frozen=True, slots=True)
class _Serving:
    """What all requests share.  directories: where proxies leave their records."""

    directories: Sequence[Path]
    lanes: _Lanes = field(default_factory=_Lanes)
    places: Mapping[bytes, threading.BoundedSemaphore] = field(
        default_factory=lambda: {
            what: threading.BoundedSemaphore(most) for what, most in _MOST.items()
        }
    )


def serve(link: socket.socket, directories: Sequence[Path] = ()) -> None:
    """Answer requests until the agent is gone.  directories: where proxies leave their records."""
    serving = _Serving(directories)
    while request := receive(link, _REQUEST.size + 1):
        given = _begun(request, serving)
        try:
            if given is None:
                link.send(_NONE)
            else:
                with given:
                    socket.send_fds(link, [_GIVEN], [given.fileno()])
        except OSError:
            return  # the agent is gone


def _begun(request: bytes, serving: _Serving) -> socket.socket | None:
    """Begin to answer on a thread; the agent's end of the connection, None where it cannot be."""
    places = serving.places.get(request[:1])
    if len(request) != _REQUEST.size or places is None or not places.acquire(blocking=False):
        return None
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError:  # no more descriptors
        places.release()
        return None
    work = (request, ours, serving, places)
    try:
        threading.Thread(target=_answer, args=work, name="prtrace", daemon=True).start()
    except RuntimeError:  # no more threads
        ours.close()
        theirs.close()
        places.release()
        return None
    return theirs


def _answer(
    request: bytes,
    connection: socket.socket,
    serving: _Serving,
    places: threading.BoundedSemaphore,
) -> None:
    what, block, major, minor = _REQUEST.unpack(request)
    try:
        with connection:
            if what == _DEVICE:
                _serve_device(connection, serving.lanes, block=block, major=major, minor=minor)
            elif what == _NODES:
                connection.send(_packed(nodes_in_use()))
            elif what == _RECORDS and major < len(serving.directories):
                _give_records(connection, serving.directories[major], newest=block)
    except OSError:
        pass  # the agent wants no answer any more
    finally:
        places.release()


def _serve_device(
    connection: socket.socket, lanes: _Lanes, *, block: bool, major: int, minor: int
) -> None:
    try:
        node, port = _node(block=block, major=major, minor=minor)
    except PrtraceError as error:
        connection.send(_refused(error))
        return
    with lanes.place(port) as given:
        if not given:
            why = f"{node}: target port {port} has not answered too many commands"
            connection.send(_refused(UnavailableError(why)))
            return
        try:
            device = SgDevice(node)
        except PrtraceError as error:
            connection.send(_refused(error))
            return
        with device:
            if os.fstat(device.fileno()).st_rdev != os.makedev(major, minor):
                gone = NoSuchDeviceError(f"{device.path} is another device now")
                connection.send(_refused(gone))
                return
            connection.send(_ANSWER.pack(_GOOD, 0, 0, 0, 0, 0, 0))
            while command := connection.recv(_COMMAND.size + 1):
                connection.send(_sent(device, command))


def _sent(device: SgDevice, command: bytes) -> bytes:
    try:
        cdb, room, limit = _parsed(command)
        reply = device.send(cdb, b"", room, limit)
    except PrtraceError as error:
        return _refused(error)
    head = _ANSWER.pack(
        _GOOD,
        reply.status,
        reply.host_status,
        reply.driver_status,
        reply.duration_ms,
        len(reply.sense),
        len(reply.received),
    )
    return head + reply.sense + reply.received


def _parsed(command: bytes) -> tuple[bytes, int, int]:
    """CDB, ALLOCATION LENGTH and time limit; UsageError for what the helper does not send."""
    if len(command) != _COMMAND.size:
        raise UsageError("no command that the helper knows")
    length, cdb, room, limit = _COMMAND.unpack(command)
    cdb = cdb[:length]
    if not is_reading(cdb, room) or not 0 < limit <= _LONGEST_WAIT_MS:
        raise UsageError(f"the helper does not send {cdb.hex()}")
    return cdb, room, limit


def is_reading(cdb: bytes, room: int) -> bool:
    """Whether a command with this CDB reads reservations, or which logical unit this is.

    room: the ALLOCATION LENGTH that it has to have, in bytes.
    """
    if len(cdb) == PR_IN_CDB.size and cdb[0] == Opcode.PR_IN:
        asked = PR_IN_CDB.parse(cdb)
        known = asked.byte_1 in {int(action.value) for action in InAction}
        return known and asked.allocation_length == room and not asked.control
    if len(cdb) == INQUIRY_CDB.size and cdb[0] == Opcode.INQUIRY:
        asked = INQUIRY_CDB.parse(cdb)
        page = asked.flags == EVPD and asked.page_code == PAGE_CODE
        return page and asked.allocation_length == room and not asked.control
    return False


def _node(*, block: bool, major: int, minor: int, sys: Path = SYS) -> tuple[str, str]:
    """The node of the SCSI device with this number, by the kernel's name, and its H:C:T."""
    entry = target(sys / "dev" / ("block" if block else "char") / f"{major}:{minor}")
    device = None if entry is None else target(entry / "device")
    subsystem = None if device is None else target(device / "subsystem")
    scsi = subsystem is not None and subsystem == target(sys / "bus/scsi")
    if entry is None or device is None or not scsi:
        raise NoSuchDeviceError(f"{major}:{minor} is no SCSI device here")
    lines = (read_bytes(entry / "uevent") or b"").splitlines()
    names = [line.removeprefix(b"DEVNAME=") for line in lines if line.startswith(b"DEVNAME=")]
    if len(names) != 1:
        raise NoSuchDeviceError(f"{major}:{minor} has no node")
    return "/dev/" + os.fsdecode(names[0]), device.name.rpartition(":")[0]


def _give_records(connection: socket.socket, directory: Path, *, newest: bool) -> None:
    """Send the descriptors of a directory and of the file in it, or the error's number."""
    try:
        place, fd = open_records(directory, NAME if newest else f"{NAME}.1")
    except OSError as error:
        connection.send(_COUNT.pack(error.errno or errno.EIO))
        return
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            connection.send(_COUNT.pack(errno.EPERM))
        else:
            socket.send_fds(connection, [_COUNT.pack(0)], [place, fd])
    finally:
        os.close(place)
        os.close(fd)


def _packed(nodes: Nodes) -> bytes:
    """The answer to _NODES: how many, each of them, and what could not be looked at."""
    numbers = [(kind == "block", *map(int, of.split(":"))) for kind, of in nodes.found]
    unseen = nodes.unseen
    if len(numbers) > _MOST_NODES:
        numbers, unseen = numbers[:_MOST_NODES], unseen or "more nodes are in use than are told"
    packed = b"".join(_NODE.pack(*each) for each in numbers)
    return _COUNT.pack(len(numbers)) + packed + clean(unseen, _TEXT).encode()


def _refused(error: PrtraceError) -> bytes:
    kind = _ERRORS.index(type(error)) if type(error) in _ERRORS else 0
    text = clean(error.message, _TEXT).encode()
    return _ANSWER.pack(kind, 0, 0, 0, 0, 0, len(text)) + text


class HeldDevice(NamedTuple):
    """A device that the helper has open for the agent: prtrace.linux.reader.Device."""

    path: str
    connection: socket.socket

    def send(self, cdb: bytes, data_out: bytes, room: int, timeout_ms: int) -> Reply:
        """Have a command sent; see SgDevice.send.

        Raises UsageError for what the helper does not send.
        """
        if data_out or not 6 <= len(cdb) <= _LONGEST_CDB:
            raise UsageError("the agent's helper sends commands that read")
        self.connection.send(_COMMAND.pack(len(cdb), cdb, room, timeout_ms))
        return _reply(self.path, self.connection, timeout_ms / 1000 + _RECOVERY)


class Helper:
    """The agent's side; for any of its threads.

    directories: as serve() has them.  patience: seconds for what waits for no device.
    """

    def __init__(
        self,
        link: socket.socket,
        directories: Sequence[Path] = (),
        *,
        patience: float = _AT_ONCE,
    ) -> None:
        self._link = link
        self._asking = threading.Lock()
        self._directories = tuple(directories)
        self._patience = patience
        self._owed = False
        """Whether an answer did not come in time: what comes next is that one."""

    def records(self, directory: Path, name: str) -> tuple[int, int]:
        """See prtrace.prhelper.attribution_reader.open_records."""
        place = self._directories.index(directory)
        with self._asked(_REQUEST.pack(_RECORDS, name == NAME, place, 0)) as connection:
            connection.settimeout(self._patience)
            answer, descriptors, _, _ = socket.recv_fds(connection, _COUNT.size, 2)
        code = _COUNT.unpack(answer)[0] if answer else errno.EAGAIN
        if code:
            raise OSError(code, os.strerror(code))
        directory_fd, fd = descriptors
        return directory_fd, fd

    def users(self, directory: Directory) -> Users:
        """See prtrace.linux.users.users_of; OSError where the helper is gone."""
        with self._asked(_REQUEST.pack(_NODES, False, 0, 0)) as connection:
            connection.settimeout(_LOOK)
            answer = connection.recv(_LONGEST)
        if not answer:
            raise UnavailableError("the agent's helper does not say which devices are open")
        (count,) = _COUNT.unpack_from(answer)
        end = _COUNT.size + count * _NODE.size
        found = frozenset(
            ("block" if block else "char", f"{major}:{minor}")
            for block, major, minor in _NODE.iter_unpack(answer[_COUNT.size : end])
        )
        return users_of(directory, nodes=Nodes(found, answer[end:].decode(errors="replace")))

    @contextmanager
    def open(self, node: str) -> Iterator[HeldDevice]:
        """Have the helper open a device; node: any name of it.  Errors are SgDevice's."""
        try:
            status = os.stat(node)
        except OSError as error:
            raise NoSuchDeviceError(f"{node}: {error.strerror}") from error
        number = os.major(status.st_rdev), os.minor(status.st_rdev)
        request = _REQUEST.pack(_DEVICE, stat.S_ISBLK(status.st_mode), *number)
        try:
            with self._asked(request) as connection:
                _reply(node, connection, _RECOVERY)
                yield HeldDevice(node, connection)
        except BlockingIOError as error:
            raise NoPlaceError(f"{node}: {error.strerror}") from error
        except OSError as error:
            raise UnavailableError(f"{node}: {error.strerror}") from error

    def _asked(self, request: bytes) -> socket.socket:
        """The connection for a request; OSError where the helper gives none, or not in time.

        Nobody waits for a helper that owes an answer: one that hangs holds up the agent once.
        """
        with self._asking:
            if self._owed:
                for late in self._answer(0):
                    os.close(late)
            self._link.settimeout(self._patience)
            self._link.send(request)
            self._owed = True
            descriptors = self._answer(self._patience)
        if len(descriptors) != 1:
            raise OSError(errno.EAGAIN, "the agent's helper has too much to do")
        return socket.socket(fileno=descriptors[0])

    def _answer(self, patience: float) -> list[int]:
        """The descriptors that come with the answer that is owed; OSError where none comes."""
        self._link.settimeout(patience)
        try:
            answer, descriptors, _, _ = socket.recv_fds(self._link, 1, 1)
        except (BlockingIOError, TimeoutError):
            raise OSError(errno.ETIMEDOUT, "the agent's helper does not answer") from None
        if not answer:
            raise OSError(errno.EPIPE, "the agent's helper ended")
        self._owed = False
        return descriptors


def _reply(node: str, connection: socket.socket, patience: float) -> Reply:
    connection.settimeout(patience)
    try:
        answer = connection.recv(_LONGEST)
    except TimeoutError:
        # The answer, should it come, is to no other command.
        connection.close()
        raise UnavailableError(
            f"{node}: the agent's helper has no answer from the device after {patience:.0f} s",
            hint="see the kernel's log for what becomes of the device's commands",
        ) from None
    if len(answer) < _ANSWER.size:
        raise UnavailableError(
            f"{node}: the agent's helper has closed the connection",
            hint="it has too much to do, or has ended: see the agent's log",
        )
    kind, status, host, driver, duration, sense, received = _ANSWER.unpack_from(answer)
    rest = answer[_ANSWER.size :]
    if kind != _GOOD:
        raise _ERRORS[kind](rest.decode(errors="replace"))
    return Reply(status, host, driver, rest[:sense], rest[sense : sense + received], duration)
