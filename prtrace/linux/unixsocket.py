"""Listening sockets on a path of the file system: opened here, or by the service manager.

Whoever opened the path owns it: it is removed by its owner only, while it still is the same inode.
Two services that start at once, or one that stops while its successor starts, are kept apart by a
lock beside the path (".NAME.lock", for the owner alone to open: a lock on the directory could be
held for ever by anybody who may look into it).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prtrace.errors import UnavailableError, UsageError
from prtrace.linux.closer import Closer, refuse_descriptors

_BACKLOG: Final = 128
_FIRST_HANDED_OVER: Final = 3  # SD_LISTEN_FDS_START
_LOCK_WAIT_S: Final = 5.0
_LOCK_STEP_S: Final = 0.02

_READ_AWAY: Final = 16 << 20
_READ_AWAY_S: Final = 5.0
_CHUNK: Final = 64 << 10

_Inode = tuple[int, int]


def read_away(
    connection: socket.socket, *, most: int = _READ_AWAY, seconds: float = _READ_AWAY_S
) -> None:
    """Say nothing more on a blocking connection, and take what the other end still sends.

    Whoever closes with bytes unread resets the connection, and the other end, which is still
    sending, never reads what it was told.  Ends with the other end, after so many bytes, or after
    so many seconds; what comes then is reset.
    """
    end = time.monotonic() + seconds
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        while most > 0 and (left := end - time.monotonic()) > 0:
            connection.settimeout(left)
            taken = len(connection.recv(_CHUNK))
            if not taken:
                return
            most -= taken


class Listener:
    """A listening path socket; non-blocking."""

    __slots__ = ("_inode", "path", "socket")

    def __init__(self, listening: socket.socket, path: Path, inode: _Inode | None) -> None:
        """Use bind() or handed_over() instead.  inode: the path's, None where others own it."""
        self.socket = listening
        self.path = path
        self._inode = inode

    @classmethod
    def bind(
        cls, path: Path, *, mode: int = 0o660, group: str = "", replace: bool = False
    ) -> Listener:
        """Listen on path, with permission bits mode, of group where one is named.

        A socket on which nobody answers is replaced; one that has an owner is left alone, unless
        replace is given: whoever has another path may own this one with it.  Raises
        UnavailableError (in use, not permitted) and UsageError (no such group, path too long,
        path is something else than a socket).
        """
        path = path.absolute()
        gid = _gid(group) if group else -1
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            with _locked(path):
                _make_way(path, replace=replace)
                listening = _bound(path, gid, mode)
                return cls(listening, path, _inode(path))
        except OSError as error:
            raise _refusal(path, error) from error

    @classmethod
    def handed_over(cls) -> Listener | None:
        """The one socket that the service manager opened (sd_listen_fds(3)), None without one.

        Raises UsageError as all_handed_over, and where there are several.
        """
        found = cls.all_handed_over()
        if len(found) > 1:
            raise UsageError(
                f"{len(found)} sockets were handed over, one is expected",
                hint="give the socket unit one ListenStream=",
            )
        return found[0][1] if found else None

    @classmethod
    def all_handed_over(cls) -> tuple[tuple[str, Listener], ...]:
        """Every socket that the service manager opened, with its FileDescriptorName=.

        Raises UsageError where it handed over something else than listening Unix stream
        sockets on paths: an abstract socket has no permissions.
        """
        count = os.environ.get("LISTEN_FDS", "")
        if os.environ.get("LISTEN_PID") != str(os.getpid()) or not count:
            return ()
        names = os.environ.get("LISTEN_FDNAMES", "").split(":")
        # Not for the processes that this one starts.
        for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
            os.environ.pop(name, None)
        if not count.isdecimal():
            raise UsageError(f"LISTEN_FDS is {count!r}, a number is expected")
        names += [""] * int(count)
        return tuple(
            (names[place], cls._adopted(_FIRST_HANDED_OVER + place)) for place in range(int(count))
        )

    @classmethod
    def _adopted(cls, fd: int) -> Listener:
        try:
            os.set_inheritable(fd, False)
            listening = socket.socket(fileno=fd)
            accepting = listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise UsageError(f"descriptor {fd} is no socket: {error.strerror}") from error
        stream = listening.family == socket.AF_UNIX and listening.type == socket.SOCK_STREAM
        name = listening.getsockname() if stream else ""
        if not accepting or not isinstance(name, str) or not name.startswith("/"):
            raise UsageError(
                f"descriptor {fd} is no listening stream socket on a path",
                hint="give the socket unit ListenStream= with an absolute path",
            )
        listening.setblocking(False)
        return cls(listening, Path(name), None)

    def refuse_descriptors(self) -> None:
        """Have nobody send a descriptor to what is accepted (prtrace.linux.closer)."""
        refuse_descriptors(self.socket)

    def close(self, closer: Closer | None = None) -> None:
        """Stop listening, and remove the path where it still is this socket's.

        closer: who closes the socket, and with it what those have sent who wait to be accepted.
        """
        inode, self._inode = self._inode, None
        if inode is not None:
            # Without root's privileges the directory may be closed to this process by now.
            with contextlib.suppress(OSError, UnavailableError), _locked(self.path):
                if _inode(self.path) == inode:
                    self.path.unlink()
        if closer is None:
            self.socket.close()
        else:
            closer.let_go(self.socket, None)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock beside path; UnavailableError where somebody else holds it for long."""
    lock = path.with_name(f".{path.name}.lock")
    end = time.monotonic() + _LOCK_WAIT_S
    while True:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            if time.monotonic() > end:
                raise UnavailableError(
                    f"somebody holds {lock}", hint="another start or stop is under way: try again"
                ) from error
            time.sleep(_LOCK_STEP_S)
            continue
        status = os.fstat(fd)
        # Whoever held the lock before has removed it with the file that was opened here.
        if _inode(lock) == (status.st_dev, status.st_ino):
            break
        os.close(fd)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()
        os.close(fd)


def _make_way(path: Path, *, replace: bool) -> None:
    """Remove a socket that nobody listens on, or any; refuse everything else that is there."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise UsageError(f"{path} exists and is no socket", hint="name another path")
    if replace:
        path.unlink()
        return
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
        f"somebody answers on {path} already", hint="stop that service, or name another path"
    )


def _bound(path: Path, gid: int, mode: int) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        # Closed to everybody until owner and mode are right.
        before = os.umask(0o777)
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


def _inode(path: Path) -> _Inode | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _refusal(path: Path, error: OSError) -> UsageError | UnavailableError:
    if error.errno is None:  # Raised by Python itself: longer than sun_path
        return UsageError(f"{path}: {error}", hint="name a shorter path")
    message = f"{path} cannot be listened on: {os.strerror(error.errno)}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UnavailableError(message, hint="run as root, or name another path")
    return UnavailableError(message)
