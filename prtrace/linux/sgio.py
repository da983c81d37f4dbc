"""SCSI commands by SG_IO, interface version 3 (include/uapi/scsi/sg.h).

SgIo has the buffers of one thread and sends through any descriptor.  SgDevice is an open node and
sends with the calling thread's SgIo.  Nothing here reads a clock, a store or sysfs: bytes go down,
a Reply comes back.

A block node is the better issue path for PERSISTENT RESERVE OUT: its SG_IO waits without being
interruptible.  The sg driver's wait ends with -ERESTARTSYS on any signal, and the system
call is then restarted, which sends the command a second time (drivers/scsi/sg.c,
sg_ioctl_common).  Signals must therefore be blocked in the thread while a command runs: SgDevice
blocks them for each command, a thread that uses SgIo itself blocks them once.  Stopping the
process (SIGSTOP) cannot be blocked.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import stat
import struct
import threading
from typing import Any, Final, NamedTuple, NoReturn

from prtrace.errors import (
    ConflictError,
    DeviceError,
    MalformedError,
    NoSuchDeviceError,
    UnavailableError,
    UsageError,
)
from prtrace.linux.closing import Descriptor
from prtrace.model import Outcome
from prtrace.scsi.codes import Status
from prtrace.scsi.sense import Sense

SG_IO: Final = 0x2285
SG_GET_VERSION_NUM: Final = 0x2282
SG_DXFER_NONE: Final = -1
SG_DXFER_TO_DEV: Final = -2
SG_DXFER_FROM_DEV: Final = -3

DEFAULT_TIMEOUT_MS: Final = 60_000
"""Long: a timeout makes the kernel abort the command and, failing that, reset the device."""

SG_MAJOR: Final = 21
_CDB_SIZE: Final = 16
_SENSE_SIZE: Final = 252
_MAX_TRANSFER: Final = 1 << 20
_ROOM: Final = 8192
_SLACK: Final = 4096
"""Behind every reply's buffer.  LIO's READ FULL STATUS (core_scsi3_pri_read_full_status) compares
the TransportID's length alone with the room that is left, and writes a whole descriptor: with an
ALLOCATION LENGTH of 24 it goes 32 bytes too far, into this process's memory where the kernel maps
its pages."""

_STATUS_MASK: Final = 0x7E  # SAM-2 left bits 0 and 7 of the status byte to the vendor

_SIGSET_SIZE: Final = 128  # sigset_t of glibc
_ALL_SIGNALS: Final = b"\xff" * _SIGSET_SIZE
_libc: Any = ctypes.CDLL(None)

_REFUSED: Final = frozenset({Status.BUSY, Status.TASK_SET_FULL})

_DID_OK: Final = 0x00
_DID_NEXUS_FAILURE: Final = 0x11  # kernels before 6.0 add it to RESERVATION CONFLICT
_DRIVER_SENSE: Final = 0x08  # "the sense data is valid", no fault


class SgIoHdr(ctypes.Structure):
    """struct sg_io_hdr, 88 bytes on 64-bit machines."""

    _fields_ = (
        ("interface_id", ctypes.c_int),
        ("dxfer_direction", ctypes.c_int),
        ("cmd_len", ctypes.c_ubyte),
        ("mx_sb_len", ctypes.c_ubyte),
        ("iovec_count", ctypes.c_ushort),
        ("dxfer_len", ctypes.c_uint),
        ("dxferp", ctypes.c_void_p),
        ("cmdp", ctypes.c_void_p),
        ("sbp", ctypes.c_void_p),
        ("timeout", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("pack_id", ctypes.c_int),
        ("usr_ptr", ctypes.c_void_p),
        ("status", ctypes.c_ubyte),
        ("masked_status", ctypes.c_ubyte),
        ("msg_status", ctypes.c_ubyte),
        ("sb_len_wr", ctypes.c_ubyte),
        ("host_status", ctypes.c_ushort),
        ("driver_status", ctypes.c_ushort),
        ("resid", ctypes.c_int),
        ("duration", ctypes.c_uint),
        ("info", ctypes.c_uint),
    )


class Reply(NamedTuple):
    """What came back for one command."""

    status: int
    """SAM status byte."""
    host_status: int
    """The kernel's DID_* byte."""
    driver_status: int
    """The kernel's DRIVER_* byte."""
    sense: bytes
    received: bytes
    """No more bytes than the driver says were transferred.  A driver that keeps no residual count
    leaves zeros at the end, so decoders go by the lengths inside."""
    duration_ms: int

    @property
    def transport_fault(self) -> bool:
        """Whether the host adapter or a driver, not the device, decided the outcome."""
        conflict = self.status == Status.RESERVATION_CONFLICT
        host_fine = self.host_status == _DID_OK or (
            conflict and self.host_status == _DID_NEXUS_FAILURE
        )
        return not host_fine or self.driver_status & ~_DRIVER_SENSE != 0

    @property
    def conflict(self) -> bool:
        """Whether the device answered RESERVATION CONFLICT."""
        return self.outcome is Outcome.CONFLICT

    @property
    def attention(self) -> bool:
        """Whether a unit attention was delivered instead of executing the command."""
        return self.checked and _is_attention(self.sense)

    @property
    def checked(self) -> bool:
        """Whether the device answered CHECK CONDITION, so that its sense data says why."""
        return not self.transport_fault and self.status == Status.CHECK_CONDITION

    @property
    def outcome(self) -> Outcome:
        """What became of the command's effect; UNKNOWN whenever the transport failed."""
        return self.outcome_where(attention=self.attention)

    def outcome_where(self, *, attention: bool) -> Outcome:
        """As outcome, where another process has looked into the sense data."""
        if self.transport_fault:
            return Outcome.UNKNOWN
        if self.status == Status.GOOD:
            return Outcome.DONE
        if self.status == Status.RESERVATION_CONFLICT:
            return Outcome.CONFLICT
        if self.status in _REFUSED or attention:
            return Outcome.NOT_EXECUTED
        return Outcome.UNKNOWN

    @property
    def text(self) -> str:
        """The raw figures, for messages and logs."""
        words = [f"status 0x{self.status:02x}"]
        if self.host_status:
            words.append(f"host byte 0x{self.host_status:02x}")
        if self.driver_status & ~_DRIVER_SENSE:
            words.append(f"driver byte 0x{self.driver_status:02x}")
        if self.sense:
            words.append(f"sense {self.sense[:32].hex()}")
        return ", ".join(words)

    def expect_good(self, what: str) -> bytes:
        """The received bytes, where the command was executed with GOOD.

        what names the command in the message.  Raises ConflictError for RESERVATION
        CONFLICT and DeviceError for everything else.
        """
        match self.outcome:
            case Outcome.DONE:
                return self.received
            case Outcome.CONFLICT:
                raise ConflictError(f"{what}: RESERVATION CONFLICT")
            case Outcome.NOT_EXECUTED:
                raise DeviceError(f"{what}: the device did not execute it ({self.text})")
            case Outcome.UNKNOWN:
                raise DeviceError(f"{what}: failed, its effect is unknown ({self.text})")


