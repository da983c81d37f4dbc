"""What the process is to the kernel: its capabilities, its user, its name."""

from __future__ import annotations

import ctypes
import enum
import os
from typing import Final

from prtrace.linux.libc import checked, library, no_new_privileges

_PR_SET_NAME: Final = 15  # include/uapi/linux/prctl.h
_PR_SET_KEEPCAPS: Final = 8
_PR_CAPBSET_DROP: Final = 24
_VERSION_3: Final = 0x20080522  # include/uapi/linux/capability.h
_WORDS: Final = 2


class Capability(enum.IntEnum):
    """The numbers of those that some process keeps (include/uapi/linux/capability.h)."""

    DAC_READ_SEARCH = 2
    SETGID = 6
    SETUID = 7
    SYS_RAWIO = 17
    SYS_PTRACE = 19
    SYS_ADMIN = 21
    SYSLOG = 34
    PERFMON = 38
    BPF = 39


class cap_header(ctypes.Structure):  # noqa: N801 - named as in C
    """struct __user_cap_header_struct."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class cap_data(ctypes.Structure):  # noqa: N801 - named as in C
    """struct __user_cap_data_struct."""

    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def drop(kept: tuple[Capability, ...]) -> None:
    """Keep these capabilities and no others, for good.  Raises OSError.

    Capabilities belong to threads: call it before the first thread is started.
    """
    libc = library()
    number = 0
    # The kernel says EINVAL behind its last capability.
    while libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) == 0 and number < 64:
        number += 1
    _keep(libc, kept)
    no_new_privileges(libc)


def become(uid: int, gid: int, kept: tuple[Capability, ...] = ()) -> None:
    """Be another user, with these capabilities alone, for good.  Raises OSError; see drop."""
    drop((Capability.SETGID, Capability.SETUID, *kept))
    libc = library()
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    # Otherwise the kernel takes them away with user 0 (capabilities(7)).
    checked(libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0), "keepcaps")
    os.setresuid(uid, uid, uid)
    _keep(libc, kept, effective=True)


def _keep(libc: ctypes.CDLL, kept: tuple[Capability, ...], *, effective: bool = False) -> None:
    """Leave these in the permitted set; effective: put them in force, too."""
    keep = sum(1 << capability for capability in kept)
    header = cap_header(_VERSION_3, 0)
    held = (cap_data * _WORDS)()
    checked(libc.capget(ctypes.byref(header), held), "capget")
    for word in range(_WORDS):
        mask = keep >> 32 * word & 0xFFFFFFFF
        held[word].permitted &= mask
        held[word].effective = held[word].permitted if effective else held[word].effective & mask
        held[word].inheritable = 0
    checked(libc.capset(ctypes.byref(header), held), "capset")


def name_process(name: str) -> None:
    """Let the commands of this process bear its name, not the interpreter's; 15 bytes count."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
