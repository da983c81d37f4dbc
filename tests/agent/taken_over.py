"""`prtrace agent`, whose code is replaced once it runs: asked for its status, it does its worst.

What it tries is run by the process that parses, with everything that this process has.  The reply
to Status has what came of each attempt under "attempts": an error's name, or what was got.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from prtrace.agent import helper
from prtrace.agent.answers import Answers
from prtrace.agent.arrivals import Mover
from prtrace.agent.helper import HeldDevice, Helper
from prtrace.cli.main import run
from prtrace.errors import PrtraceError, UnavailableError

_libc = ctypes.CDLL(None, use_errno=True)
_PTRACE, _PROCESS_VM_READV, _UNSHARE, _BPF, _PERF_EVENT_OPEN = 101, 310, 272, 321, 298
_LISTEN = 50
_TGKILL = 234
_PR_OUT = bytes((0x5F, 6, 0, 0, 0, 0, 0, 0, 24, 0))
_held: list[Any] = []


def keep(made: Callable[..., None]) -> Callable[..., None]:
    """Remember what is made with this class, to be misused later."""

    def remember(self: object, *arguments: object, **more: object) -> None:
        made(self, *arguments, **more)
        _held.append(self)

    return remember


Helper.__init__ = keep(Helper.__init__)  # type: ignore[method-assign]
Mover.__init__ = keep(Mover.__init__)  # type: ignore[method-assign]


def called(number: int, *arguments: object) -> int:
    """A system call; OSError where it fails."""
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "syscall")
    return result


def forks_parsers() -> int:
    """The process of this one's user that forks parsers for the mover: the first child."""
    return min(child.pid for child in psutil.Process().children())


def wrote(path: str) -> str:
    Path(path).write_text("x")
    Path(path).unlink()
    return "written"


def opened(path: str, flags: int = os.O_RDONLY) -> str:
    os.close(os.open(path, flags))
    return "opened"


def read_memory(pid: int) -> str:
    with open(f"/proc/{pid}/mem", "rb") as memory:
        return memory.read(1).hex()


def sent_by_helper(node: str) -> str:
    (helping,) = (each for each in _held if isinstance(each, Helper))
    with helping.open(node) as device:
        device.connection.send(helper._COMMAND.pack(len(_PR_OUT), _PR_OUT, 24, 1000))
        helper._reply(node, device.connection, 60)
    return "sent"


def opened_by_helper(number: tuple[bool, int, int]) -> str:
    (helping,) = (each for each in _held if isinstance(each, Helper))
    with helping._asked(helper._REQUEST.pack(helper._DEVICE, *number)) as connection:
        helper._reply("node", connection, 60)
    return HeldDevice.__name__


_FINISH = b'{"method":"io.prtrace.Finish","parameters":{"file":{}}}\0'


def links() -> tuple[socket.socket, socket.socket]:
    """To the mover and to the helper."""
    (moving,) = (each for each in _held if isinstance(each, Mover))
    (helping,) = (each for each in _held if isinstance(each, Helper))
    return moving._link, helping._link


