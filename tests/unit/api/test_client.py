"""Which socket a client takes: root's own first, and everybody's whatever is wrong with that."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from labkit import pace
from labkit.processes import fork

from prtrace.api.address import roots_door
from prtrace.api.calls import reply
from prtrace.api.client import Client

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="root's door is root's")


@contextlib.contextmanager
def answering(path: Path, *, uid: int = 0) -> Iterator[None]:
    """A process of uid that tells whoever calls on path its name."""
    os.chmod(path.parent, 0o1777)
    ready, told = os.pipe()

    def serve() -> None:
        os.chdir(path.parent)  # the folders above are root's alone
        os.setresuid(uid, uid, uid)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
            listening.listen()
            os.write(told, b"x")
            while True:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(reply({"path": path.name}))

    child = fork(serve)
    os.close(told)
    try:
        assert os.read(ready, 1) == b"x"
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        path.unlink()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x"


def asked(path: Path) -> str:
    return str(Client(str(path), timeout=pace.limit(20)).call("Status")["path"])


@ROOT
def test_root_is_let_in_by_its_own_door(path: Path) -> None:
    with answering(path), answering(Path(roots_door(str(path)))):
        assert asked(path) == "x.root"


@pytest.mark.parametrize("there", ["nothing", "a file", "a socket of nobody's", "a folder"])
def test_where_there_is_no_such_door_it_takes_everybodys(path: Path, there: str) -> None:
    door = Path(roots_door(str(path)))
    if there == "a file":
        door.write_text("")
    elif there == "a folder":
        door.mkdir()
    elif there != "nothing":
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(door))
    with answering(path):
        assert asked(path) == "x"


@ROOT
def test_whoever_is_not_root_and_listens_there_is_not_asked(path: Path) -> None:
    """In a folder where anybody may make a file, and the agent did not come first."""
    with answering(path), answering(Path(roots_door(str(path))), uid=65534):
        assert asked(path) == "x"


@ROOT
def test_a_door_before_which_others_wait_is_not_waited_for(path: Path) -> None:
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(roots_door(str(path)))
        listening.listen(0)
        waits = stack.enter_context(socket.socket(socket.AF_UNIX))
        waits.connect(roots_door(str(path)))
        stack.enter_context(answering(path))
        begun = time.monotonic()
        assert Client(str(path), timeout=3600).call("Status") == {"path": "x"}
        assert time.monotonic() - begun < pace.limit(20)
