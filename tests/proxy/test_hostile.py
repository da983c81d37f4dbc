"""Hostile clients, and a proxy that is restarted beside them: no SCSI device is needed."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from beside import descriptors, good_client, resident
from dead_file import dead_file
from helpers import proxy
from labkit import pace
from proxy_clients import PR_IN, REPLY, connect, read_keys, send_with
from streams import Message, cdb, play

PROGRAM = Path(__file__).parents[1] / "hostile/proxy_clients.py"
GREETING_SECONDS, MESSAGE_SECONDS = 30.0, 5.0
"""As DIFFERENCES.md says them."""
NULL = {"null": os.open("/dev/null", os.O_RDWR)}
ASKS = (Message(bytes(4)), Message(cdb(PR_IN, 0, 255), ("null",)))


@pytest.fixture
def path() -> Iterator[Path]:
    """Where everybody may look: the socket's own mode is what keeps others out."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder, "proxy")


def await_(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + pace.limit(20)
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def answered(path: Path) -> bool:
    """Whether a well-behaved client is served."""
    return [reply.status for reply in play(str(path), ASKS, NULL).replies] == [2]


def connections(path: Path) -> int:
    """How many connections that were accepted at path are open."""
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return sum(row[5] == "03" and row[-1] == str(path) for row in rows)


@contextlib.contextmanager
def hostile(kind: str, path: Path, count: int, **words: object) -> Iterator[None]:
    command = [sys.executable, str(PROGRAM), kind, str(path), "--count", str(count)]
    with subprocess.Popen(command, **words) as running:  # type: ignore[call-overload]
        try:
            yield
        finally:
            running.kill()


def test_another_user_cannot_connect(path: Path) -> None:
    script = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])"
    nobody = pwd.getpwnam("nobody").pw_uid
    with proxy(path):
        done = subprocess.run(
            ["/usr/bin/python3", "-c", script, str(path)], user=nobody, group=nobody,
            extra_groups=[], capture_output=True, text=True,
        )  # fmt: skip
    assert "PermissionError" in done.stderr


@pytest.mark.timeout(120)
def test_who_is_too_slow_is_thrown_out_and_who_is_idle_is_not(path: Path) -> None:
    with proxy(path) as running:
        assert answered(path)
        before = descriptors(running.pid)
        start = time.monotonic()
        idle = connect(str(path))
        idle.sendall(bytes(4))
        waiting = {}
        for what, seconds, parts in (
            ("no greeting", GREETING_SECONDS, []),
            ("half a greeting", GREETING_SECONDS, [b"\0"]),
            ("a byte of a request", MESSAGE_SECONDS, [bytes(4), b"\x5e"]),
            ("all but a byte", MESSAGE_SECONDS, [bytes(4), read_keys()[:15]]),
            # Each descriptor ends one call of the receiver: the deadline is for all of them.
            ("a list in pieces", MESSAGE_SECONDS, [bytes(4)]),
        ):
            sock = connect(str(path))
            for part in parts:
                sock.sendall(part)
            waiting[sock.fileno()] = sock, what, seconds
        send_with(sock, cdb(0x5F, 0, 24), [NULL["null"]])
        late = time.monotonic() - start
        poll = select.poll()
        for number in (*waiting, idle.fileno()):
            poll.register(number, 0)  # the end of the connection alone
        while waiting:
            assert time.monotonic() - start < pace.limit(100), [
                what for _, what, _ in waiting.values()
            ]
            with contextlib.suppress(OSError):
                send_with(sock, b"\0", [NULL["null"]])
            for number, _ in poll.poll(900):
                taken = time.monotonic() - start
                poll.unregister(number)
                one, what, seconds = waiting.pop(number)
                assert seconds - 0.5 <= taken <= seconds + late + pace.limit(4), what
                one.close()
        idle.sendall(b"\x5e")
        assert not poll.poll(100)
        idle.close()
        await_(lambda: descriptors(running.pid) <= before, "a descriptor was left")


@pytest.mark.timeout(120)
def test_who_takes_no_reply_is_thrown_out(path: Path) -> None:
    with proxy(path) as running, connect(str(path)) as sock:
        sock.sendall(bytes(4))
        sock.setblocking(False)
        poll = select.poll()
        poll.register(sock, 0)  # the end of the connection alone
        end = time.monotonic() + pace.limit(MESSAGE_SECONDS + 30)
        served, pause = False, 0
        while not poll.poll(pause):
            assert time.monotonic() < end, "it goes on"
            try:
                send_with(sock, read_keys(), [NULL["null"]])
                pause = 0
            except BlockingIOError:  # neither takes anything from the other any more
                served = served or answered(path)
                pause = 20
            except OSError:  # it was closed just now
                break
        assert served, "the others are not served"
        assert running.poll() is None


