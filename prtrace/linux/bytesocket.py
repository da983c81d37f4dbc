"""A connection of which bytes are taken and nothing else.

A peer can send descriptors along.  recv() has no place for them, and the kernel closes them within
that call; a hostile one takes as long as it likes for it (prtrace.linux.closer).  What MSG_PEEK
sees of a queue it leaves there, and MSG_CTRUNC says that a descriptor is among it (net/unix/
af_unix.c, unix_stream_read_generic).
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from prtrace.linux.closer import refuse_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from prtrace.linux.closer import Closer


class ByteSocket(socket.socket):
    """An accepted Unix stream socket, taken over from sock, which nobody waits for.

    owner, closed: see Closer.
    """

    def __init__(
        self,
        sock: socket.socket,
        closer: Closer,
        owner: Hashable,
        closed: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(fileno=sock.detach())
        self.setblocking(False)
        self._closer = closer
        self._owner = owner
        self._closed = closed
        refuse_descriptors(self)
        # Else a byte out of band is dropped when what is behind it is read, and a descriptor
        # with it.
        self.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        # Credentials would be told like descriptors; a drop-in for the listener can ask for them.
        self.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """As of a socket; ConnectionAbortedError where the peer has sent a descriptor."""
        data, _, got, _ = self.recvmsg(size, 0, flags | socket.MSG_PEEK)
        if got & socket.MSG_CTRUNC:
            raise ConnectionAbortedError("the peer sent a descriptor")
        return super().recv(len(data), flags) if data else b""

    def close(self) -> None:
        """Close it without waiting for anything."""
        self._closer.close(self, self._owner, self._closed)