_ASKED: Final = struct.Struct("@iiBBHIPPPII")
"""The fields of SgIoHdr from interface_id to flags; checked against it by a test."""
_ANSWERED: Final = struct.Struct("@BxxBHHiI")
"""Those from status to duration, without masked_status and msg_status."""
_ANSWERED_AT: Final = SgIoHdr.status.offset
_INTERFACE: Final = ord("S")


class SgIo:
    """SG_IO with buffers that are used again: one command at a time, for one thread."""

    __slots__ = ("_cdb", "_cdb_at", "_data", "_data_at", "_header", "_sense", "_sense_at")

    def __init__(self) -> None:
        self._cdb = ctypes.create_string_buffer(_CDB_SIZE)
        self._cdb_at = ctypes.addressof(self._cdb)
        self._sense = ctypes.create_string_buffer(_SENSE_SIZE)
        self._sense_at = ctypes.addressof(self._sense)
        self._header = bytearray(ctypes.sizeof(SgIoHdr))
        self._data, self._data_at = _pages(_ROOM)

    def send(
        self,
        fd: int,
        cdb: bytes,
        data_out: bytes = b"",
        room: int = 0,
        timeout_ms: int = DEFAULT_TIMEOUT_MS,
        transfer: int = 0,
    ) -> Reply:
        """Send a command through an open node.

        Either data_out is sent, or at most room bytes of a reply are received, or neither.
        transfer: the size in bytes that the kernel is told of a reply's buffer, where that is to
        be more than room.  Raises UsageError (impossible sizes) and OSError, after which the
        outcome is unknown.
        """
        if not 6 <= len(cdb) <= _CDB_SIZE:
            raise UsageError(f"a CDB has 6 to {_CDB_SIZE} bytes, not {len(cdb)}")
        size = room if room < 0 else len(data_out) or max(room, transfer)
        if not 0 <= size <= _MAX_TRANSFER:
            raise UsageError(f"a transfer has 0 to {_MAX_TRANSFER} bytes, not {size}")
        if size > len(self._data) - _SLACK:
            self._data, self._data_at = _pages(size)
        if data_out:
            direction = SG_DXFER_TO_DEV
            self._data[:size] = data_out
        elif size:
            direction = SG_DXFER_FROM_DEV
            # What an earlier command was answered is not left where a driver transfers less
            # than it says.
            self._data[:room] = bytes(room)
        else:
            direction = SG_DXFER_NONE
        self._cdb.raw = cdb
        header = self._header
        _ASKED.pack_into(
            header, 0, _INTERFACE, direction, len(cdb), _SENSE_SIZE, 0, size,
            self._data_at if size else 0, self._cdb_at, self._sense_at, timeout_ms, 0,
        )  # fmt: skip
        _ANSWERED.pack_into(header, _ANSWERED_AT, 0, 0, 0, 0, 0, 0)
        fcntl.ioctl(fd, SG_IO, header)
        status, sense_size, host, driver, resid, duration = _ANSWERED.unpack_from(
            header, _ANSWERED_AT
        )
        arrived = min(size - min(max(resid, 0), size), room)
        written = min(sense_size, _SENSE_SIZE)
        return Reply(
            status & _STATUS_MASK,
            host,
            driver,
            self._sense.raw[:written] if written else b"",
            self._data[:arrived] if arrived else b"",
            duration,
        )


