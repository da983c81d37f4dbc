"""Closing connections where a thread must not wait.

close() of a Unix socket closes the descriptors that lie in its queue, and that can take as long
as the sender likes: a TCP socket with SO_LINGER, for one.  After shutdown() nothing comes any
more, so an empty queue says that nothing is closed along.  Who has sent something is left to
threads that may hang, of which there are few; the others of that kind wait, shut down.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import queue
import signal
import socket
import struct
import termios
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from prtrace.prhelper.sparing_log import SparingLog

_THREADS: Final = 32
_IDLE_SECONDS: Final = 10.0
_MANY: Final = 8192
_PAUSE: Final = 0.2
_INT: Final = struct.Struct("i")


class Closer:
    """Closes what is given to it, and waits for nothing; called by any thread."""

    def __init__(self, log: SparingLog) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._threads = 0
        self._waiting: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()

    def close(self, sock: socket.socket) -> None:
        """Shut the connection down, and close it now or on another thread."""
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        if not _queued(sock):
            sock.close()
            return
        self._waiting.put(sock)
        if self._waiting.qsize() > _MANY:
            # Each has a descriptor of this process; more of them come no faster than this.
            self._log.say(
                logging.ERROR, "closing", f"{_MANY} refused connections cannot be closed"
            )
            time.sleep(_PAUSE)
        with self._lock:
            if self._threads >= _THREADS:
                return
            self._threads += 1
        try:
            threading.Thread(target=self._run, daemon=True).start()
        except RuntimeError as error:
            # No more threads from the system: the next one that is closed starts one.
            self._log.say(logging.ERROR, "threads", f"a connection waits for a thread: {error}")
            with self._lock:
                self._threads -= 1

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            try:
                sock = self._waiting.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if self._waiting.empty():
                        self._threads -= 1
                        return
                continue
            with contextlib.suppress(OSError):
                sock.close()


def _queued(sock: socket.socket) -> int:
    """Bytes in the socket's queue; a descriptor comes with one at least (unix(7))."""
    return int(_INT.unpack(fcntl.ioctl(sock, termios.FIONREAD, bytes(_INT.size)))[0])
