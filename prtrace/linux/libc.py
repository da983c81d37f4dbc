"""Calls of the C library that Python does not have: prctl(2) and syscall(2), by ctypes."""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import Final

_PR_SET_NO_NEW_PRIVS: Final = 38  # include/uapi/linux/prctl.h


def library() -> ctypes.CDLL:
    """The C library; an error's number is kept for checked()."""
    return ctypes.CDLL(None, use_errno=True)


def load_unwinder() -> None:
    """Load what a thread needs to end, before no file can be opened any more.

    The C library loads libgcc_s when a thread first calls pthread_exit(), as threads of a Python
    that ends do, and aborts the process where it cannot (nptl/pthread_cancel.c of glibc).
    """
    with contextlib.suppress(OSError):  # other C libraries have it in themselves
        ctypes.CDLL("libgcc_s.so.1")


def checked(result: int, what: str) -> int:
    """The result of a call; OSError where it is negative, which says what failed."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def no_new_privileges(libc: ctypes.CDLL) -> None:
    """Let no program that this process executes give it a privilege, for good.

    Without it, only a process with CAP_SYS_ADMIN may restrict itself by a filter or a ruleset.
    """
    checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