@pytest.mark.timeout(120)
def test_one_unit_cannot_take_all_places(path: Path) -> None:
    """One process, then many of one unit, take what they can; another unit is served.

    The cgroup of each is what tells them apart, and these are of one user.
    """
    options = ["--connections", "40", "--connections-of-unit", "20"]
    options += ["--connections-of-process", "5", "--connections-of-user", "40"]
    with proxy(path, *options) as running, in_group("hostile") as group:
        with hostile("takers", path, 1, preexec_fn=group):
            await_(lambda: descriptors(running.pid) > 5, "nobody came")
            time.sleep(1)
            assert answered(path)
        with hostile("takers", path, 8, preexec_fn=group, start_new_session=True):
            await_(lambda: descriptors(running.pid) > 20, "nobody came")
            time.sleep(1)
            assert answered(path)


COMES_AGAIN = """
import socket, sys, time
begun = time.monotonic()
for _ in range(30):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(sys.argv[1])
        assert len(sock.recv(4, socket.MSG_WAITALL)) == 4
print(time.monotonic() - begun)
"""


@pytest.mark.timeout(120)
def test_who_comes_again_and_again_waits_and_nobody_else_does(path: Path) -> None:
    options = ["--connections-of-process", "8", "--arrivals-of-process", "10"]
    with proxy(path, *options), subprocess.Popen(
        [sys.executable, "-c", COMES_AGAIN, str(path)], stdout=subprocess.PIPE, text=True
    ) as again:  # fmt: skip
        assert answered(path)
        told, _ = again.communicate(timeout=pace.limit(60))
        # Eight at once, and the rest ten a second.
        assert float(told) >= (30 - 8 - 1) / 10


@contextlib.contextmanager
def in_group(name: str) -> Iterator[Callable[[], None]]:
    """What puts a child into a cgroup of its own; a skip would say nothing."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        kind = words[words.index("-") + 1]
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in line):
            place = Path(words[4], f"{name}.service")
            break
    else:
        raise AssertionError("no cgroup file system")
    place.mkdir(exist_ok=True)

    def enter() -> None:
        (place / "cgroup.procs").write_text(str(os.getpid()))

    try:
        yield enter
    finally:
        for pid in (place / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        end = time.monotonic() + pace.limit(20)
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                place.rmdir()
                break
            time.sleep(0.05)


@pytest.mark.timeout(120)
def test_descriptors_in_every_number_and_place_are_closed(path: Path) -> None:
    r = random.Random(2)
    ends = os.pipe()
    fds = {**NULL, "root": os.open("/", os.O_RDONLY), "pipe": ends[0]}
    with proxy(path) as running:
        good_client(path, 20)
        before, memory, thrown = descriptors(running.pid), 0, 0
        while thrown < 10_000:
            count = r.choice((1, 1, 2, 3, 16, 200))
            names = tuple(r.choice(list(fds)) for _ in range(count))
            head, cut = cdb(PR_IN, 0, 255), r.randrange(1, 16)
            stream = (Message(bytes(4)), Message(head[:cut], names), Message(head[cut:]))
            play(str(path), stream[: r.randrange(2, 4)], fds)
            thrown += count
            if not memory and thrown > 1000:
                memory = resident(running.pid)
        await_(lambda: descriptors(running.pid) <= before, "a descriptor was left")
        assert resident(running.pid) <= memory * 1.2
    for fd in (*ends, fds["root"]):
        os.close(fd)


@pytest.mark.timeout(120)
def test_a_descriptor_that_does_not_arrive_ends_the_connection(path: Path) -> None:
    """The proxy may open no more; QEMU's thread would wait for an answer for ever."""
    with proxy(path) as running:
        assert answered(path)
        with connect(str(path)) as sock:
            sock.sendall(bytes(4))
            sock.recv(4, socket.MSG_WAITALL)
            # The connections before this one may be closing still: their numbers come free then.
            await_(lambda: connections(path) == 1, "others do not close")
            highest = max(map(int, os.listdir(f"/proc/{running.pid}/fd")))
            subprocess.run(
                ["prlimit", "--pid", str(running.pid), f"--nofile={highest + 1}:4096"], check=True
            )
            holes = highest + 1 - descriptors(running.pid)
            with contextlib.ExitStack() as stack:
                for _ in range(holes):
                    stack.enter_context(connect(str(path)))
                await_(lambda: descriptors(running.pid) > highest, "it still has numbers")
                send_with(sock, read_keys(), [NULL["null"]])
                assert sock.recv(REPLY.size) == b""
        subprocess.run(["prlimit", "--pid", str(running.pid), "--nofile=4096:4096"], check=True)
        await_(lambda: answered(path), "it does not recover")


