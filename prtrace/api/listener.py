"""The listening socket: on a path of the file system, or handed over by the service manager."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prtrace.errors import UnavailableError, UsageError

_BACKLOG: Final = 128
_FIRST_HANDED_OVER: Final = 3  # SD_LISTEN_FDS_START


class Listener:
    """A listening path socket.

    close() removes the path only where it still is this socket's.
    """

    __slots__ = ("_inode", "path", "socket")

    def __init__(self, listening: socket.socket, path: Path, *, ours: bool) -> None:
        """Use bind() or handed_over() instead."""
        self.socket = listening
        self.path = path
        self._inode = _inode(path) if ours else None

    @classmethod
    def bind(cls, path: Path, *, mode: int = 0o660, group: str = "") -> Listener:
        """Listen on path, with permission bits mode, of group where one is named.

        A socket that nobody answers on is replaced; another agent's is left alone.  Raises
        UnavailableError (in use, not permitted) and UsageError (no such group, path too long,
        path is something else than a socket).
        """
        gid = _gid(group) if group else -1
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            with _directory_locked(path.parent):
                _make_way(path)
                listening = _bound(path, gid, mode)
        except OSError as error:
            raise _refusal(path, error) from error
        return cls(listening, path, ours=True)

    @classmethod
    def handed_over(cls) -> Listener | None:
        """The socket that the service manager opened (LISTEN_FDS), or None.

        Raises UsageError where it handed over something else than one listening unix socket.
        """
        count = os.environ.get("LISTEN_FDS", "")
        if os.environ.get("LISTEN_PID") != str(os.getpid()) or not count:
            return None
        # Not for the processes that we start.
        for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
            os.environ.pop(name, None)
        if count != "1":
            raise UsageError(
                f"{count} sockets were handed over, one is expected",
                hint="give the socket unit one ListenStream=",
            )
        try:
            os.set_inheritable(_FIRST_HANDED_OVER, False)
            listening = socket.socket(fileno=_FIRST_HANDED_OVER)
            accepting = listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise UsageError(f"descriptor 3 is no socket: {error.strerror}") from error
        name = listening.getsockname() if listening.family == socket.AF_UNIX else ""
        if not accepting or not isinstance(name, str) or not name.startswith("/"):
            raise UsageError(
                "descriptor 3 is no listening socket on a path",
                hint="give the socket unit ListenStream= with an absolute path",
            )
        listening.setblocking(False)
        return cls(listening, Path(name), ours=False)

    def close(self) -> None:
        """Stop listening, and remove the path."""
        self.socket.close()
        if self._inode is not None and _inode(self.path) == self._inode:
            # Without root's privileges the directory may be closed to us by now.
            with contextlib.suppress(OSError):
                self.path.unlink()
        self._inode = None


@contextlib.contextmanager
def _directory_locked(directory: Path) -> Iterator[None]:
    """Two agents that start at once must not both find the path free."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _make_way(path: Path) -> None:
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise UsageError(f"{path} exists and is no socket", hint="name another --socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # The backlog is full, so it has an owner.
    raise UnavailableError(
        f"another agent answers on {path}", hint="stop that agent, or name another --socket"
    )


def _bound(path: Path, gid: int, mode: int) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        # Closed to others until owner and mode are right.
        before = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(before)
        if gid >= 0:
            os.chown(path, -1, gid)
        os.chmod(path, mode)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _gid(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise UsageError(f"there is no group {group!r}") from error


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _refusal(path: Path, error: OSError) -> UsageError | UnavailableError:
    if error.errno is None:  # Raised by Python itself: longer than sun_path
        return UsageError(f"{path}: {error}", hint="name a shorter --socket")
    message = f"{path} cannot be listened on: {os.strerror(error.errno)}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UnavailableError(message, hint="run as root, or name another --socket")
    return UnavailableError(message)
