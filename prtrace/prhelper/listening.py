"""The listening socket, from systemd or by ourselves, and what systemd wants to be told.

sd_listen_fds(3): the descriptors from 3 on, as many as LISTEN_FDS says, if LISTEN_PID is ours.
sd_notify(3): a datagram to the socket that NOTIFY_SOCKET names.
"""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Final

from prtrace.errors import UnavailableError, UsageError

_FIRST: Final = 3
_BACKLOG: Final = 128


def activated() -> socket.socket | None:
    """The socket that systemd passed, None without activation; UsageError where it is no use."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = os.environ.get("LISTEN_FDS", "0")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    if count != "1":
        raise UsageError(f"systemd passed {count} sockets, one is wanted")
    os.set_inheritable(_FIRST, False)
    sock = socket.socket(fileno=_FIRST)
    listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM or not listens:
        raise UsageError("systemd passed something else than a listening Unix stream socket")
    name = sock.getsockname()
    if not isinstance(name, str) or not name.startswith("/"):
        raise UsageError("an abstract socket has no permissions: name a path in the socket unit")
    return sock


def listen(path: Path, mode: int) -> socket.socket:
    """Listen at a path.  A socket that nobody serves any more is replaced, nothing else is.

    Raises UsageError (an address that cannot be) and UnavailableError (not to be had).
    """
    if not path.is_absolute():
        raise UsageError(f"{path}: the socket's path is to be absolute")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Created without permissions, so that nobody connects before the mode is set.
    mask = os.umask(0o777)
    try:
        _remove_stale(path)
        sock.bind(str(path))
        os.chmod(path, mode)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise UnavailableError(
            f"cannot listen at {path}: {error.strerror or error}",
            hint="is the directory there, and is the path shorter than 108 bytes?",
        ) from error
    finally:
        os.umask(mask)
    return sock


def notify(message: str) -> None:
    """Tell systemd, if it started us and listens; nobody else is told."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        sock.sendall(message.encode())


def _remove_stale(path: Path) -> None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise UnavailableError(f"{path} is there and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise UnavailableError(f"somebody listens at {path} already")
