"""Hostile clients against the proxy: slow ones, thousands of descriptors, files that never answer.

    python3 tests/proxy/hostile.py    (root, real-time priorities; /dev/fuse for the FUSE part)

Prints "N passed, N failed"; exits 1 when something failed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import random
import select
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).parent))

from helpers import proxy
from streams import PR_IN, REPLY, Message, cdb, play

from prtrace.prhelper.connection import GREETING_SECONDS, MESSAGE_SECONDS

SLOW = 500
ROUNDS = 3
REQUESTS = 1500
THROWN = 10_000
DEADLINE = 60.0
_MNT_FORCE, _MNT_DETACH = 1, 2
_libc = ctypes.CDLL(None, use_errno=True)

passed: list[str] = []
failures: list[str] = []


def check(what: str, holds: bool, figures: str = "") -> None:
    (passed if holds else failures).append(what)
    print(f"{'ok' if holds else 'FAILED'}: {what} {figures}", flush=True)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident(pid: int) -> int:
    """Bytes of the process's own memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def until(condition: object, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.05)
    return False


def good_client(path: Path, rounds: int) -> list[float]:
    """Round trips of one well-behaved client; /dev/null answers at once."""
    times = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(DEADLINE)
        sock.connect(str(path))
        sock.recv(4, socket.MSG_WAITALL)
        sock.sendall(bytes(4))
        fd = os.open("/dev/null", os.O_RDWR)
        for _ in range(rounds):
            start = time.perf_counter()
            socket.send_fds(sock, [cdb(PR_IN, 0, 255)], [fd])
            sock.recv(REPLY.size, socket.MSG_WAITALL)
            times.append(time.perf_counter() - start)
            time.sleep(0.0005)
        os.close(fd)
    return times


def tail(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[-1]


def _connect_all(path: Path, socks: list[socket.socket]) -> None:
    """Make them SLOW again, as far as the backlog has room."""
    while len(socks) < SLOW:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            sock.connect(str(path))
        except BlockingIOError:
            sock.close()
            return
        socks.append(sock)


def _idle(path: Path) -> NoReturn:
    """Be SLOW clients that have greeted and say nothing."""
    socks: list[socket.socket] = []
    while len(socks) < SLOW:
        before = len(socks)
        _connect_all(path, socks)
        for sock in socks[before:]:
            sock.send(bytes(4))
        time.sleep(0.01)
    while True:
        time.sleep(DEADLINE)


def _dawdle(path: Path) -> NoReturn:
    """Be SLOW clients, each of which sends a byte a second, and connects again when thrown out."""
    r = random.Random(1)
    socks: list[socket.socket] = []
    while True:
        _connect_all(path, socks)
        for sock in r.sample(socks, len(socks) // 20):
            try:
                sock.send(bytes((r.choice((0, 0x5E)),)))
            except OSError:
                sock.close()
                socks.remove(sock)
        time.sleep(0.05)


def _stall(path: Path) -> NoReturn:
    """Be SLOW clients that begin a request all at once, are thrown out together, and come back."""
    socks: list[socket.socket] = []
    while True:
        before = len(socks)
        _connect_all(path, socks)
        for sock in socks[before:]:
            sock.send(bytes(4) + b"\x5e")
        poll = select.poll()
        for sock in socks:
            poll.register(sock, 0)  # the end of the connection alone
        gone = {number for number, _ in poll.poll(10)}
        for sock in [each for each in socks if each.fileno() in gone]:
            sock.close()
            socks.remove(sock)


@contextlib.contextmanager
def crowd(be: Callable[[Path], NoReturn], path: Path, pid: int) -> Iterator[None]:
    """SLOW clients in a process of their own, which yields the CPU to the measured one."""
    child = os.fork()
    if not child:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        be(path)
    try:
        if not until(lambda: descriptors(pid) > SLOW, DEADLINE):
            raise TimeoutError(f"{descriptors(pid)} descriptors, {SLOW} clients wanted")
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@contextlib.contextmanager
def on_cpu(number: int) -> Iterator[None]:
    """We, and what is started meanwhile, run there, ahead of everything else on this machine."""
    cpus, policy = os.sched_getaffinity(0), os.sched_getscheduler(0)
    parameter = os.sched_getparam(0)
    os.sched_setaffinity(0, {number})
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(2))
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameter)
        os.sched_setaffinity(0, cpus)


