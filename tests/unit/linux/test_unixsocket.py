"""The socket's path, mode and owner."""

import contextlib
import os
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from labkit import pace

from prtrace.errors import UnavailableError, UsageError
from prtrace.linux import unixsocket
from prtrace.linux.closer import Closer
from prtrace.linux.unixsocket import Listener


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "io.prtrace"


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_mode_is_as_asked_for(path, mode):
    before = os.umask(0o027)
    try:
        listener = Listener.bind(path, mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    listener.close()
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give it away")
def test_the_group_is_as_asked_for(path):
    listener = Listener.bind(path, group="daemon")
    assert path.stat().st_gid == 1
    listener.close()


def test_an_unknown_group_is_refused(path):
    with pytest.raises(UsageError, match="no group 'nobodys'"):
        Listener.bind(path, group="nobodys")
    assert not path.exists()


def test_a_living_agents_socket_is_left_alone(path):
    first = Listener.bind(path)
    with pytest.raises(UnavailableError, match="somebody answers"):
        Listener.bind(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    first.close()


def test_a_living_agents_socket_is_replaced_by_whoever_owns_the_path(path):
    first = Listener.bind(path)
    second = Listener.bind(path, replace=True)
    first.close()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        second.socket.accept()[0].close()
    second.close()
    path.write_text("no socket")
    with pytest.raises(UsageError, match="is no socket"):
        Listener.bind(path, replace=True)


def test_a_busy_agents_socket_is_left_alone(path):
    """No connection is accepted, and the backlog is full."""
    first = Listener.bind(path)
    first.socket.listen(0)
    waiting = []
    try:
        while True:
            client = socket.socket(socket.AF_UNIX)
            waiting.append(client)
            client.setblocking(False)
            client.connect(str(path))
    except BlockingIOError:
        pass
    with pytest.raises(UnavailableError, match="somebody answers"):
        Listener.bind(path)
    for client in waiting:
        client.close()
    first.close()


def test_a_dead_agents_socket_is_replaced(path):
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    successor = Listener.bind(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    successor.close()


def test_what_is_no_socket_is_left_alone(path):
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(UsageError, match="is no socket"):
        Listener.bind(path)
    assert path.read_text() == "precious"


def test_a_link_is_not_followed(path):
    path.parent.mkdir()
    path.symlink_to(path.parent / "elsewhere")
    with pytest.raises(UsageError, match="is no socket"):
        Listener.bind(path)


def test_a_long_path_is_refused(tmp_path):
    with pytest.raises(UsageError, match="AF_UNIX path too long"):
        Listener.bind(tmp_path / ("x" * 150))


def test_the_successors_socket_is_not_removed(path):
    first = Listener.bind(path)
    path.unlink()
    second = Listener.bind(path)
    first.close()
    assert path.exists()
    second.close()


def test_nothing_is_left_behind(path):
    Listener.bind(path).close()
    assert list(path.parent.iterdir()) == []


def test_the_path_can_be_relative(path, monkeypatch):
    path.parent.mkdir()
    monkeypatch.chdir(path.parent)
    listener = Listener.bind(Path(path.name))
    monkeypatch.chdir("/")
    listener.close()
    assert not path.exists()


def test_who_starts_or_stops_at_the_same_time_waits(path, monkeypatch):
    """While somebody else holds the lock, binding gives up in the end; closing leaves the path."""
    monkeypatch.setattr(unixsocket, "_LOCK_WAIT_S", 0.05)
    first = Listener.bind(path)
    with unixsocket._locked(path):
        with pytest.raises(UnavailableError, match="somebody holds"):
            Listener.bind(path.with_name("io.prtrace"))
        first.close()
    assert path.exists()
    second = Listener.bind(path)
    second.close()
    assert not path.exists()


def test_a_lock_file_that_is_left_is_no_lock(path):
    path.parent.mkdir()
    path.with_name(f".{path.name}.lock").touch()
    Listener.bind(path).close()


def test_a_lock_file_that_is_a_link_is_refused(path):
    path.parent.mkdir()
    path.with_name(f".{path.name}.lock").symlink_to(path.parent / "elsewhere")
    with pytest.raises(UnavailableError, match="cannot be listened on"):
        Listener.bind(path)


_RACE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from prtrace.errors import UnavailableError
from prtrace.linux.unixsocket import Listener
sys.stdin.read(1)
wins = 0
for _ in range(int(sys.argv[2])):
    try:
        listener = Listener.bind(Path(sys.argv[1]))
    except UnavailableError:
        continue
    listener.socket.listen(64)
    if Path(sys.argv[1]).stat().st_ino != listener._inode[1]:
        sys.exit("another one has taken the path of one that listens")
    wins += 1
    listener.close()
print(wins)
"""


def test_services_that_start_and_stop_at_once_never_share_a_path(path):
    """Each service that listens has its path: no other took it for stale or unlinked it."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", _RACE, str(path), "60"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
            text=True,
        )
        for _ in range(3)
    ]
    told = [racer.communicate("x", timeout=pace.limit(120)) for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 3, told
    assert sum(int(out) for out, _ in told) > 0
    assert list(path.parent.iterdir()) == []


_HANDED_OVER = """
import os, sys
from prtrace.linux.unixsocket import Listener
from prtrace.errors import UsageError
os.environ["LISTEN_PID"] = str(os.getpid())
try:
    listener = Listener.handed_over()
except UsageError as error:
    print(error.message)
else:
    print(listener.path, "LISTEN_FDS" in os.environ)
    listener.close()
"""


def handed_over(descriptor):
    def place():
        os.dup2(descriptor, 3)
        os.set_inheritable(3, True)

    return subprocess.run(
        [sys.executable, "-c", _HANDED_OVER],
        env=os.environ | {"LISTEN_FDS": "1", "PYTHONPATH": ":".join(filter(None, sys.path))},
        preexec_fn=place,
        pass_fds=(3,),
        capture_output=True,
        text=True,
        timeout=pace.limit(20),
    ).stdout.strip()


def test_a_socket_can_be_handed_over_and_stays(tmp_path):
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        assert handed_over(listening.fileno()) == f"{path} False"
    assert path.exists()


def test_only_a_listening_path_socket_is_taken(tmp_path):
    with socket.socket(socket.AF_UNIX) as abstract, open(os.devnull) as file:
        abstract.bind(f"\0prtrace-test-{os.getpid()}")
        abstract.listen()
        assert "no listening stream socket on a path" in handed_over(abstract.fileno())
        assert "is no socket" in handed_over(file.fileno())


def test_a_socket_for_datagrams_is_not_taken(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(str(tmp_path / "sock"))
        assert "no listening stream socket" in handed_over(datagrams.fileno())


def test_nothing_is_handed_over_without_the_variables():
    assert Listener.handed_over() is None


_ALL_HANDED_OVER = """
import os
from prtrace.linux.unixsocket import Listener
os.environ["LISTEN_PID"] = str(os.getpid())
for name, listener in Listener.all_handed_over():
    print(name, listener.path.name)
    listener.close()
"""


def test_several_sockets_keep_their_names(tmp_path):
    """The last socket has no name: an older systemd, or another launcher, gives none."""
    with contextlib.ExitStack() as stack:
        numbers = []
        for name in ("a", "b", "c"):
            listening = stack.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(str(tmp_path / name))
            listening.listen()
            numbers.append(listening.fileno())

        def place():
            kept = [os.dup(number) for number in numbers]
            for at, number in enumerate(kept, 3):
                os.dup2(number, at)
                os.set_inheritable(at, True)

        environment = {"LISTEN_FDS": "3", "LISTEN_FDNAMES": "control:guest-vm1"}
        done = subprocess.run(
            [sys.executable, "-c", _ALL_HANDED_OVER],
            env=os.environ | environment | {"PYTHONPATH": ":".join(filter(None, sys.path))},
            preexec_fn=place,
            pass_fds=(3, 4, 5),
            capture_output=True,
            text=True,
            timeout=pace.limit(20),
        )
    assert done.stdout.splitlines() == ["control a", "guest-vm1 b", " c"], done.stderr


def test_a_peer_that_still_sends_reads_the_last_message():
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor(1) as other:
        ours.sendall(b"too much")
        leaving = other.submit(unixsocket.read_away, ours)
        theirs.sendall(b"x" * (4 << 20))
        assert theirs.recv(100) == b"too much"
        assert theirs.recv(100) == b""
        theirs.close()
        leaving.result(20)


@pytest.mark.parametrize("bound", [{"most": 1 << 20}, {"seconds": 0.2}], ids=str)
def test_reading_away_ends(bound):
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor(1) as other:
        leaving = other.submit(unixsocket.read_away, ours, **bound)
        with contextlib.suppress(TimeoutError):
            theirs.settimeout(0.3)
            theirs.sendall(b"x" * (2 << 20))
        leaving.result(20)


@pytest.mark.timeout(60)
def test_what_somebody_sent_who_waits_to_be_accepted_holds_up_no_close(path, lingering):
    listener = Listener.bind(path)
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    sent = lingering(over=client)
    with ThreadPoolExecutor(1) as other:
        closing = other.submit(listener.close, Closer())
        try:
            closing.result(pace.limit(20))
        finally:
            sent.free()
    assert not path.exists()
