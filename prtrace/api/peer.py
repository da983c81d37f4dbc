"""Who is at the other end of a connection, and what they may do."""

from __future__ import annotations

import enum
import errno
import socket
import struct
from dataclasses import dataclass
from typing import Final, assert_never

_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid
_SO_PEERGROUPS: Final = 59  # include/uapi/asm-generic/socket.h, since Linux 4.13
_GROUPS_SIZE: Final = 1024  # the most that Python's getsockopt takes: 256 groups


class Right(enum.Enum):
    """What a method needs."""

    READ = "read"
    """Any peer that could connect: the socket's mode decides."""
    CHANGE = "change"
    """uid 0 or a member of the configured group."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A process as the kernel saw it when it connected.

    pid is 0 where the process is in a foreign pid namespace, and may be reused: it is for
    messages, never for decisions.  groups: the supplementary ones; none are known of a
    process with more than 256.
    """

    pid: int
    uid: int
    gid: int
    groups: frozenset[int] = frozenset()

    @classmethod
    def of(cls, connection: socket.socket) -> Peer:
        """Ask the kernel; OSError where the connection is already gone."""
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, gid = _CREDENTIALS.unpack(raw)
        try:
            groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_SIZE)
        except OSError as error:
            if error.errno != errno.ERANGE:
                raise
            groups = b""
        return cls(pid, uid, gid, frozenset(group for (group,) in struct.iter_unpack("I", groups)))

    def may(self, right: Right, admin_gid: int | None) -> bool:
        """Whether the peer has right, where members of admin_gid may change things."""
        match right:
            case Right.READ:
                return True
            case Right.CHANGE:
                return self.uid == 0 or admin_gid in {self.gid, *self.groups}
            case _:
                assert_never(right)
