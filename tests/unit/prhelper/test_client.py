"""Who is at the other end: of this process, a child, a process that has gone."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from labkit import pace

from prtrace.prhelper import client as module
from prtrace.prhelper.client import claimed_by, client_of, is_alive, start_of_process
from prtrace.prhelper.guard import User

CONNECT = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])"


@pytest.fixture
def listener(tmp_path: Path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        listener.settimeout(pace.limit(30))
        yield listener


def test_a_client_is_told_by_the_kernel_and_named_by_its_socket() -> None:
    one, other = socket.socketpair()
    with one, other:
        found = client_of(one, "")
        assert (found.pid, found.uid) == (os.getpid(), os.getuid())
        assert found.start_ns == start_of_process(os.getpid()) > 0
        assert found.title == f"pid {os.getpid()}"
        named = client_of(one, "vm1")
        assert (named.vouched.name, named.vouched.by) == ("vm1", "socket")
        assert named.title == f"vm1 (pid {os.getpid()})"


def test_a_process_that_calls_itself_a_guest_is_none(listener, tmp_path: Path) -> None:
    """Its command line and its program's name are its own choice."""
    program = tmp_path / "qemu-system-x86_64"
    shutil.copy(os.path.realpath(sys.executable), program)
    command = [program, "-c", f"{CONNECT}; input()", listener.getsockname(), "-name",
               "guest=victim"]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        sock, _ = listener.accept()
        with sock:
            found = client_of(sock, "")
            assert found.pid == child.pid
            assert "victim" not in (found.vouched.name, found.title, found.vouched.identity)
            assert claimed_by(found).name == "victim"
        child.communicate(b"\n")


@pytest.mark.parametrize("pidfd", [True, False])
def test_a_process_that_has_gone_is_nobody(
    listener, pidfd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number may be another process's when the connection is accepted."""
    subprocess.run(["/usr/bin/python3", "-c", CONNECT, listener.getsockname()], check=True)
    if not pidfd:
        monkeypatch.setattr(module, "_SO_PEERPIDFD", 9999)  # as before Linux 6.5
    sock, _ = listener.accept()
    with sock:
        found = client_of(sock, "")
    assert (found.start_ns, found.unit) == (0, "")
    assert claimed_by(found).name == ""


def test_a_number_that_is_another_process_now(listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc shows a process with the number of the one that connected and has gone."""
    subprocess.run(["/usr/bin/python3", "-c", CONNECT, listener.getsockname()], check=True)
    monkeypatch.setattr(module, "start_of_process", lambda _: 5)
    monkeypatch.setattr(module, "_cgroup", lambda _: "0::/machine.slice/machine-victim.scope\n")
    sock, _ = listener.accept()
    with sock:
        try:
            sock.getsockopt(socket.SOL_SOCKET, module._SO_PEERPIDFD)
        except OSError as error:
            if error.errno == 92:  # ENOPROTOOPT
                pytest.skip("SO_PEERPIDFD is there since Linux 6.5")
        found = client_of(sock, "")
    assert (found.start_ns, found.vouched.name) == (0, "")


def test_a_process_lives_while_its_number_and_start_are_there() -> None:
    me = os.getpid()
    assert is_alive(User("", "", me, start_of_process(me)))
    assert not is_alive(User("", "", me, start_of_process(me) + 10**9))
    assert is_alive(User("", "", 0, 0)), "nobody can tell"
    with subprocess.Popen(["/bin/sleep", "60"]) as child:
        user = User("", "", child.pid, start_of_process(child.pid))
        assert is_alive(user)
        child.kill()
    assert not is_alive(user)
