"""Reading sysfs and configfs, where every file can vanish between two system calls.

Absent is None, never an exception: a path that does not exist, an attribute whose device
was removed while it was read (ENODEV, ENXIO, EIO), and one that the device does not fill
(EINVAL: drivers/scsi/scsi_sysfs.c, the vpd_* attributes).  What the process may not read is
not absent: UnavailableError.  Everything else is a DeviceError.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from prtrace.errors import DeviceError, UnavailableError
from prtrace.linux.text import clean

SYS: Final = Path("/sys")

_ABSENT: Final = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ENODEV,
        errno.ENXIO,
        errno.EIO,
        errno.EINVAL,
        errno.EOPNOTSUPP,
    }
)
_LIMIT: Final = 1 << 16  # a VPD page has at most 65,535 bytes, a text attribute one page
_LEAST_PAGE: Final = 4096
"""Bytes of the smallest page of any processor."""


def read_bytes(path: Path | str) -> bytes | None:
    """The attribute's content, at most 64 KiB of it; None where absent.

    path: a text where it is put together for each of many readings, because a Path takes longer to
    make than the attribute to read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        _require_absent(path, error)
        return None
    try:
        return _read_all(fd)
    except OSError as error:
        _require_absent(path, error)
        return None
    finally:
        os.close(fd)


def read_text(path: Path | str, limit: int = 4096) -> str | None:
    """The attribute as one cleaned text without surrounding blanks; None where absent.

    path: as read_bytes.
    """
    raw = read_bytes(path)
    if raw is None:
        return None
    return clean(raw.decode("utf-8", "surrogateescape").strip(" \t\n\0"), limit)


def names(path: Path) -> tuple[str, ...]:
    """The directory's entries, sorted; none where it is absent."""
    try:
        return tuple(sorted(os.listdir(path)))
    except OSError as error:
        _require_absent(path, error)
        return ()


def target(path: Path) -> Path | None:
    """What the symbolic link (or path) leads to, with every link resolved; None where absent."""
    try:
        return path.resolve(strict=True)
    except OSError as error:
        _require_absent(path, error)
        return None


def inode(path: Path) -> int:
    """The inode number that path leads to; 0 where absent.

    sysfs gives each directory a number of its own (fs/kernfs/dir.c __kernfs_new_node: a cyclic
    counter with a generation above it), so a device that is made anew has another one.
    """
    try:
        return os.stat(path).st_ino
    except OSError as error:
        _require_absent(path, error)
        return 0


def _read_all(fd: int) -> bytes:
    """A read() gives what is left, of a binary attribute at most a page (fs/kernfs/file.c,
    kernfs_file_read_iter; fs/configfs/file.c, configfs_read_iter): after one that gave less than
    was asked for nothing is left, and no further one is needed to hear so.
    """
    whole = part = os.read(fd, _LEAST_PAGE)
    while len(part) == _LEAST_PAGE and len(whole) < _LIMIT:
        part = os.read(fd, _LEAST_PAGE)
        whole += part
    return whole


def _require_absent(path: Path | str, error: OSError) -> None:
    """Raise for an error that does not mean "not there"."""
    if error.errno in _ABSENT:
        return
    message = f"{path} cannot be read: {os.strerror(error.errno or 0)}"
    if error.errno in (errno.EACCES, errno.EPERM):
        raise UnavailableError(message, hint="run as root") from error
    raise DeviceError(message) from error
