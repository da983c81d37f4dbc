"""Device nodes by names that somebody else chose, without leaving the file system of /dev.

Looking at a path can hang for ever (a network file system whose server is gone), or tell
its existence to whom it does not concern.  So a name is walked a part at a time: no part may
lie in another file system, /dev/shm among them, where anybody can make links, and no link may
lead out.  openat2(2) could do that at once, but systemd's RestrictSUIDSGID= forbids it.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from typing import Final

from prtrace.errors import NoSuchDeviceError
from prtrace.linux.text import clean

_DEV: Final = "/dev"
NAMING: Final = "name a disk, sg or multipath node, an address H:C:T:L, or a designator (naa.…)"
_MOST_LINKS: Final = 40  # as the kernel has it: MAXSYMLINKS
_MOST_PARTS: Final = 64
"""Of a name, links' targets included; the names that udev makes have up to 4."""
_HOW: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def stat_below_dev(name: str, dev: str = _DEV) -> os.stat_result:
    """The node's status; it is not opened.  NoSuchDeviceError for anything not below /dev.

    Holds a descriptor for each folder between dev and the part that is looked at, and so at most
    as many as a name may have parts.
    """
    if not name.startswith(f"{dev}/"):
        raise _nothing(name, dev)
    folders: list[int] = []
    try:
        return _walked(dev, name[len(dev) + 1 :], folders)
    except (OSError, ValueError) as error:
        raise _nothing(name, dev) from error
    finally:
        for folder in folders:
            os.close(folder)


def _walked(dev: str, rest: str, folders: list[int]) -> os.stat_result:
    """The status of what rest leads to from dev; ValueError where it leads elsewhere.

    folders: those that are open when it is found, for the caller to close.
    """
    folders.append(os.open(dev, _HOW))
    status = here = os.fstat(folders[0])
    parts = deque(rest.split("/"))
    links = walked = 0
    while parts:
        part = parts.popleft()
        if part in ("", "."):
            continue
        walked += 1
        if walked > _MOST_PARTS:
            raise ValueError("it has too many parts")
        if part == "..":
            os.close(folders.pop())
            if not folders:
                raise ValueError("it leads out")
            continue
        fd = os.open(part, _HOW, dir_fd=folders[-1])
        folders.append(fd)
        status = os.fstat(fd)
        if status.st_dev != here.st_dev:
            raise ValueError("it is in another file system")
        if stat.S_ISDIR(status.st_mode):
            continue
        if stat.S_ISLNK(status.st_mode):
            links += 1
            target = os.readlink("", dir_fd=fd)
            if links > _MOST_LINKS or target.startswith("/"):
                raise ValueError("it is a link that leads out")
            parts.extendleft(reversed(target.split("/")))
        elif parts:
            raise NotADirectoryError(part)
        os.close(folders.pop())
    return status


def _nothing(name: str, dev: str) -> NoSuchDeviceError:
    return NoSuchDeviceError(
        f"{clean(name, 200)} is no node below {dev}",
        hint=NAMING,
    )
