"""Which folders a process may still read and write: landlock(7), Linux 5.13 and later.

File modes alone leave every process /tmp, /dev/shm and whatever else everybody may write to, and
every file that everybody may read.  What is open already stays usable.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from prtrace.linux.libc import checked, library, no_new_privileges

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every machine
_VERSION: Final = 1  # LANDLOCK_CREATE_RULESET_VERSION
_BENEATH: Final = 1  # LANDLOCK_RULE_PATH_BENEATH

_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_FIRST: Final = (1 << 13) - 1
"""Every right of the first version: execute, write, read, remove and make of each kind."""
_REFER: Final = 1 << 13  # since the second version
_TRUNCATE: Final = 1 << 14  # since the third
_READ: Final = _READ_FILE | _READ_DIR
_KEEP: Final = _READ | _WRITE_FILE | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | _TRUNCATE
"""Reading and writing, removing and making of files and folders, making of sockets."""
_OF_FILES: Final = _WRITE_FILE | _READ_FILE | _TRUNCATE
_RULE: Final = struct.Struct("=Qi")
"""struct landlock_path_beneath_attr, which is packed."""

_ABSENT: Final = frozenset({errno.ENOSYS, errno.EOPNOTSUPP})


def restrict(readable: Iterable[Path], writable: Iterable[Path]) -> bool:
    """Let this process open files below these folders (or these files) only, for good.

    Nothing may be executed.  A folder that is not there is left out.  Returns False, and changes
    nothing, where the kernel has no Landlock.  Raises OSError where it has and refuses.
    """
    libc = library()
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    if version < 0:
        code = ctypes.get_errno()
        if code in _ABSENT:
            return False
        raise OSError(code, f"landlock: {os.strerror(code)}")
    handled = _FIRST | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    wanted = ctypes.c_uint64(handled)
    rules = _called(libc, _CREATE_RULESET, ctypes.byref(wanted), ctypes.c_size_t(8), 0)
    try:
        for rights, places in ((_READ, readable), (_KEEP, writable)):
            for place in places:
                _add(libc, rules, place, rights & handled)
        no_new_privileges(libc)
        _called(libc, _RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)
    return True


def _add(libc: ctypes.CDLL, rules: int, place: Path, rights: int) -> None:
    try:
        fd = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _OF_FILES
        rule = _RULE.pack(rights, fd)
        _called(libc, _ADD_RULE, rules, _BENEATH, rule, 0)
    finally:
        os.close(fd)


def _called(libc: ctypes.CDLL, *arguments: object) -> int:
    return checked(libc.syscall(*arguments), "landlock")
