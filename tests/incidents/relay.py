"""A way to an iSCSI portal that can lose what the target answers."""

from __future__ import annotations

import contextlib
import socket
import threading

_PIECE = 1 << 16


class Relay:
    """Listens on 127.0.0.1:port and hands every connection on to the portal."""

    def __init__(self, port: int, portal: tuple[str, int]) -> None:
        self._portal = portal
        self._deaf = threading.Event()
        self._open: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", port))
        self._start(self._accept)

    @staticmethod
    def _start(work: object, *arguments: object) -> None:
        threading.Thread(target=work, args=arguments, daemon=True).start()  # type: ignore[arg-type]

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:  # closed
                return
            far = socket.create_connection(self._portal)
            self._open += near, far
            self._start(self._carry, near, far, None)
            self._start(self._carry, far, near, self._deaf)

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket, lost: threading.Event | None) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE):
                if lost is None or not lost.is_set():
                    target.sendall(piece)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def lose_answers(self) -> None:
        """From now on nothing that the target says arrives; what it is told does."""
        self._deaf.set()

    def cut(self) -> None:
        """End every connection, and carry the next one both ways again."""
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._open.clear()
        self._deaf.clear()

    def close(self) -> None:
        """End it all."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()
