"""What a descriptor is that a client sent, found out without ever waiting for its sender.

fstat() of a file on a FUSE or network file system asks the server, which may never answer.
statx() with AT_STATX_DONT_SYNC takes what the kernel has at hand (statx(2)).

A nexus goes by up to two keys.  One is its address and the inode of the device's directory in
sysfs, which stands for one life of the kernel's scsi_device: an address can become another
device's.  The other is the logical unit and both ports, where they are known: a session that
logged in anew has another address and is the same nexus.  A disk, its sg node and every map over
it have a key in common.
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
from prtrace.linux.ports import InitiatorPorts
from prtrace.linux.sgio import SG_MAJOR
from prtrace.linux.sysfs import SYS, names, read_bytes, target
from prtrace.scsi import designator

_STATX_FLAGS: Final = 0x1000 | 0x4000
"""AT_EMPTY_PATH, AT_STATX_DONT_SYNC."""
_STATX_TYPE: Final = 0x0001
_WHAT: Final = "descriptor"


_STATX: Final = struct.Struct("=28xH98xII")
"""stx_mode, stx_rdev_major and stx_rdev_minor of struct statx (linux/stat.h)."""
_STATX_ROOM: Final = 256
_BLKGETDISKSEQ: Final = 0x80081280
_EIGHT: Final = bytes(8)
# Looked up once: the module stat is on every command's way.
_S_IFMT, _S_IFBLK, _S_IFCHR = 0o170000, stat.S_IFBLK, stat.S_IFCHR
_MOST_KNOWN: Final = 4096
# Not CDLL, which lets other threads run meanwhile: this call waits for nobody.
_libc: Any = ctypes.PyDLL(None, use_errno=True)
_statx: Any = _libc.statx
_statx.argtypes = (
    ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Node:
    """The device behind a descriptor."""

    number: str
    """"MAJOR:MINOR"."""
    block: bool
    """A block device, else an sg node."""
    multipath: bool = False
    """A dm-multipath map."""
    nexuses: tuple[str, ...] = ()
    """"H:C:T:L" of the device, of every path for a map; none where it is no SCSI device."""
    keys: tuple[str, ...] = ()
    """What its nexuses go by, sorted; the number alone where sysfs knows no SCSI device."""

    def life(self, nexus: str) -> str:
        """What the nexus's scsi_device goes by in keys, which no later one at its address does.

        The address alone where keys do not tell.
        """
        return next((key for key in self.keys if key.partition("#")[0] == nexus), nexus)

    @property
    def lu(self) -> str:
        """The logical unit's designator, "" where sysfs does not know one."""
        for nexus in self.nexuses:
            if name := _lu(SYS / "bus/scsi/devices" / nexus):
                return name
        return ""


_known: dict[tuple[int, int, int], tuple[object, Node]] = {}
"""By type and number, with what tells that the number still is the same device's."""


def read_only(fd: int) -> bool:
    """Whether the descriptor permits no writing (O_PATH included).  Raises OSError."""
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY


class Inspector:
    """Finds out what descriptors are, with a buffer that is used again; for one thread."""

    __slots__ = ("_at", "_buffer")

    def __init__(self) -> None:
        self._buffer = bytearray(_STATX_ROOM)
        self._at = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))

    def node_of(self, fd: int) -> Node:
        """The device behind the descriptor.

        Raises MalformedError where it is none that takes a command: no device node, a character
        device that is not the sg driver's, O_PATH, a partition; DeviceError where the kernel
        does not tell.
        """
        if _statx(fd, b"", _STATX_FLAGS, _STATX_TYPE, self._at):
            raise DeviceError(f"statx: {os.strerror(ctypes.get_errno())}")
        mode, major, minor = _STATX.unpack_from(self._buffer)
        kind = mode & _S_IFMT
        block = kind == _S_IFBLK
        if not block and (kind != _S_IFCHR or major != SG_MAJOR):
            raise MalformedError(_WHAT, "is neither a block device nor an sg node")
        life = _disk_number(fd) if block else _sg_life(major, minor)
        known = _known.get((kind, major, minor))
        if known is not None and known[0] == life:
            return known[1]
        try:
            if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH:
                raise MalformedError(_WHAT, "was opened with O_PATH")
        except OSError as error:
            raise DeviceError(f"F_GETFL: {error.strerror}") from error
        node = _scsi("block" if block else "char", f"{major}:{minor}")
        # A map can change below its number.
        if life and node.nexuses and not node.multipath:
            if len(_known) >= _MOST_KNOWN:
                _known.clear()
            _known[kind, major, minor] = life, node
        return node


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
        node = Inspector().node_of(fd)
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


def _sg_life(major: int, minor: int) -> int:
    """The inode of the sg node's directory in sysfs, which no other device gets; 0 for none."""
    try:
        return os.stat(f"{SYS}/dev/char/{major}:{minor}").st_ino
    except OSError:
        return 0


def _scsi(kind: str, number: str) -> Node:
    """The node with this number, as sysfs describes it now."""
    place = SYS / "dev" / kind / number
    block = kind == "block"
    if not place.exists():
        return Node(number, block, keys=(f"{kind} {number}",))
    if (place / "partition").exists():
        raise MalformedError(_WHAT, f"is the partition {number}")
    if (place / "dm").exists():
        return _map(number, place)
    nexus = _nexus(place)
    return Node(number, block, nexuses=nexus, keys=_keys(nexus) or (f"{kind} {number}",))


def _map(number: str, directory: Path) -> Node:
    """A device-mapper node, which is a multipath map, or refused."""
    slaves = directory / "slaves"
    paths = tuple(nexus for disk in names(slaves) for nexus in _nexus(slaves / disk))
    if not is_multipath(directory):
        raise MalformedError(_WHAT, f"is the volume {number}, not a multipath map")
    units = {Node(number, True, nexuses=(nexus,)).lu for nexus in paths} - {""}
    if len(units) > 1:
        raise MalformedError(_WHAT, f"is the map {number} over several logical units")
    return Node(number, True, True, paths, _keys(paths) or (f"block {number}",))


def _nexus(directory: Path) -> tuple[str, ...]:
    device = target(directory / "device")
    return () if device is None else (device.name,)


def _keys(nexuses: tuple[str, ...]) -> tuple[str, ...]:
    """What the nexuses go by."""
    ports = InitiatorPorts()
    found = set()
    for nexus in nexuses:
        device = target(SYS / "bus/scsi/devices" / nexus)
        if device is None:
            found.add(nexus)
            continue
        try:
            found.add(f"{nexus}#{device.stat().st_ino}")
        except OSError as error:
            raise DeviceError(f"{nexus} has gone: {error.strerror}") from error
        initiator = ports.of(nexus, device).text
        there = _target_port(device)
        if initiator and there and (lu := _lu(device)):
            found.add(f"{lu} {initiator} {there}")
    return tuple(sorted(found))


def _lu(device: Path) -> str:
    """The logical unit's designator, "" where the device's directory in sysfs has none."""
    page = read_bytes(device / "vpd_pg83")
    try:
        return designator.lu_name(page) if page else ""
    except MalformedError:
        return ""


def _target_port(device: Path) -> str:
    """The target port's name, "" where it is unknown: another may have its relative number."""
    try:
        return designator.target_port(read_bytes(device / "vpd_pg83") or b"") or ""
    except MalformedError:
        return ""
