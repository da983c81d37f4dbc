"""A list of the system calls that a process may still make: seccomp(2), mode filter.

The filter is a program for the classic BPF machine, put together here: the rules are few, and a
library for it is one more package that a distribution must have.  What is not listed fails with
EPERM; so does a listed call whose argument is not one of those that are named.  Source:
Documentation/userspace-api/seccomp_filter.rst and include/uapi/linux/{seccomp,filter,audit}.h.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from prtrace.errors import UnavailableError
from prtrace.linux.libc import checked, library, no_new_privileges

_PR_SET_SECCOMP: Final = 22
_MODE_FILTER: Final = 2

_INSTRUCTION: Final = struct.Struct("=HBBI")
"""struct sock_filter: code, jump if true, jump if false, k."""
_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_GREATER_OR_EQUAL: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
"""Offsets in struct seccomp_data.  An argument is 8 bytes; the lower half comes first."""
_KILL: Final = 0x80000000
_ERROR: Final = 0x00050000
_ALLOW: Final = 0x7FFF0000
_X32: Final = 0x40000000
"""Numbers from here on are those of x86-64's second set of system calls."""


class CallRule(NamedTuple):
    """A call that is allowed where one argument is right."""

    argument: int
    """The argument's place, from 0."""
    values: tuple[int, ...]
    """What the argument's lower 32 bits may be, after mask."""
    mask: int = 0xFFFFFFFF


class _Machine(NamedTuple):
    """What a filter needs to know of an architecture."""

    audit: int
    """The kernel's number of the architecture (AUDIT_ARCH_*)."""
    column: int
    """The column of _CALLS that has its numbers."""


_MACHINES: Final = {"x86_64": _Machine(0xC000003E, 0), "aarch64": _Machine(0xC00000B7, 1)}

_CALLS: Final = {
    name: (int(x86), int(arm))
    for name, x86, arm in (
        line.split()
        for line in """\
accept 43 202
accept4 288 242
access 21 -1
bind 49 200
bpf 321 280
brk 12 214
chmod 90 -1
clock_getres 229 114
clock_gettime 228 113
clock_nanosleep 230 115
clone 56 220
clone3 435 435
close 3 57
connect 42 203
dup 32 23
dup2 33 -1
dup3 292 24
epoll_create1 291 20
epoll_ctl 233 21
epoll_pwait 281 22
epoll_wait 232 -1
eventfd2 290 19
exit 60 93
exit_group 231 94
faccessat 269 48
faccessat2 439 439
fadvise64 221 223
fallocate 285 47
fchmod 91 52
fchmodat 268 53
fcntl 72 25
fdatasync 75 83
flock 73 32
fstat 5 80
fstatfs 138 44
fsync 74 82
ftruncate 77 46
futex 202 98
getcpu 309 168
getcwd 79 17
getdents64 217 61
getegid 108 177
geteuid 107 175
getgid 104 176
getgroups 115 158
getpeername 52 205
getpid 39 172
getppid 110 173
getrandom 318 278
getrlimit 97 163
getrusage 98 165
getsockname 51 204
getsockopt 55 209
gettid 186 178
gettimeofday 96 169
getuid 102 174
ioctl 16 29
listen 50 201
lseek 8 62
lstat 6 -1
madvise 28 233
membarrier 324 283
mincore 27 232
mkdir 83 -1
mkdirat 258 34
mmap 9 222
mprotect 10 226
mremap 25 216
msync 26 227
munmap 11 215
nanosleep 35 101
newfstatat 262 79
open 2 -1
openat 257 56
pipe2 293 59
poll 7 -1
ppoll 271 73
prctl 157 167
pread64 17 67
prlimit64 302 261
pselect6 270 72
pwrite64 18 68
read 0 63
readlink 89 -1
readlinkat 267 78
readv 19 65
recvfrom 45 207
recvmsg 47 212
rename 82 -1
renameat 264 38
renameat2 316 276
restart_syscall 219 128
rmdir 84 -1
rseq 334 293
rt_sigaction 13 134
rt_sigprocmask 14 135
rt_sigreturn 15 139
rt_sigtimedwait 128 137
sched_getaffinity 204 123
sched_yield 24 124
select 23 -1
sendmsg 46 211
sendto 44 206
set_robust_list 273 99
setsockopt 54 208
shutdown 48 210
sigaltstack 131 132
socket 41 198
socketpair 53 199
stat 4 -1
statfs 137 43
statx 332 291
sysinfo 99 179
tgkill 234 131
time 201 -1
umask 95 166
uname 63 160
unlink 87 -1
unlinkat 263 35
utimensat 280 88
wait4 61 260
waitid 247 95
write 1 64
writev 20 66
""".splitlines()
    )
}
"""Calls by name: their numbers on x86-64 and on aarch64, -1 where there is none.

asm/unistd_64.h and asm-generic/unistd.h of Linux 6.1; numbers never change."""


def allow(
    calls: Iterable[str], rules: Mapping[str, CallRule], errors: Mapping[str, int] | None = None
) -> None:
    """Let this process make these calls and no others, for good; threads have to come later.

    calls: names that _CALLS has.  rules: calls that are allowed with certain arguments.  errors:
    calls that fail with another error than EPERM.  Raises UnavailableError on a machine without
    a table, OSError where the kernel refuses.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        raise UnavailableError(
            f"no list of system calls for {platform.machine()}",
            hint="prtrace's agent runs on x86_64 and aarch64",
        )
    code = assemble(machine.audit, *_numbered(machine, calls, rules, errors or {}))
    _install(code)


def _numbered(
    machine: _Machine,
    calls: Iterable[str],
    rules: Mapping[str, CallRule],
    errors: Mapping[str, int],
) -> tuple[list[int], dict[int, CallRule], dict[int, int]]:
    def number(name: str) -> int:
        return _CALLS[name][machine.column]

    return (
        [number(name) for name in calls if number(name) >= 0],
        {number(name): rule for name, rule in rules.items() if number(name) >= 0},
        {number(name): code for name, code in errors.items() if number(name) >= 0},
    )


def assemble(
    audit: int, calls: Iterable[int], rules: Mapping[int, CallRule], errors: Mapping[int, int]
) -> bytes:
    """The filter as an array of struct sock_filter, by the numbers of calls."""
    refuse = (_RETURN, 0, 0, _ERROR | errno.EPERM)
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_IF_EQUAL, 1, 0, audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_IF_GREATER_OR_EQUAL, 0, 1, _X32),
        refuse,
    ]
    for number in sorted(calls):
        code += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    for number, wrong in sorted(errors.items()):
        code += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERROR | wrong)]
    for number, rule in sorted(rules.items()):
        body = [
            (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * rule.argument),
            (_AND, 0, 0, rule.mask),
        ]
        for value in rule.values:
            body += [(_IF_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
        body.append(refuse)
        code += [(_IF_EQUAL, 0, len(body), number), *body]
    code.append(refuse)
    return b"".join(_INSTRUCTION.pack(*each) for each in code)


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _install(code: bytes) -> None:
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // _INSTRUCTION.size, ctypes.addressof(buffer))
    libc = library()
    no_new_privileges(libc)
    checked(libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0), "seccomp")
