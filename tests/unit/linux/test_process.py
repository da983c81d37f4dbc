from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from prtrace.linux.process import ProcessCache, identify, start_of, unit_of_cgroup
from prtrace.linux.qemu import GuestIdentity

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits until its standard input is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; print('.', flush=True); sys.stdin.read()", "a\nb"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.communicate()


def _start(pid: int) -> int:
    start = start_of(pid)
    assert start is not None
    return start


def test_start_is_boot_time() -> None:
    boot = psutil.boot_time()
    start = _start(os.getpid()) / 1e9
    assert abs(boot + start - psutil.Process().create_time()) < 2


def test_identity(child: subprocess.Popen[bytes]) -> None:
    found = identify(child.pid, _start(child.pid) + TICK_NS - 1)
    assert found is not None
    assert found.pid == child.pid
    assert found.comm == Path("/proc", str(child.pid), "comm").read_text().strip()
    assert found.exe == os.path.realpath(f"/proc/{child.pid}/exe")
    assert found.cmdline[0] == sys.executable
    assert found.cmdline[-1] == r"a\x0ab"
    assert found.guest is None


@pytest.mark.parametrize("ticks", [-2, 2, 1000])
def test_another_start_is_another_process(child: subprocess.Popen[bytes], ticks: int) -> None:
    assert identify(child.pid, _start(child.pid) + ticks * TICK_NS) is None


@pytest.mark.parametrize("ticks", [-1, 0, 1])
def test_starts_may_differ_by_one_tick(child: subprocess.Popen[bytes], ticks: int) -> None:
    assert identify(child.pid, _start(child.pid) + ticks * TICK_NS) is not None


def test_a_process_that_is_gone_is_none(child: subprocess.Popen[bytes]) -> None:
    start = _start(child.pid)
    child.communicate()
    assert start_of(child.pid) is None
    assert identify(child.pid, start) is None


def test_a_zombie_has_a_name_and_nothing_else(child: subprocess.Popen[bytes]) -> None:
    start = _start(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    found = identify(child.pid, start)
    assert found is not None
    assert found.comm.startswith("python")
    assert (found.exe, found.cmdline) == ("", ())


def test_a_long_command_line_is_cut() -> None:
    with subprocess.Popen(
        ["/bin/sh", "-c", "echo; read x", *["x" * 1000] * 20],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = identify(process.pid, _start(process.pid))
        process.communicate(b"\n")
    assert found is not None
    assert sum(map(len, found.cmdline)) <= 4096
    assert found.cmdline[-1].endswith("…")


def test_a_guest_is_found_by_its_program(tmp_path: Path) -> None:
    """A shell under QEMU's name, with QEMU's options behind its own."""
    qemu = tmp_path / "qemu-system-x86_64"
    shutil.copy("/bin/sh", qemu)
    uuid = "6d1c2d0e-6a2b-4c57-9a3e-0123456789ab"
    options = ["-name", "guest=web1,debug-threads=on", "-uuid", uuid]
    with subprocess.Popen(
        [str(qemu), "-c", "echo; read x", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = identify(process.pid, _start(process.pid))
        process.communicate(b"\n")
    assert found is not None
    assert found.guest == GuestIdentity("web1", uuid)


def test_the_cache_keeps_who_is_gone(child: subprocess.Popen[bytes]) -> None:
    cache = ProcessCache()
    start = _start(child.pid)
    found = cache.identify(child.pid, start, "python3")
    child.communicate()
    assert found is not None
    assert cache.identify(child.pid, start, "python3") is found
    assert cache.identify(child.pid, start + 10**9, "python3") is None
    assert cache.identify(child.pid, start, "another") is None
    assert len(cache) == 1


def test_the_cache_is_bounded_and_drops_the_oldest() -> None:
    cache = ProcessCache(capacity=2)
    pid, start = os.getpid(), _start(os.getpid())
    first = cache.identify(pid, start, "a")
    cache.identify(pid, start, "b")
    assert cache.identify(pid, start, "a") is first
    cache.identify(pid, start, "c")
    assert len(cache) == 2
    assert cache.identify(pid, start, "a") is first


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/prtrace.service\n", "prtrace.service"),
        ("0::/user.slice/user-0.slice/user@0.service/app.slice/x.service", "user@0.service"),
        ("0::/user.slice/user-0.slice/session-3.scope", "session-3.scope"),
        (
            "0::/machine.slice/machine-qemu\\x2d1\\x2dweb1.scope/libvirt/emulator",
            "machine-qemu\\x2d1\\x2dweb1.scope",
        ),
        ("5:cpu:/a.service\n1:name=systemd:/system.slice/cron.service\n0::/", "cron.service"),
        ("12:pids:/system.slice/cron.service", ""),
        ("0::/", ""),
        ("0::/a\x1b.service", r"a\x1b.service"),
        ("0::/with:colon.service", "with:colon.service"),
        ("nonsense", ""),
        ("", ""),
    ],
)
def test_unit_of_cgroup(text: str, unit: str) -> None:
    assert unit_of_cgroup(text) == unit
