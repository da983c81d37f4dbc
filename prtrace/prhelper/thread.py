"""A thread's own name, which the kernel's records carry as comm (prctl(2), PR_SET_NAME)."""

from __future__ import annotations

import ctypes
from typing import Any, Final

_PR_SET_NAME: Final = 15
# Not CDLL, which lets other threads run meanwhile: this call waits for nobody.
_prctl: Any = ctypes.PyDLL(None).prctl
_prctl.argtypes = (ctypes.c_int, ctypes.c_char_p)


def name_thread(name: str) -> None:
    """Name the calling thread, for commands that it issues; "" leaves its name alone.

    The kernel takes 15 bytes; this call cannot fail.
    """
    if name:
        _prctl(_PR_SET_NAME, name.encode())