def check_slow(folder: Path) -> None:
    """What SLOW clients cost another: the 99th percentile of its round trip, against none.

    The proxy has one CPU; the clients, slow ones and measured one, have another, where the
    measured one goes first; all of them go before what else runs on the machine.  Idle clients
    have greeted.  Those that dawdle send a byte a second and connect again when they are thrown
    out, which has begun when they are measured.  Those that stall are thrown out and connect again
    all at once while they are measured, most of it being that storm.  Each ratio is of medians
    over ROUNDS, in which they take turns.  Figures, no checks: a machine that does other work
    decides them, too.  That all go on, and that no descriptor stays open, is checked.
    """
    path = folder / "slow"
    cpus = sorted(os.sched_getaffinity(0))
    crowds = {
        "idle": (_idle, 0.0),
        "dawdling": (_dawdle, 2 * MESSAGE_SECONDS),
        "stalling": (_stall, MESSAGE_SECONDS - 0.5),
    }
    tails: dict[str, list[float]] = {name: [] for name in ("none", *crowds)}
    with contextlib.ExitStack() as stack:
        with on_cpu(cpus[-1]):
            running = stack.enter_context(proxy(path, "--connections-of-user", "1000"))
        stack.enter_context(on_cpu(cpus[0]))
        before = descriptors(running.pid)
        for _ in range(ROUNDS):
            tails["none"].append(tail(good_client(path, REQUESTS)))
            for name, (be, seconds) in crowds.items():
                with crowd(be, path, running.pid):
                    time.sleep(seconds)
                    tails[name].append(tail(good_client(path, REQUESTS)))
                if not until(lambda: descriptors(running.pid) <= before, DEADLINE):
                    raise TimeoutError("the proxy keeps connections whose clients have gone")
    none = statistics.median(tails["none"])
    for name in crowds:
        ratio = statistics.median(tails[name]) / none
        print(
            f"99th percentile beside {SLOW} {name} clients: {ratio:.2f} of {none * 1e6:.0f} us"
            " (asked: at most 2)"
        )


