"""Who is at the other end of a Unix socket: SO_PEERCRED and SO_PEERGROUPS (unix(7)).

Of an end that accept() gave, the kernel tells who called connect(); a process that hands its
connection to another one keeps answering for it.  Of an end that called connect(), it tells who
called listen(): whoever may connect to a socket of root's can have an end of which the kernel says
root.  So what a peer may do is decided by ends that the deciding process accepted itself.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import Final, NamedTuple, Self

_UCRED: Final = struct.Struct("iII")
"""struct ucred (include/linux/socket.h): pid, uid, gid; user and group ids have no sign."""
_SO_PEERGROUPS: Final = 59  # include/uapi/asm-generic/socket.h, since Linux 4.13
_GROUPS_SIZE: Final = 1024  # the most that Python's getsockopt takes: 256 groups


class Peer(NamedTuple):
    """A process as the kernel saw it when it connected."""

    pid: int
    """0 where the process is in a foreign PID namespace.  A pid may be reused: it is for messages,
    or to be joined with the process's start, and never decides alone."""
    uid: int
    gid: int
    groups: frozenset[int] = frozenset()
    """The supplementary groups; none are known of a process with more than 256."""

    @classmethod
    def of(cls, connection: socket.socket) -> Self:
        """Ask the kernel; OSError where the connection is already gone."""
        pid, uid, gid = _UCRED.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        )
        try:
            groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_SIZE)
        except OSError as error:
            if error.errno != errno.ERANGE:
                raise
            groups = b""
        return cls(pid, uid, gid, frozenset(group for (group,) in struct.iter_unpack("I", groups)))
