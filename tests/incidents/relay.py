"""A way to an iSCSI portal that can lose what the target answers."""

from __future__ import annotations

import contextlib
import socket
import threading

_PIECE = 1 << 16
_PATIENCE = 60.0


class Relay:
    """Listens on 127.0.0.1:port and hands every connection on to the portal."""

    def __init__(self, port: int, portal: tuple[str, int]) -> None:
        self._portal = portal
        self._deaf = threading.Event()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listening = socket.create_server(("127.0.0.1", port))
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:  # closed
                return
            thread = threading.Thread(target=self._serve, args=(near,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, near: socket.socket) -> None:
        """One connection, until one of its ends is closed."""
        with near, socket.create_connection(self._portal) as far:
            self._open |= {near, far}
            answers = threading.Thread(target=self._carry, args=(far, near, True), daemon=True)
            answers.start()
            self._carry(near, far, False)
            answers.join()
            self._open -= {near, far}

    def _carry(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE):
                if not (answers and self._deaf.is_set()):
                    target.sendall(piece)
        for each in (source, target):
            _shut(each)

    def lose_answers(self) -> None:
        """From now on nothing that the target says arrives; what it is told does."""
        self._deaf.set()

    def cut(self) -> None:
        """End every connection, and carry the next one both ways again."""
        for each in list(self._open):
            _shut(each)
        for thread in self._threads:
            thread.join(_PATIENCE)
        self._deaf.clear()

    def close(self) -> None:
        """End it all."""
        _shut(self._listening)
        self._accepting.join(_PATIENCE)
        self._listening.close()
        self.cut()


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
