"""What the agent gives up before it reads a byte of a device, of another process, or of a caller.

It becomes a user of the system's that owns nothing but the history, and keeps what is open: the
rings and maps of the programs, the socket, the device events.  See docs/security.md for what each
process of the agent may do.
"""

from __future__ import annotations

import errno
import logging
import os
import pwd
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple, Self

from prtrace.errors import StoreError, UnavailableError, UsageError
from prtrace.linux import capabilities, landlock, seccomp
from prtrace.linux.capabilities import Capability
from prtrace.linux.seccomp import CallRule
from prtrace.store.database import FILE

_log = logging.getLogger("prtrace.agent")

_READABLE: Final = ("/sys", "/proc", "/dev", "/etc", "/usr", "/lib", "/lib64", "/run")
"""Devices, processes, names of users: what of them anybody may read."""

_CALLS: Final = tuple(
    """
access brk clock_getres clock_gettime clock_nanosleep close connect dup dup2 dup3 epoll_create1
epoll_ctl epoll_pwait epoll_wait eventfd2 exit exit_group faccessat faccessat2 fadvise64 fallocate
fchmod fdatasync flock fstat fstatfs fsync ftruncate futex getcpu getcwd getdents64 getegid
geteuid getgid getgroups getpeername getpid getppid getrandom getrlimit getrusage getsockname
getsockopt gettid gettimeofday getuid lseek lstat madvise membarrier mincore mkdir mkdirat mmap
mprotect mremap msync munmap nanosleep newfstatat open openat pipe2 poll ppoll pread64
pselect6 pwrite64 read readlink readlinkat readv recvfrom recvmsg rename renameat renameat2
restart_syscall rmdir rseq rt_sigaction rt_sigprocmask rt_sigreturn rt_sigtimedwait
sched_getaffinity sched_yield select sendmsg sendto set_robust_list setsockopt shutdown sigaltstack
stat statfs statx sysinfo time umask uname unlink unlinkat utimensat wait4 waitid write
writev
""".split()  # noqa: SIM905
)

_MAPS_FOR_EVERYBODY: Final = (5, 19)
_AF_UNIX: Final = 1
_CLONE_THREAD: Final = 0x10000
_RULES: Final = {
    # BPF_MAP_LOOKUP_ELEM to BPF_MAP_GET_NEXT_KEY, BPF_OBJ_GET_INFO_BY_FD,
    # BPF_MAP_LOOKUP_AND_DELETE_ELEM: of what is open.
    "bpf": CallRule(0, (1, 2, 3, 4, 15, 21)),
    # No other process.
    "clone": CallRule(0, (_CLONE_THREAD,), _CLONE_THREAD),
    # FIONBIO, FIOCLEX, TCGETS: no command to a device.
    "ioctl": CallRule(1, (0x5421, 0x5451, 0x5401)),
    # PR_SET_NAME, PR_GET_NAME, PR_SET_VMA.
    "prctl": CallRule(0, (15, 16, 0x53564D41)),
    "socket": CallRule(0, (_AF_UNIX,)),
    "socketpair": CallRule(0, (_AF_UNIX,)),
}
_OWN_FILES: Final = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030)
"""What fcntl may do: F_DUPFD to F_SETLKW, F_OFD_*, F_DUPFD_CLOEXEC; not F_SETOWN, which has the
kernel signal another process of the same user."""
_ERRORS: Final = {"clone3": errno.ENOSYS}
"""Its flags are in memory, where no filter can look; the C library then takes clone."""


class AgentUser(NamedTuple):
    """Who the agent becomes."""

    name: str
    uid: int
    gid: int

    @classmethod
    def named(cls, name: str) -> Self:
        """Look it up; UnavailableError where there is none, UsageError for root."""
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            raise UnavailableError(
                f"there is no user {name}, as whom the agent reads what others send",
                hint=f"make it: useradd --system --shell /usr/sbin/nologin {name}; "
                "or name another one: --user",
            ) from None
        if found.pw_uid == 0 or found.pw_gid == 0:
            raise UsageError(
                f"{name} is root, or of its group", hint="name a user without rights: --user"
            )
        return cls(name, found.pw_uid, found.pw_gid)

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Make and open files as this user, for a while."""
        own = os.getegid()
        os.setegid(self.gid)
        os.seteuid(self.uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(own)


def prepare(state_dir: Path, user: AgentUser) -> None:
    """Let user have the history in state_dir, and nobody but root the journals of moves.

    The folder is root's, and sticky: the user can make files in it, and cannot remove or replace
    what is root's.  Raises StoreError.
    """
    try:
        moves = state_dir / "move"
        moves.mkdir(mode=0o700, exist_ok=True)
        made = moves.lstat()
        if not stat.S_ISDIR(made.st_mode) or made.st_uid:
            raise StoreError(
                f"{moves} is not root's own folder",
                hint="find out who made it; move it away, and start again",
            )
        for suffix in ("", "-wal", "-shm"):
            _give(state_dir / f"{FILE}{suffix}", user)
        found = state_dir.stat()
        if (found.st_uid, found.st_gid) != (0, user.gid):
            os.chown(state_dir, 0, user.gid)
        # Where others may look into it, they still may: a socket can be there.
        state_dir.chmod(0o1770 | found.st_mode & 0o005)
    except OSError as error:
        raise StoreError(
            f"{state_dir} cannot be given to {user.name}: {error.strerror}",
            hint="run as root, on a file system that keeps owners",
        ) from error


def _give(path: Path, user: AgentUser) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise StoreError(f"{path} is no file of its own", hint="move it away")
        if found.st_uid == user.uid:
            return
        try:
            os.fchown(fd, user.uid, user.gid)
        except PermissionError:
            # Within its unit root may not; there the service manager has given it to the group.
            if found.st_gid != user.gid:
                raise
            os.fchmod(fd, 0o660)
    finally:
        os.close(fd)


def needed(release: str = "") -> tuple[Capability, ...]:
    """The capabilities that the agent cannot do without on a kernel; release: this one's.

    Before Linux 5.19 bpf(2) was refused as a whole to whoever has none (c8644cd0efe7, "bpf: refine
    kernel.unprivileged_bpf_disabled behaviour"); the list of system calls leaves it what is open.
    """
    numbers = re.match(r"(\d+)\.(\d+)", release or os.uname().release)
    old = numbers is not None and (int(numbers[1]), int(numbers[2])) < _MAPS_FOR_EVERYBODY
    return (Capability.BPF,) if old else ()


def _toward_itself() -> dict[str, CallRule]:
    """Calls by which a process could end or slow down others of its user: the mover's parsers."""
    return {
        "fcntl": CallRule(1, _OWN_FILES),
        "prlimit64": CallRule(0, (0,)),
        "tgkill": CallRule(0, (os.getpid(),)),
    }


def enter(user: AgentUser, state_dir: Path) -> None:
    """Become user for good, without a capability.  Raises UnavailableError.

    Call it before the first thread is started, and with everything imported: a file of Python's
    may not be readable any more.
    """
    try:
        capabilities.become(user.uid, user.gid, needed())
        readable = [Path(each) for each in _READABLE]
        if not landlock.restrict(readable, [state_dir]):
            _log.warning(
                "the kernel has no Landlock: what keeps the agent from files that anybody may "
                "write is its unit alone"
            )
        seccomp.allow(_CALLS, {**_RULES, **_toward_itself()}, _ERRORS)
    except OSError as error:
        raise UnavailableError(
            f"privileges cannot be dropped: {error}", hint="run the agent as root"
        ) from None
