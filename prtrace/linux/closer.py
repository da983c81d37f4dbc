"""Closing connections where a thread must not wait.

Descriptors that a peer has sent lie in the queue of a Unix socket until somebody reads.  Whoever
reads without a place for them, or closes the socket, closes them too.  That can take as long as
the sender likes: a TCP socket with SO_LINGER waits for its peer (net/ipv4/tcp.c, tcp_close), as
long as no signal comes.  After shutdown() nothing comes any more, so what MSG_PEEK sees
then is what is closed along.  Other threads close what has descriptors, and get a signal where it
takes long.  There are waits that no signal ends (a pipe whose lock somebody has who waits for a
FUSE server): those threads are lost, and what is left to the others then waits.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import queue
import signal
import socket
import threading
import time
from typing import Final

from prtrace.linux.libc import library

_log = logging.getLogger("prtrace.linux")

_THREADS: Final = 16
_IDLE_SECONDS: Final = 1.0
_PATIENCE: Final = 0.01
"""How long a thread waits in close() before it is sent a signal."""
_LOOK: Final = 1 << 16
_LOOKS: Final = 16
"""A queue takes what the peer's SO_SNDBUF allows; one that is longer is left to the threads."""
_SIGNAL: Final = signal.SIGURG
_OTHERS: Final = signal.valid_signals() - {_SIGNAL}


class Closer:
    """Closes what is given to it, and waits for nothing; called by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._kicks = False
        self._closing: dict[int, float] = {}
        """Threads within close(), and since when."""
        self._waiting: queue.SimpleQueue[int] = queue.SimpleQueue()

    def close(self, sock: socket.socket) -> None:
        """Shut the connection down, and close it now or on another thread."""
        if sock.fileno() < 0:
            return
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        alone = _has_bytes_alone(sock)
        fd = sock.detach()
        if alone:
            os.close(fd)
        else:
            self._leave(fd)

    def let_go(self, sock: socket.socket) -> None:
        """Close a connection that somebody else has, too, and may close first."""
        self._leave(sock.detach())

    def _leave(self, fd: int) -> None:
        self._waiting.put(fd)
        try:
            with self._lock:
                if not self._kicks:
                    _ignore_softly()
                    threading.Thread(target=self._kick, daemon=True).start()
                    self._kicks = True
                if self._threads < _THREADS:
                    threading.Thread(target=self._run, daemon=True).start()
                    self._threads += 1
        except (RuntimeError, OSError, MemoryError) as error:
            # The next one that is left tries again.
            _log.debug("a connection is closed later: %s", error)

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _OTHERS)
        me = threading.get_ident()
        while True:
            try:
                fd = self._waiting.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if self._waiting.empty():
                        self._threads -= 1
                        return
                continue
            with self._lock:
                self._closing[me] = time.monotonic()
            try:
                with contextlib.suppress(OSError):
                    os.close(fd)
            finally:
                with self._lock:
                    del self._closing[me]

    def _kick(self) -> None:
        """Have no thread wait in close(); until there is none."""
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            time.sleep(_PATIENCE)
            with self._lock:
                if not self._threads:
                    self._kicks = False
                    return
                now = time.monotonic()
                for thread, since in self._closing.items():
                    # Where it may not be sent, each waits for itself.
                    with contextlib.suppress(OSError):
                        if now - since >= _PATIENCE:
                            signal.pthread_kill(thread, _SIGNAL)


def _has_bytes_alone(sock: socket.socket) -> bool:
    """Take the bytes from the queue of a socket that was shut down; False at a descriptor."""
    for _ in range(_LOOKS):
        try:
            # A byte that is out of band lies there as well, and a look ends at it.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
            data, _, got, _ = sock.recvmsg(_LOOK, 0, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            if got & socket.MSG_CTRUNC:
                return False
            if not data:
                return True
            socket.socket.recv(sock, len(data), socket.MSG_DONTWAIT)
        except ConnectionResetError:
            # The peer has not read everything; that is told once.
            continue
        except OSError:
            return False
    return False


def _ignore_softly() -> None:
    """Have the signal interrupt, and do nothing.

    A signal that is ignored interrupts nothing, and a handler in Python would run in the main
    thread and wake whoever waits there for other signals.  abs() takes a number and does nothing.
    """
    libc = library()
    libc.signal(int(_SIGNAL), ctypes.cast(libc.abs, ctypes.c_void_p))
