"""What mover and agent tell each other on their links: messages, with a connection or without.

A link is a socket of type SOCK_SEQPACKET.  A message of the mover's begins with a letter: SETTLED,
ACCEPTED or ASKED_FOR.  On the link that comes with SETTLED a message is whom a connection of the
mover's own calls for.  The agent sends the number of a request, and nothing else.
"""

from __future__ import annotations

import resource
import socket
import struct
from typing import Final

from prtrace.linux.peer import Peer

SETTLED: Final = b"S"
"""The first message to the agent, with the agent's end of a second socket.

On that one nothing comes but connections on which the mover calls, each with whom it calls for:
however many strangers wait to be taken from the first one, these do not wait behind them."""
ACCEPTED: Final = b"A"
"""The message with a socket in whose queue an accepted connection is, and who is at its other end.

The mover puts it there, closes its own copy, and only then gives the agent the socket: so whoever
closes the connection last, and with it what the client has sent, is never the mover."""
ASKED_FOR: Final = b"R"
"""What a message begins with that has the number of a request, and its connection or none."""
NUMBER: Final = struct.Struct("=Q")
"""The agent's only request: a connection for what readers may, with a number to know it by."""
READER_S: Final = 10.0
SCARCE_RETRY: Final = 1.0
"""Seconds for which nothing is accepted where there was no descriptor for a connection, and for
which the agent takes nothing from a link for that reason."""
_PEER: Final = struct.Struct("=iII")
"""pid, uid, gid; each supplementary group follows in 4 bytes."""
_GROUP: Final = struct.Struct("=I")
_FD: Final = struct.Struct("=i")
_LONGEST: Final = 4096
_RESERVED: Final = 4
"""One in so many descriptors, of the mover's and of the agent's, is for root's calls."""


class NoDescriptorError(Exception):
    """This process can have no more descriptors."""


def most_for_strangers() -> int:
    """The lowest number that no descriptor may have which a stranger caused.

    Each connection that was refused, and cannot be closed yet, has one.
    """
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most - most // _RESERVED


def give(link: socket.socket, message: bytes, connection: socket.socket | None) -> None:
    """Send the agent a message, with a connection or without; for any thread.

    OSError where the agent has not taken many before.
    """
    if connection is None:
        link.send(message)
    else:
        socket.send_fds(link, [message], [connection.fileno()])


def packed(peer: Peer) -> bytes:
    groups = b"".join(_GROUP.pack(group) for group in peer.groups)
    return _PEER.pack(peer.pid, peer.uid, peer.gid) + groups


def unpacked(packed: bytes) -> Peer:
    groups = (group for (group,) in _GROUP.iter_unpack(packed[_PEER.size :]))
    pid, uid, gid = _PEER.unpack_from(packed)
    return Peer(pid, uid, gid, frozenset(groups))


def taken(
    link: socket.socket, flags: int = 0, most: int | None = None
) -> tuple[bytes, socket.socket | None]:
    """A message of the mover's, with the connection that came along.

    most: how many descriptors there may be with it, None for as many as the kernel gives.
    NoDescriptorError leaves the message where it is.
    """
    # Not socket.recv_fds(), which leaves its flags out (Python 3.11).  MSG_PEEK leaves everything
    # in the queue, also a descriptor for which there is no place here.  Of one that is here, the
    # queue's reference is not the last when the message is dropped.
    room = socket.CMSG_SPACE(_FD.size)
    message, ancillary, got, _ = link.recvmsg(_LONGEST, room, flags | socket.MSG_PEEK)
    connection = None
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS) and len(content) == _FD.size:
            connection = socket.socket(fileno=_FD.unpack(content)[0])
    # A new descriptor has the lowest number that is free.
    scarce = connection is not None and most is not None and connection.fileno() >= most
    if got & socket.MSG_CTRUNC or scarce:
        if connection is not None:
            connection.close()  # the one in the queue is left
        raise NoDescriptorError
    link.recv(_LONGEST, flags)
    return message, connection
