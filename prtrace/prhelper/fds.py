"""Descriptors that travel with bytes over a Unix socket (SCM_RIGHTS, unix(7)).

close() of a descriptor that a stranger sent can block for as long as the stranger likes (a
FUSE file's flush, a lingering socket), so it is closed by the stranger's own thread only.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from prtrace.linux.closing import Closing

_INT: Final = array.array("i").itemsize
_ONE: Final = struct.Struct("=i")
_ROOM: Final = socket.CMSG_SPACE(2 * _INT)
"""For one descriptor too many, which is how one is noticed; the kernel drops the others."""
# Arithmetic with enum members takes longer than the system call.
_CLOEXEC, _CTRUNC = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_CTRUNC)
_SOL_SOCKET, _SCM_RIGHTS = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS)


@dataclass(slots=True)
class OwnedFd(Closing):
    """Closes its descriptor once: on leaving `with` or by close(), never after release()."""

    fd: int

    def release(self) -> int:
        """Give the descriptor away; -1 where it is gone already."""
        fd, self.fd = self.fd, -1
        return fd

    def close(self) -> None:
        """Close the descriptor, if it is still here; an error of its file is no concern."""
        fd = self.release()
        if fd >= 0:
            try:
                os.close(fd)
            except OSError:
                return  # the number is free all the same (close(2)); the error is the sender's


class Received(NamedTuple):
    """What one call took from the socket."""

    data: bytes
    """b"" is the end of the stream."""
    fds: tuple[OwnedFd, ...]
    lost: bool
    """A descriptor did not arrive: there were too many, this process has no room for one, or a
    security module kept it back (MSG_CTRUNC)."""


def receive(sock: socket.socket, size: int, flags: int = 0) -> Received:
    """Receive up to size bytes and the descriptors with them, close-on-exec.

    Raises BlockingIOError and other OSErrors of recvmsg(2).
    """
    # Not socket.recv_fds(): it drops its flags (CPython issue 107898), so that a descriptor
    # would leak into child processes.
    data, control, got, _ = sock.recvmsg(size, _ROOM, _CLOEXEC | flags)
    if not control:
        return Received(data, (), bool(got & _CTRUNC))
    if len(control) == 1:
        level, kind, raw = control[0]
        if len(raw) == _INT and level == _SOL_SOCKET and kind == _SCM_RIGHTS:
            return Received(data, (OwnedFd(*_ONE.unpack(raw)),), bool(got & _CTRUNC))
    numbers = array.array("i")
    for level, kind, raw in control:
        if level == _SOL_SOCKET and kind == _SCM_RIGHTS:
            numbers.frombytes(raw[: len(raw) - len(raw) % _INT])
    return Received(data, tuple(map(OwnedFd, numbers)), bool(got & _CTRUNC))


def send(sock: socket.socket, data: bytes, fd: int) -> int:
    """Send data with one descriptor; how many bytes went.  Raises OSErrors of sendmsg(2)."""
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
    return sock.sendmsg([data], [rights], socket.MSG_NOSIGNAL)
