"""Who is at the other end of a connection: what the kernel says, and what the process says.

The credentials are those of connect(2).  A process that hands its connection to another keeps
answering for it: that is the kernel's rule for sockets.

A process id can become another process's.  Where the kernel has SO_PEERPIDFD (Linux 6.5), the
descriptor is of the process that connected, so what /proc says is believed if that process is
still there afterwards.  Older kernels are asked for the start of the process when the
connection is accepted, and everything read later is believed for that start only.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from dataclasses import dataclass
from typing import Final

from prtrace.errors import UnavailableError
from prtrace.linux.peer import Peer
from prtrace.linux.process import PROC, identify, start_of, unit_of_cgroup
from prtrace.linux.text import clean
from prtrace.prhelper.guard import User
from prtrace.prhelper.identity import Vouched, vouched

_SO_PEERSEC: Final = 31
_SO_PEERPIDFD: Final = 77  # include/uapi/asm-generic/socket.h
_LABEL_LIMIT: Final = 256
_CGROUP_LIMIT: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class HelperClient:
    """The process that connected."""

    pid: int
    """0: a process of another PID namespace, which has no number here."""
    uid: int
    start_ns: int
    """CLOCK_BOOTTIME, to a clock tick; 0 where unknown."""
    unit: str
    """The outermost systemd unit of its cgroup, else the cgroup's path; "" where unknown."""
    vouched: Vouched

    @property
    def counted_as(self) -> str:
        """The unit whose places and arrivals it takes; "" where nothing is known of it.

        Of a process that has ended between connect() and accept() only the number is known, and
        the next one has another: all such of a user count as one unit.
        """
        if self.pid and not self.start_ns:
            return f"of processes of uid {self.uid} that have ended"
        return self.unit

    @property
    def title(self) -> str:
        """For people."""
        process = f"pid {self.pid}" if self.pid else "a process elsewhere"
        return f"{self.vouched.name} ({process})" if self.vouched.names else process


@dataclass(frozen=True, slots=True)
class Claimed:
    """What the process says of itself: never the reason for a decision.

    name, uuid: QEMU's, from its command line, "" where it has none.
    """

    comm: str = ""
    name: str = ""
    uuid: str = ""


def client_of(sock: socket.socket, socket_name: str) -> HelperClient:
    """The client of an accepted connection; socket_name: of the listening socket, "" for none.

    Raises OSError where the kernel does not tell.
    """
    who = Peer.of(sock)
    start_ns = start_of_process(who.pid)
    cgroup = _cgroup(who.pid) if start_ns else ""
    if start_ns and not _is_still(sock, who.pid, start_ns):
        # The number may have been another process's all the time.
        start_ns, cgroup = 0, ""
    unit = unit_of_cgroup(cgroup)
    known = vouched(socket_name, cgroup, unit, _label(sock), f"{who.pid}@{start_ns}")
    return HelperClient(who.pid, who.uid, start_ns, unit or _path(cgroup), known)


def claimed_by(client: HelperClient) -> Claimed:
    """What the client's process says of itself; nothing where /proc does not show it."""
    try:
        known = identify(client.pid, client.start_ns) if client.start_ns else None
    except UnavailableError:
        known = None
    if known is None:
        return Claimed()
    guest = known.guest
    if guest is None:
        return Claimed(known.comm)
    return Claimed(known.comm, guest.name, guest.uuid)


def start_of_process(pid: int) -> int:
    """When the process started; 0 where /proc does not show it."""
    try:
        return (start_of(pid) or 0) if pid else 0
    except UnavailableError:
        return 0


def is_alive(user: User) -> bool:
    """Whether the process still exists; True where nobody can tell."""
    if not user.pid or not user.start_ns:
        return True
    try:
        return start_of(user.pid) == user.start_ns
    except UnavailableError:
        return True


def _is_still(sock: socket.socket, pid: int, start_ns: int) -> bool:
    """Whether the process that connected is there, so that what /proc said of it was about it."""
    try:
        pidfd = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            return False
        # Before Linux 6.5: whoever had the number when the connection was accepted.
        return start_of_process(pid) == start_ns
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return not poll.poll(0)
    finally:
        os.close(pidfd)


def _label(sock: socket.socket) -> str:
    """The security label that the peer had when it connected; "" where the kernel has none."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERSEC, _LABEL_LIMIT)
    except OSError:
        return ""
    return clean(raw.rstrip(b"\0\n").decode("utf-8", "surrogateescape"), _LABEL_LIMIT)


def _cgroup(pid: int) -> str:
    try:
        with open(f"{PROC}/{pid}/cgroup", "rb", 0) as file:
            return file.read(_CGROUP_LIMIT).decode("utf-8", "surrogateescape")
    except OSError:
        return ""


def _path(cgroup: str) -> str:
    """The group's path where no systemd unit is in it, "" for the root and where unknown."""
    lines = cgroup.splitlines()
    path = lines[-1].split(":", 2)[-1] if lines else ""
    return clean(path, _LABEL_LIMIT) if path != "/" else ""