def _pages(size: int) -> tuple[mmap.mmap, int]:
    """Memory for a transfer, and its address.

    Whole pages: the kernel maps them into the request, and need not copy.  Private ones: what
    is mapped without that flag stays common to a process and those that it forks, and one would
    read the other's reply, or send its parameter list.
    """
    memory = mmap.mmap(-1, size + _SLACK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return memory, ctypes.addressof(ctypes.c_char.from_buffer(memory))


class _Own(threading.local):
    """Each thread's own buffers."""

    def __init__(self) -> None:
        self.io = SgIo()


_own = _Own()


class SgDevice(Descriptor):
    """An open block or sg node of a SCSI device; a context manager that closes it.

    Opened read-only: CAP_SYS_RAWIO permits every command all the same, a write-protected
    disk can be opened, and closing does not make udev probe the disk again, which would
    collect the unit attentions that belong to others.  O_NONBLOCK: the sg driver would
    otherwise wait for the holder of an exclusive open.

    Raises NoSuchDeviceError (no such node, device gone, no SCSI node), UnavailableError
    (not permitted) and DeviceError (anything else).
    """

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1
        try:
            _require_scsi_node(path, os.stat(path))
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            _raise(path, "cannot be opened", error)
        try:
            # Between stat and open the name can have moved to another node.
            _require_scsi_node(path, os.fstat(fd))
            version = fcntl.ioctl(fd, SG_GET_VERSION_NUM, b"\0\0\0\0")
        except OSError as error:
            os.close(fd)
            _raise(path, "takes no SCSI commands", error)
        except NoSuchDeviceError:
            os.close(fd)
            raise
        if int.from_bytes(version, "little") < 30_000:
            os.close(fd)
            raise NoSuchDeviceError(f"{path} does not speak version 3 of SG_IO")
        self._fd = fd

    def fileno(self) -> int:
        """The descriptor, which stays this object's."""
        return self._fd

    def send(
        self,
        cdb: bytes,
        data_out: bytes = b"",
        room: int = 0,
        timeout_ms: int = DEFAULT_TIMEOUT_MS,
    ) -> Reply:
        """Send a command with data_out, or one that fills at most room bytes, or neither.

        room should be the CDB's ALLOCATION LENGTH.  Any error but UsageError (impossible sizes,
        closed device) and UnavailableError leaves the outcome unknown; errors are the class's.
        """
        if self._fd < 0:
            raise UsageError(f"{self.path} is closed")
        # By libc: Python's own takes 60 us to make a set of enumeration members, twice.
        unblocked = ctypes.create_string_buffer(_SIGSET_SIZE)
        _libc.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS, unblocked)
        try:
            return _own.io.send(self._fd, cdb, data_out, room, timeout_ms)
        except OSError as error:
            # The sg driver also says ENODEV for a command that was under way.
            _raise(self.path, "did not answer, the outcome is unknown", error)
        finally:
            _libc.pthread_sigmask(signal.SIG_SETMASK, unblocked, None)


def _is_attention(raw: bytes) -> bool:
    """Whether sense data says UNIT ATTENTION, about this command and not an earlier one."""
    try:
        return Sense.parse(raw).attention
    except MalformedError:
        return False


def _require_scsi_node(path: str, status: os.stat_result) -> None:
    """Refuse what must not even be opened: opening some character devices has effects."""
    if stat.S_ISBLK(status.st_mode):
        return
    if not stat.S_ISCHR(status.st_mode):
        raise NoSuchDeviceError(
            f"{path} is no device node", hint="name a disk or sg node, as /dev/sda or /dev/sg0"
        )
    if os.major(status.st_rdev) != SG_MAJOR:
        raise NoSuchDeviceError(
            f"{path} is neither a block node nor an sg node",
            hint="name the disk or sg node of the same device (lsscsi -g lists them)",
        )


def _raise(path: str, problem: str, error: OSError) -> NoReturn:
    message = f"{path} {problem}: {os.strerror(error.errno or 0)}"
    match error.errno:
        case errno.ENOENT | errno.ENODEV | errno.ENXIO | errno.ENOTDIR:
            raise NoSuchDeviceError(
                message, hint="the device is gone or was never here"
            ) from error
        case errno.ENOTTY:
            raise NoSuchDeviceError(
                message, hint="it is no SCSI device: name a SCSI disk or its sg node"
            ) from error
        case errno.EACCES | errno.EPERM:
            raise UnavailableError(
                message, hint="run as root, or with CAP_SYS_RAWIO and access to the node"
            ) from error
        case _:
            raise DeviceError(message) from error