def _client(path: Path, *parts: bytes) -> socket.socket:
    """A connection that has sent these parts and says no more."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(DEADLINE)
    sock.connect(str(path))
    for part in parts:
        sock.sendall(part)
    return sock


def _glut(path: Path) -> socket.socket:
    """A connection that sends requests until nobody takes them: it reads no reply."""
    sock = _client(path, bytes(4))
    sock.setblocking(False)
    fd = os.open("/dev/null", os.O_RDWR)
    stuck = 0
    while stuck < 20:
        try:
            socket.send_fds(sock, [cdb(PR_IN, 0, 255)], [fd])
            stuck = 0
        except BlockingIOError:
            stuck += 1
            time.sleep(0.02)
    os.close(fd)
    return sock


def check_limits(path: Path, pid: int) -> None:
    """Who is too slow is thrown out when DIFFERENCES.md says so; who is idle is not."""
    before = descriptors(pid)
    start = time.monotonic()
    idle = _client(path, bytes(4))
    waiting = {
        _client(path): ("no greeting", GREETING_SECONDS),
        _client(path, b"\0"): ("half a greeting", GREETING_SECONDS),
        _client(path, bytes(4), b"\x5e"): ("a byte of a request", MESSAGE_SECONDS),
        _client(path, bytes(4), cdb(PR_IN, 0, 8)[:15]): ("all but a byte", MESSAGE_SECONDS),
        _glut(path): ("no reply taken", MESSAGE_SECONDS),
    }
    late = time.monotonic() - start
    poll = select.poll()
    numbers = {sock.fileno(): told for sock, told in waiting.items()}
    for number in (*numbers, idle.fileno()):
        poll.register(number, 0)  # the end of the connection alone
    while numbers and time.monotonic() - start < DEADLINE:
        for number, _ in poll.poll(1000):
            taken = time.monotonic() - start
            poll.unregister(number)
            what, seconds = numbers.pop(number, ("idle", 0.0))
            check(f"{what}: closed after {seconds:.0f} s",
                  seconds - 0.5 <= taken <= seconds + late + 2, f"{taken:.1f} s")  # fmt: skip
    check("all of them", not numbers, " ".join(what for what, _ in numbers.values()))
    idle.sendall(b"\x5e")
    check("an idle client stays", not poll.poll(100))
    for sock in (*waiting, idle):
        sock.close()
    check("nothing is left", until(lambda: descriptors(pid) <= before))


def check_too_many(folder: Path) -> None:
    """Beyond the limit of connections the next is closed, and served again when there is room."""
    path = folder / "few"
    with proxy(path, "--connections", "3") as running:
        socks = [_client(path) for _ in range(3)]
        greetings = [sock.recv(4) for sock in socks]
        check("three are served", all(len(word) == 4 for word in greetings))
        with _client(path) as fourth:
            check("a fourth is not", fourth.recv(4) == b"")
        before = descriptors(running.pid)
        socks.pop().close()
        check("one has gone", until(lambda: descriptors(running.pid) < before))
        with _client(path) as fourth:
            check("then the next is", len(fourth.recv(4)) == 4)
        for sock in socks:
            sock.close()


def check_thrown(path: Path, pid: int) -> None:
    """Descriptors in every number and place, whole requests and broken ones."""
    fds = {"null": os.open("/dev/null", os.O_RDWR), "root": os.open("/", os.O_RDONLY)}
    fds["pipe"], other = os.pipe()
    r = random.Random(2)
    good_client(path, 20)
    before, memory = descriptors(pid), 0
    thrown = 0
    while thrown < THROWN:
        count = r.choice((1, 1, 2, 3, 16, 200))
        names = tuple(r.choice(list(fds)) for _ in range(count))
        head = cdb(PR_IN, 0, 255)
        cut = r.randrange(1, 16)
        stream = (Message(bytes(4)), Message(head[:cut], names), Message(head[cut:]))
        play(str(path), stream[: r.randrange(2, 4)], fds)
        thrown += count
        if not memory and thrown > THROWN // 10:
            memory = resident(pid)
    check(
        "descriptors are all closed",
        until(lambda: descriptors(pid) <= before),
        f"{before} -> {descriptors(pid)}",
    )
    after = resident(pid)
    check("memory within 20 %", after <= memory * 1.2, f"{memory >> 10} -> {after >> 10} KiB")
    for fd in (*fds.values(), other):
        os.close(fd)


@contextlib.contextmanager
def dead_file(folder: Path) -> object:
    """A file on a FUSE file system whose server answers INIT, LOOKUP, OPEN, and no more."""
    place = folder / "fuse"
    place.mkdir()
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
    subprocess.run(
        ["mount", "-i", "-t", "fuse", "-o", options, "dead", str(place)],
        check=True,
        pass_fds=[device],
    )

    def attributes(node: int) -> bytes:
        mode = 0o40755 if node == 1 else 0o100644
        # ino, size, blocks, 3 times, 3 parts of them, mode, nlink, uid, gid, rdev, ...
        return struct.pack("<6Q10I", node, 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def serve() -> None:
        while True:
            try:
                request = os.read(device, 1 << 17)
            except OSError:
                return
            _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
            match opcode:
                case 26:  # INIT
                    body = struct.pack(
                        "<IIIIHHIIHHI", 7, 31, 65536, 0, 12, 10, 65536, 1, 32, 0, 0
                    ) + bytes(28)
                case 3 if node == 1:  # GETATTR of the root
                    body = struct.pack("<QII", 0, 0, 0) + attributes(1)
                case 1:  # LOOKUP; attributes that are out of date at once
                    body = struct.pack("<QQQQII", 2, 0, 3600, 0, 0, 0) + attributes(2)
                case 14:  # OPEN
                    body = struct.pack("<QII", 1, 0, 0)
                case _:
                    continue  # GETATTR of the file, FLUSH, RELEASE: silence
            os.write(device, struct.pack("<IiQ", 16 + len(body), 0, unique) + body)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    fd = os.open(place / "file", os.O_RDWR)
    try:
        yield fd
    finally:
        # Forced: ends every wait for the server.  No child does it: closing its copy of fd
        # would wait as well.
        if _libc.umount2(os.fsencode(place), _MNT_FORCE) and _libc.umount2(
            os.fsencode(place), _MNT_DETACH
        ):
            raise OSError(ctypes.get_errno(), "umount2")
        with contextlib.suppress(OSError):  # of flush, from a server that is gone
            os.close(fd)
        os.close(device)


def check_fuse(path: Path, folder: Path, pid: int) -> None:
    with dead_file(folder) as fd:
        for number in range(3):
            start = time.monotonic()
            got = play(
                str(path), (Message(bytes(4)), Message(cdb(PR_IN, 0, 8), ("dead",))), {"dead": fd}
            )
            taken = time.monotonic() - start
            check(
                f"FUSE file {number} is refused",
                [r.status for r in got.replies] == [2],
                f"{taken:.3f} s",
            )
            check("within a second", taken < 1)
        start = time.monotonic()
        good_client(path, 50)
        check("others are served meanwhile", time.monotonic() - start < 2)
    good_client(path, 1)


def check_other_user(path: Path) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    script = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])"
    done = subprocess.run(
        ["/usr/bin/python3", "-c", script, str(path)], user=nobody, group=nobody, extra_groups=[],
        capture_output=True, text=True,
    )  # fmt: skip
    check("another user cannot connect", "PermissionError" in done.stderr)


def main() -> int:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        path = folder / "proxy"
        run_dir = folder / "run"
        run_dir.mkdir()
        process = stack.enter_context(
            proxy(path, "--run-dir", str(run_dir), "--connections-of-user", "1000")
        )
        check_other_user(path)
        check_limits(path, process.pid)
        check_too_many(folder)
        check_slow(folder)
        check_thrown(path, process.pid)
        if os.path.exists("/dev/fuse"):
            check_fuse(path, folder, process.pid)
        else:
            print("not checked: no /dev/fuse")
    print(f"{len(passed)} passed, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
