"""What a descriptor is that a client sent, found out without ever waiting for its sender.

fstat() of a file on a FUSE or network file system asks the server, which may never answer.
statx() with AT_STATX_DONT_SYNC takes what the kernel has at hand (statx(2)).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from prtrace.errors import DeviceError, MalformedError
from prtrace.host.sysfs import SYS, names, read_bytes, read_text, target
from prtrace.scsi import designator

if TYPE_CHECKING:
    from pathlib import Path

_AT_EMPTY_PATH: Final = 0x1000
_AT_STATX_DONT_SYNC: Final = 0x4000
_STATX_TYPE: Final = 0x0001
_SG_MAJOR: Final = 21
_WHAT: Final = "descriptor"


class _Statx(ctypes.Structure):
    """struct statx (linux/stat.h), as far as it is looked at; 256 bytes in all."""

    _fields_ = (
        ("mask", ctypes.c_uint32),
        ("blksize", ctypes.c_uint32),
        ("attributes", ctypes.c_uint64),
        ("nlink", ctypes.c_uint32),
        ("uid", ctypes.c_uint32),
        ("gid", ctypes.c_uint32),
        ("mode", ctypes.c_uint16),
        ("spare0", ctypes.c_uint16),
        ("ino", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("blocks", ctypes.c_uint64),
        ("attributes_mask", ctypes.c_uint64),
        ("times", ctypes.c_uint64 * 8),
        ("rdev_major", ctypes.c_uint32),
        ("rdev_minor", ctypes.c_uint32),
        ("spare", ctypes.c_uint64 * 15),
    )


_MOST_KNOWN: Final = 4096
_libc: Any = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Node:
    """The device behind a descriptor.

    number: "MAJOR:MINOR".  block: a block device, else an sg node.  multipath: a dm-multipath
    map.  nexuses: "H:C:T:L" of the device, of all its paths for a map; none where sysfs does
    not know it as SCSI.
    """

    number: str
    block: bool
    multipath: bool = False
    nexuses: tuple[str, ...] = ()

    @property
    def lu(self) -> str:
        """The logical unit's designator, "" where sysfs does not know one."""
        for nexus in self.nexuses:
            page = read_bytes(SYS / "bus/scsi/devices" / nexus / "vpd_pg83")
            try:
                name = designator.lu_name(page) if page else ""
            except MalformedError:
                name = ""
            if name:
                return name
        return ""


_known: dict[tuple[str, str], tuple[str, Node]] = {}


def read_only(fd: int) -> bool:
    """Whether the descriptor permits no writing (O_PATH included).  Raises OSError."""
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY


def node_of(fd: int) -> Node:
    """The device behind the descriptor.

    Raises MalformedError where it is none that takes a command: no device node, a character
    device that is not the sg driver's, O_PATH, a partition; DeviceError where the kernel does
    not tell.
    """
    try:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH:
            raise MalformedError(_WHAT, "was opened with O_PATH")
    except OSError as error:
        raise DeviceError(f"F_GETFL: {error.strerror}") from error
    found = _Statx()
    flags = _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC
    if _libc.statx(fd, b"", flags, _STATX_TYPE, ctypes.byref(found)):
        raise DeviceError(f"statx: {os.strerror(ctypes.get_errno())}")
    kind = stat.S_IFMT(found.mode)
    number = f"{found.rdev_major}:{found.rdev_minor}"
    if kind == stat.S_IFCHR and found.rdev_major == _SG_MAJOR:
        return _scsi("char", number)
    if kind != stat.S_IFBLK:
        raise MalformedError(_WHAT, "is neither a block device nor an sg node")
    return _scsi("block", number)


def open_path(nexus: str) -> int:
    """Open the disk node of one path of a map, read-write; the new descriptor.

    Raises DeviceError where the path has gone or may not be opened.
    """
    disk = next(iter(names(SYS / "bus/scsi/devices" / nexus / "block")), "")
    if not disk:
        raise DeviceError(f"{nexus} has no disk node")
    try:
        fd = os.open(f"/dev/{disk}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise DeviceError(f"/dev/{disk}: {error.strerror}") from error
    try:
        node = node_of(fd)
    except MalformedError as error:
        os.close(fd)
        raise DeviceError(f"/dev/{disk}: {error.message}") from error
    if nexus not in node.nexuses:
        os.close(fd)
        raise DeviceError(f"/dev/{disk} is not {nexus}")
    return fd


def _scsi(kind: str, number: str) -> Node:
    """The node with this number, as sysfs describes it now.

    What /sys/dev/KIND/NUMBER leads to names the device's address and the partition, if it is
    one, so as long as it leads there the answer is the same.  Only a map can change below it.
    """
    place = SYS / "dev" / kind / number
    try:
        leads_to = os.readlink(f"{SYS}/dev/{kind}/{number}")
    except OSError:
        return Node(number, kind == "block")
    known = _known.get((kind, number))
    if known is not None and known[0] == leads_to:
        return known[1]
    if (place / "partition").exists():
        raise MalformedError(_WHAT, f"is the partition {number}")
    if (place / "dm").exists():
        return _map(number, place)
    node = Node(number, kind == "block", nexuses=_nexus(place))
    if len(_known) >= _MOST_KNOWN:
        _known.clear()
    _known[kind, number] = leads_to, node
    return node


def _map(number: str, directory: Path) -> Node:
    """A device-mapper node, which is a multipath map, or refused."""
    slaves = directory / "slaves"
    paths = tuple(nexus for disk in names(slaves) for nexus in _nexus(slaves / disk))
    uuid = read_text(directory / "dm/uuid") or ""
    # A map made by hand has no uuid: it is one where all its disks are one logical unit.
    if not uuid.startswith("mpath-"):
        units = {Node(number, True, nexuses=(nexus,)).lu for nexus in paths}
        if uuid or not paths or len(units) != 1 or "" in units:
            raise MalformedError(_WHAT, f"is the volume {number}, not a multipath map")
    return Node(number, True, True, paths)


def _nexus(directory: Path) -> tuple[str, ...]:
    device = target(directory / "device")
    return () if device is None else (device.name,)
