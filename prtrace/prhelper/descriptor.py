"""What a descriptor is that a client sent, found out without ever waiting for its sender.

fstat() of a file on a FUSE or network file system asks the server, which may never answer.
statx() with AT_STATX_DONT_SYNC takes what the kernel has at hand (statx(2)).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from prtrace.errors import DeviceError, MalformedError
from prtrace.linux.multipath import is_multipath
from prtrace.linux.sgio import SG_MAJOR
from prtrace.linux.sysfs import SYS, names, read_bytes, target
from prtrace.scsi import designator

_STATX_FLAGS: Final = 0x1000 | 0x4000
"""AT_EMPTY_PATH, AT_STATX_DONT_SYNC."""
_STATX_TYPE: Final = 0x0001
_WHAT: Final = "descriptor"


_STATX: Final = struct.Struct("=28xH98xII")
"""stx_mode, stx_rdev_major and stx_rdev_minor of struct statx (linux/stat.h)."""
_Statx: Final = ctypes.c_char * 256
_BLKGETDISKSEQ: Final = 0x80081280
_EIGHT: Final = bytes(8)
# As plain numbers, and not by calls: these are on every command's way.
_S_IFMT, _S_IFBLK, _S_IFCHR = 0o170000, int(stat.S_IFBLK), int(stat.S_IFCHR)
_MOST_KNOWN: Final = 4096
# Not CDLL, which lets other threads run meanwhile: this call waits for nobody.
_libc: Any = ctypes.PyDLL(None, use_errno=True)
_statx: Any = _libc.statx
_statx.argtypes = (
    ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p
)  # fmt: skip


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


_known: dict[tuple[int, int], tuple[bytes, Node]] = {}


def read_only(fd: int) -> bool:
    """Whether the descriptor permits no writing (O_PATH included).  Raises OSError."""
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY


def node_of(fd: int) -> Node:
    """The device behind the descriptor.

    Raises MalformedError where it is none that takes a command: no device node, a character
    device that is not the sg driver's, O_PATH, a partition; DeviceError where the kernel does
    not tell.
    """
    found = _Statx()
    if _statx(fd, b"", _STATX_FLAGS, _STATX_TYPE, found):
        raise DeviceError(f"statx: {os.strerror(ctypes.get_errno())}")
    mode, major, minor = _STATX.unpack_from(found)
    kind = mode & _S_IFMT
    if kind == _S_IFBLK:
        known = _known.get((major, minor))
        if known is not None and known[0] == _disk_number(fd):
            return known[1]
    try:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH:
            raise MalformedError(_WHAT, "was opened with O_PATH")
    except OSError as error:
        raise DeviceError(f"F_GETFL: {error.strerror}") from error
    number = f"{major}:{minor}"
    if kind == _S_IFBLK:
        node = _scsi("block", number)
        disk = _disk_number(fd)
        # Only a map can change below its number.
        if disk and not node.multipath and node.nexuses:
            if len(_known) >= _MOST_KNOWN:
                _known.clear()
            _known[major, minor] = disk, node
        return node
    if kind == _S_IFCHR and major == SG_MAJOR:
        return _scsi("char", number)
    raise MalformedError(_WHAT, "is neither a block device nor an sg node")


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


def _disk_number(fd: int) -> bytes:
    """The kernel's number for the disk, which no other disk gets; b"" before Linux 5.15.

    A device number can become another disk's, this one cannot.
    """
    try:
        return fcntl.ioctl(fd, _BLKGETDISKSEQ, _EIGHT)
    except OSError:
        return b""


def _scsi(kind: str, number: str) -> Node:
    """The node with this number, as sysfs describes it now."""
    place = SYS / "dev" / kind / number
    if not place.exists():
        return Node(number, kind == "block")
    if (place / "partition").exists():
        raise MalformedError(_WHAT, f"is the partition {number}")
    if (place / "dm").exists():
        return _map(number, place)
    return Node(number, kind == "block", nexuses=_nexus(place))


def _map(number: str, directory: Path) -> Node:
    """A device-mapper node, which is a multipath map, or refused."""
    slaves = directory / "slaves"
    paths = tuple(nexus for disk in names(slaves) for nexus in _nexus(slaves / disk))
    if not is_multipath(directory):
        raise MalformedError(_WHAT, f"is the volume {number}, not a multipath map")
    units = {Node(number, True, nexuses=(nexus,)).lu for nexus in paths} - {""}
    if len(units) > 1:
        raise MalformedError(_WHAT, f"is the map {number} over several logical units")
    return Node(number, True, True, paths)


def _nexus(directory: Path) -> tuple[str, ...]:
    device = target(directory / "device")
    return () if device is None else (device.name,)
