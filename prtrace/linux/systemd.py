"""Tell the service manager how things stand: sd_notify(3), without its library."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final

_PATIENCE_S: Final = 1.0
"""For a service manager that does not read what it is sent."""


def notify(*assignments: str) -> None:
    """Send assignments ("READY=1", "STATUS=…"); nothing happens without a service manager."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
        to.settimeout(_PATIENCE_S)
        # A manager that is gone or hangs must not take its services along.
        with contextlib.suppress(OSError):
            # Connected, poll(2) waits for room with the receiver; else it finds the sender's own
            # buffer writable, and Python tries again and again until the time is over.
            to.connect(address)
            to.send("\n".join(assignments).encode())


def watchdog_interval() -> float | None:
    """Seconds between two WATCHDOG=1, half of what the manager allows; None: not asked for."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 2_000_000 if microseconds.isdecimal() else None
