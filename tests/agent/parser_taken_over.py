"""`prtrace agent`, whose parsers are somebody else's from the first reply that they get.

PARSER says what they do: "tries" what their process might do, and tells in its answer what it got;
"lies" of a unit on which nothing is registered; "hangs".  Pages of sysfs they read honestly, or no
device would be found.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from prtrace.cli.main import run
from prtrace.scsi import facts
from prtrace.scsi.facts import HEADER
from prtrace.scsi.reply import ReadFullStatus, ReadKeys, ReadReservation

_libc = ctypes.CDLL(None, use_errno=True)
_PTRACE, _PROCESS_VM_READV, _UNSHARE, _BPF, _MEMFD, _IOCTL = 101, 310, 272, 321, 319, 16
_SETRLIMIT = 160
_SG_IO = 0x2285
_AGENT = os.getpid()
_honest = facts.answer_to


def called(number: int, *arguments: object) -> int:
    """A system call; OSError where it fails."""
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "syscall")
    return result


def connected() -> None:
    with socket.socket(socket.AF_UNIX) as own:
        own.connect(os.environ["AGENT_SOCKET"])


ATTEMPTS: dict[str, Callable[[], object]] = {
    "open the disk": lambda: os.open(os.environ["DISK"], os.O_RDONLY),
    "open sg": lambda: os.open(os.environ["SG"], os.O_RDWR),
    "read a file": lambda: Path("/etc/passwd").read_text(),
    "write a file": lambda: Path("/tmp/by-a-parser").write_text("x"),
    "look into a folder": lambda: os.listdir("/"),
    "read the agent's memory": lambda: Path(f"/proc/{_AGENT}/mem").read_bytes(),
    "read it otherwise": lambda: called(_PROCESS_VM_READV, _AGENT, 0, 0, 0, 0, 0),
    "trace the agent": lambda: called(_PTRACE, 16, _AGENT, 0, 0),
    "kill the agent": lambda: os.kill(_AGENT, signal.SIGKILL),
    "kill everything": lambda: os.kill(-1, signal.SIGKILL),
    "call the agent": connected,
    "inet": lambda: socket.socket(socket.AF_INET),
    "fork": os.fork,
    "execute": lambda: os.execv("/bin/true", ["true"]),
    "run": lambda: subprocess.run(["/bin/true"], check=True),
    "be root": lambda: os.setresuid(0, 0, 0),
    "new namespaces": lambda: called(_UNSHARE, 0x10000000),
    "load a program": lambda: called(_BPF, 5, b"\0" * 128, 128),
    "send a command": lambda: [called(_IOCTL, fd, _SG_IO, b"\0" * 88) for fd in range(64)],
    "a file in memory": lambda: called(_MEMFD, b"x", 0),
    "more limits": lambda: called(_SETRLIMIT, resource.RLIMIT_NOFILE, b"\xff" * 16),
}


def got() -> str:
    """What an attempt got, in a few words; "nothing" where each was refused."""
    made = []
    for name, attempt in ATTEMPTS.items():
        try:
            attempt()
            made.append(name)
        except OSError as error:
            if error.errno != errno.EPERM:
                made.append(f"{name} ({errno.errorcode.get(error.errno or 0, error.errno)})")
    return ", ".join(made) or f"nothing by {len(ATTEMPTS)} attempts"


def tries(number: int, _raw: bytes) -> bytes:
    told = f"got\n{got()}".encode()
    return HEADER.pack(1, len(told)) + told


def lies(number: int, raw: bytes) -> bytes:
    empty = {
        facts.KEYS.number: ReadKeys.of(0),
        facts.RESERVATION.number: ReadReservation(0, None),
        facts.FULL_STATUS.number: ReadFullStatus.of(0),
    }
    return _honest(number, empty[number].build() if number in empty else raw)


def hangs(_number: int, _raw: bytes) -> bytes:
    while True:
        pass


_WORST = {"tries": tries, "lies": lies, "hangs": hangs}[os.environ["PARSER"]]


def answer_to(number: int, raw: bytes) -> bytes:
    return (_honest if number == facts.PAGE_NAMES.number else _WORST)(number, raw)


facts.answer_to = answer_to

if __name__ == "__main__":
    run()
