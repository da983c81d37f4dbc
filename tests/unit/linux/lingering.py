"""A connection whose queue holds what takes long to close."""

from __future__ import annotations

import array
import contextlib
import socket
import struct


class Lingering:
    """A connection with a TCP socket in its queue that takes an hour to close, until free().

    before: what was sent before it.  flags: of what it was sent with.  over: the other end of a
    connection that is there already, which is closed then.
    """

    def __init__(
        self, before: bytes = b"", flags: int = 0, over: socket.socket | None = None
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            sender = socket.create_connection(listener.getsockname())
            self._reader, _ = listener.accept()
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
        sender.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sender.send(bytes(1 << 16))
        sender.setblocking(True)
        if over is None:
            mine, self.connection = socket.socketpair()
        else:
            mine = over
        if before:
            mine.sendall(before)
        rights = array.array("i", [sender.fileno()])
        mine.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], flags)
        mine.close()
        # The one in the queue is left.
        sender.close()

    def free(self) -> None:
        # With data that nobody has read this is a reset.
        self._reader.close()