@pytest.mark.timeout(120)
def test_a_file_that_never_answers_holds_up_its_sender_only(path: Path, tmp_path: Path) -> None:
    """Its thread waits in close(): that connection hangs, and nothing else."""
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(proxy(path, "--connections-of-process", "8"))
        fd = stack.enter_context(dead_file(tmp_path))
        for _ in range(3):
            sock = stack.enter_context(connect(str(path)))
            start = time.monotonic()
            sock.sendall(bytes(4))
            sock.recv(4, socket.MSG_WAITALL)
            send_with(sock, read_keys(), [fd])
            assert REPLY.unpack(sock.recv(REPLY.size, socket.MSG_WAITALL))[0] == 2
            assert time.monotonic() - start < pace.limit(10)
        assert answered(path)
        # Not that it ends: the kernel lets nobody go who waits for a FUSE server's answer.
        running.send_signal(signal.SIGTERM)
        await_(lambda: not path.exists(), "a successor cannot have the path")


def test_a_stopping_proxy_leaves_its_successors_socket(path: Path, tmp_path: Path) -> None:
    """The first one still has a command under way when the second one takes the path."""
    disk = next(f"/dev/{name}" for name in sorted(os.listdir("/sys/block")))
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(str(tmp_path / "helper"))
        listener.listen()
        first = stack.enter_context(proxy(path, "--upstream", str(tmp_path / "helper")))
        sock = stack.enter_context(connect(str(path)))
        sock.sendall(bytes(4))
        fd = os.open(disk, os.O_RDONLY | os.O_NONBLOCK)
        stack.callback(os.close, fd)
        send_with(sock, read_keys(), [fd])
        helper = stack.enter_context(listener.accept()[0])
        helper.sendall(bytes(4))
        assert len(helper.recv(20, socket.MSG_WAITALL)) == 20  # and no answer yet
        first.send_signal(signal.SIGTERM)
        await_(lambda: not path.exists(), "it still listens")
        second = stack.enter_context(proxy(path))
        assert first.poll() is None, "it has not waited for its command"
        helper.sendall(REPLY.pack(0, 0, b""))
        assert first.wait(pace.limit(10)) == 0
        assert answered(path)
        assert second.poll() is None


def test_the_policy_is_read_again_and_a_wrong_one_is_not_taken(path: Path, tmp_path: Path) -> None:
    policy, log, run = tmp_path / "policy", tmp_path / "log", tmp_path / "run"
    policy.write_text('guard = "warn"\n')
    run.mkdir()
    with proxy(path, "--policy", str(policy), "--run-dir", str(run), log=log) as running:
        assert answered(path)
        for text, words in (
            ('guard = "refuse"\n', "the policy was read again"),
            ('guard = "maybe"\n', "the policy stays as it was"),
        ):
            policy.write_text(text)
            running.send_signal(signal.SIGHUP)
            await_(lambda words=words: words in log.read_text(), words)
            assert answered(path)
        running.send_signal(signal.SIGTERM)
        assert running.wait(pace.limit(10)) == 0
    assert not path.exists()


def test_refuse_needs_a_memory(path: Path, tmp_path: Path) -> None:
    (tmp_path / "policy").write_text('guard = "refuse"\n')
    command = [sys.executable, "-m", "prtrace", "proxy", "--listen", str(path),
               "--policy", str(tmp_path / "policy")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--run-dir" in done.stderr


def test_root_alone_may_hold_a_guest(path: Path) -> None:
    control = path.with_name("control")
    with proxy(path, "--control", str(control)), connect(str(control)) as sock:
        assert control.stat().st_mode & 0o777 == 0o600
        sock.sendall(b'{"do": "hold", "guest": "vm", "seconds": 5}\n')
        assert json.loads(sock.recv(4096)) == {"hold": 1, "held": True, "clients": []}
        sock.sendall(b"rubbish\n")
        assert "error" in json.loads(sock.recv(4096))
        sock.sendall(b"x" * 5000)
        assert "at most 4096 bytes" in json.loads(sock.recv(4096))["error"]
        control.chmod(0o666)
        script = (
            "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
            "print(s.recv(4096).decode())"
        )
        nobody = pwd.getpwnam("nobody").pw_uid
        done = subprocess.run(
            ["/usr/bin/python3", "-c", script, str(control)], user=nobody, group=nobody,
            extra_groups=[], capture_output=True, text=True,
        )  # fmt: skip
        assert f"uid {nobody} may not hold guests' commands" in done.stdout
