"""Where the agent listens, and the limits that both ends of the socket know."""

from __future__ import annotations

from typing import Final

SOCKET: Final = "/run/prtrace/io.prtrace"
SOCKET_VARIABLE: Final = "PRTRACE_SOCKET"
_ROOTS: Final = ".root"
INTERFACE: Final = "io.prtrace"

MAX_CALL: Final = 64 << 10
"""Bytes of a call, its NUL included."""

MAX_CHANGE_CALL: Final = 1 << 20
"""The same for a peer that may change things: a saved file travels in a call."""


def roots_door(path: str) -> str:
    """The path on which root alone is let in, beside everybody's on path.

    Others who connect all the time, or whose connections cannot be closed, keep nobody waiting
    there.
    """
    return path + _ROOTS
