"""sd_notify: what the service manager reads, and a manager that is gone or does not read."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from labkit import pace

from prtrace.linux import systemd
from prtrace.linux.systemd import notify, watchdog_interval


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(tmp_path / "notify"))
    sock.settimeout(pace.limit(5))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    return sock


def test_the_manager_is_told(manager: socket.socket) -> None:
    notify("READY=1", "STATUS=attached")
    assert manager.recv(100) == b"READY=1\nSTATUS=attached"
    manager.close()


def test_an_abstract_socket_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = f"prtrace-notify-{os.getpid()}"
        sock.bind(f"\0{name}")
        sock.settimeout(pace.limit(5))
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify("STOPPING=1")
        assert sock.recv(100) == b"STOPPING=1"


def test_a_manager_that_is_gone_is_no_error(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.close()
    notify("READY=1")
    for nobody in ("/nowhere/notify", "x" * 200, "@" + "x" * 200):
        monkeypatch.setenv("NOTIFY_SOCKET", nobody)
        notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")


def test_a_manager_that_does_not_read_is_not_waited_for(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "_PATIENCE_S", 0.5)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as filler:
        filler.connect(manager.getsockname())
        with contextlib.suppress(BlockingIOError):
            while filler.send(b"full"):
                pass
    before, used = time.monotonic(), time.process_time()
    notify("WATCHDOG=1")
    assert time.monotonic() - before < 30, "it returned"
    assert time.process_time() - used < 0.1, "it slept meanwhile"
    manager.close()


@pytest.mark.parametrize(
    ("given", "seconds"), [("20000000", 10.0), ("", None), ("x", None), ("-1", None)]
)
def test_the_watchdog_is_fed_twice_as_often(
    given: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", given)
    assert watchdog_interval() == seconds


def test_the_proxy_serves_without_its_manager(tmp_path: Path) -> None:
    """The proxy's first message goes to a manager that is gone; the proxy once died of that."""
    path = tmp_path / "pr.sock"
    proxy = subprocess.Popen(
        [sys.executable, "-m", "prtrace", "proxy", "--listen", str(path)],
        env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "gone")},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert proxy.stderr is not None
    for line in proxy.stderr:
        if "listening at" in line:
            break
    else:
        pytest.fail(f"the proxy ended with {proxy.wait(timeout=pace.limit(30))}")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    proxy.send_signal(signal.SIGTERM)
    _, rest = proxy.communicate(timeout=pace.limit(60))
    assert proxy.returncode == 0, rest
    assert not path.exists()
