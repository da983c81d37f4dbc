"""Connections whose queues hold what no signal gets closed."""

from __future__ import annotations

import array
import ctypes
import fcntl
import mmap
import os
import socket
import struct
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from labkit import pace

_USERFAULTFD = 323  # x86_64
_UFFDIO_API = 0xC018AA3F
_UFFDIO_REGISTER = 0xC020AA00
_PAGE = mmap.PAGESIZE


class Stuck:
    """So many connections with the read end of a pipe in each queue.

    A writer holds the pipe's lock (fs/pipe.c, pipe_write) and waits for a page that nobody gives
    it, as one that a FUSE server keeps back, until free().  pipe_release() waits for the lock.

    over: the other ends of connections that are there already, which are closed then.
    """

    def __init__(self, count: int = 1, over: Sequence[socket.socket] = ()) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._faults = libc.syscall(_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK)
        assert self._faults >= 0, os.strerror(ctypes.get_errno())
        fcntl.ioctl(self._faults, _UFFDIO_API, struct.pack("QQQ", 0xAA, 0, 0))
        page = mmap.mmap(-1, _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        start = ctypes.addressof(ctypes.c_char.from_buffer(page))
        fcntl.ioctl(self._faults, _UFFDIO_REGISTER, struct.pack("QQQQ", start, _PAGE, 1, 0))
        self._reads, self._writes = os.pipe()
        # Files of their own: close() of a copy would release nothing.
        ends = [os.open(f"/proc/self/fd/{self._reads}", os.O_RDONLY) for _ in range(count)]
        self._writer = threading.Thread(target=os.write, args=(self._writes, page))
        self._writer.start()
        writes = Path(f"/proc/self/task/{self._writer.native_id}/syscall")
        end = time.monotonic() + pace.limit(20)
        while not writes.read_text().startswith("1 "):
            assert time.monotonic() < end, "the writer does not write"
            time.sleep(0.01)
        self.connections = []
        self._closing: list[threading.Thread] = []
        given = iter(over)
        for end in ends:
            mine = next(given, None)
            if mine is None:
                mine, theirs = socket.socketpair()
                self.connections.append(theirs)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [end]))]
            mine.sendmsg([b"x"], rights)
            mine.close()
            # The one in the queue is left, unless the other side has taken that already: then
            # this one is the last, and waits.
            closing = threading.Thread(target=os.close, args=(end,))
            closing.start()
            self._closing.append(closing)

    def free(self) -> None:
        """Let the writer have its page."""
        os.close(self._faults)
        for thread in (self._writer, *self._closing):
            thread.join()
        os.close(self._reads)
        os.close(self._writes)