def given_by_mover(kind: bytes) -> socket.socket:
    """The next connection of this kind; others are closed."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if select.select([links()[0]], [], [], 1)[0]:
            message, given, _, _ = socket.recv_fds(links()[0], 4096, 1)
            connection = socket.socket(fileno=given[0])
            if message[:1] == kind:
                connection.settimeout(10)
                return connection
            connection.close()
    raise TimeoutError(errno.ETIMEDOUT, "nothing came from the mover")


def answered(connection: socket.socket) -> str:
    """What comes of Finish on it."""
    connection.settimeout(10)
    connection.sendall(_FINISH)
    told = connection.recv(4096)
    if not told:
        raise ConnectionError(errno.ECONNRESET, "closed")
    answer = json.loads(told[:-1])
    if answer.get("error") == "io.prtrace.PermissionDenied":
        raise UnavailableError(answer["parameters"]["message"])
    return f"moved: {answer}"


def moved_as_a_reader() -> str:
    links()[0].send(b"12345678")
    with given_by_mover(b"R") as connection:
        return answered(connection)


def moved_by(*ends: socket.socket, far: socket.socket) -> str:
    """Hand ends to the mover in every way it might take them, and call on the far one."""
    given = [each.fileno() for each in ends]
    for message in (b"C", b"R", b"A", b"C" * 13, b"x" * 64):
        for descriptors in (given, given[::-1], given[:1]):
            socket.send_fds(links()[0], [message], descriptors)
    for each in ends:
        each.close()
    return answered(far)


def moved_as_itself() -> str:
    far, end = socket.socketpair()
    other, one_more = socket.socketpair()
    with far, other:
        return moved_by(end, one_more, far=far)


def moved_by_a_connecting_end() -> str:
    """The end that called connect(), on the agent's socket: of it the kernel says root."""
    end = socket.socket(socket.AF_UNIX)
    end.connect(os.environ["AGENT_SOCKET"])
    _, uid, _ = struct.unpack("iII", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid:
        return f"another end than was meant: of {uid}"
    other, one_more = socket.socketpair()
    with given_by_mover(b"A") as wrapping:
        _, (accepted,), _, _ = socket.recv_fds(wrapping, 4096, 1)
    with socket.socket(fileno=accepted) as far, other:
        return moved_by(end, one_more, far=far)


def held_the_listening_socket() -> str:
    for name in os.listdir("/proc/self/fd"):
        try:
            held = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue  # no socket
        with held:
            if held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return f"descriptor {name}"
    raise PermissionError(errno.EPERM, "none listens")


def listened() -> str:
    with socket.socket(socket.AF_UNIX) as own:
        called(_LISTEN, own.fileno(), 1)
    return "listens"


def ended_root_by_no_sockets() -> str:
    """Descriptors that are none of sockets, to who might take them for some: all go on."""
    to_mover, to_helper = links()
    null = os.open("/dev/null", os.O_RDONLY)
    for _ in range(20):
        socket.send_fds(to_mover, [b"C"], [null] * 2)
        socket.send_fds(to_helper, [b"D"], [null])
        to_helper.recv(1)
    os.close(null)
    return "nothing"


def attempts(state_dir: str, disk: str, sg: str) -> dict[str, Callable[[], object]]:
    """By name; each is to fail."""
    parent = os.getppid()
    return {
        **{f"write {path}": lambda path=path: wrote(path) for path in (
            "/etc/x", "/tmp/x", "/var/tmp/x", "/dev/shm/x", "/run/x", "/root/x", "/usr/x",
            f"{state_dir}/../x", f"{state_dir}/move/x", "/sys/fs/bpf/x", "/proc/sys/kernel/panic",
        )},
        "write /etc/passwd": lambda: opened("/etc/passwd", os.O_WRONLY),
        "write agent.lock": lambda: opened(f"{state_dir}/agent.lock", os.O_WRONLY),
        "remove agent.lock": lambda: os.unlink(f"{state_dir}/agent.lock"),
        "replace move": lambda: os.rename(f"{state_dir}/move", f"{state_dir}/moved"),
        "open disk": lambda: opened(disk),
        "open sg": lambda: opened(sg),
        "open kmsg": lambda: opened("/dev/kmsg", os.O_WRONLY),
        "make a node": lambda: os.mknod(f"{state_dir}/node", 0o060600, os.stat(disk).st_rdev),
        "read shadow": lambda: opened("/etc/shadow"),
        "read a home": lambda: os.listdir("/home"),
        "read tmp": lambda: opened("/tmp/of-somebody"),
        "read root's memory": lambda: read_memory(parent),
        "read root's environment": lambda: Path(f"/proc/{parent}/environ").read_bytes(),
        "read root's descriptors": lambda: os.listdir(f"/proc/{parent}/fd"),
        "process_vm_readv": lambda: called(_PROCESS_VM_READV, parent, 0, 0, 0, 0, 0),
        "ptrace": lambda: called(_PTRACE, 16, parent, 0, 0),
        "execute": lambda: os.execv("/bin/true", ["true"]),
        "run": lambda: subprocess.run(["/bin/true"], check=True),
        "fork": os.fork,
        "inet": lambda: socket.socket(socket.AF_INET),
        "inet6": lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
        "packet": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
        "be root": lambda: os.setresuid(0, 0, 0),
        "new namespaces": lambda: called(_UNSHARE, 0x10000000),
        "load a program": lambda: called(_BPF, 5, b"\0" * 128, 128),
        "open a pin": lambda: called(_BPF, 7, b"\0" * 128, 128),
        "perf_event_open": lambda: called(_PERF_EVENT_OPEN, b"\0" * 128, -1, 0, -1, 0),
        "kill a process of root's": lambda: os.kill(parent, signal.SIGTERM),
        "kill what forks parsers": lambda: os.kill(forks_parsers(), signal.SIGKILL),
        "kill a thread of it": lambda: called(_TGKILL, forks_parsers(), forks_parsers(), 9),
        "limit it": lambda: resource.prlimit(forks_parsers(), resource.RLIMIT_CPU, (0, 0)),
        "have the kernel signal it": lambda: fcntl.fcntl(
            links()[0].fileno(), fcntl.F_SETOWN, forks_parsers()
        ),
        "read its memory": lambda: read_memory(forks_parsers()),
        "trace it": lambda: called(_PTRACE, 16, forks_parsers(), 0, 0),
        "have PR OUT sent": lambda: sent_by_helper(sg),
        "have another device opened": lambda: opened_by_helper((False, 1, 3)),
        "move as a reader": moved_as_a_reader,
        "move as itself": moved_as_itself,
        "move by a connecting end": moved_by_a_connecting_end,
        "hold the listening socket": held_the_listening_socket,
        "listen": listened,
        "end root's processes": ended_root_by_no_sockets,
    }  # fmt: skip


def outcome(attempt: Callable[[], object]) -> str:
    try:
        return f"got {attempt()!r:.60}"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except PrtraceError as error:
        return f"refused: {error.message}"


def status(self: Answers) -> dict[str, Any]:
    told = _status(self)
    state_dir = Path(told["store"]["path"]).parent
    disk, sg = os.environ["DISK"], os.environ["SG"]
    tried = attempts(str(state_dir), disk, sg)
    told["attempts"] = {name: outcome(attempt) for name, attempt in tried.items()}
    wrote(f"{state_dir}/own")
    return told


_status = Answers.status
Answers.status = status  # type: ignore[method-assign]

if __name__ == "__main__":
    run()
