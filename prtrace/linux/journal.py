"""Structured entries for the system's journal: its native protocol, without its library.

Source: systemd, docs/JOURNAL_NATIVE_PROTOCOL.md.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Final, Self

from prtrace.linux.logs import under_journal

SOCKET: Final = "/run/systemd/journal/socket"


def datagram(fields: Mapping[str, str]) -> bytes:
    r"""One entry as the journal's socket takes it.

    A field is NAME, "\n", the value's length (8 bytes, little-endian), the value, "\n": in this
    form, unlike in NAME=VALUE, no value can end its field.
    """
    parts = []
    for name, value in fields.items():
        raw = value.encode("utf-8", "backslashreplace")
        parts.append(b"%s\n%s%s\n" % (name.encode("ascii"), len(raw).to_bytes(8, "little"), raw))
    return b"".join(parts)


class SystemJournal:
    """Where entries go; nowhere for a process whose log does not go to the journal."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._to: socket.socket | None = None
        if path:
            self._to = socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            )

    def __bool__(self) -> bool:
        """Whether entries go anywhere."""
        return self._to is not None

    @classmethod
    def of_service(cls) -> Self:
        """The journal of a service whose standard error systemd connected to it."""
        return cls(SOCKET if under_journal() and os.path.exists(SOCKET) else "")

    def send(self, fields: Mapping[str, str]) -> None:
        """Send one entry; a journal that is gone, or does not read, misses it."""
        if self._to is not None:
            with contextlib.suppress(OSError):
                self._to.sendto(datagram(fields), self._path)

    def close(self) -> None:
        """Let go of the socket."""
        if self._to is not None:
            self._to.close()
            self._to = None
