"""The proxy against LIO, alone and with a helper behind it: commands, mask, refusals, guard."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import (
    ALL_TG_PT,
    CAPABILITIES,
    CHECK,
    CLEAR,
    CONFLICT,
    DEADLINE,
    FULL,
    GOOD,
    IGNORE,
    KEYS,
    MOVE,
    REGISTER,
    RELEASE,
    REPLACE,
    RESERVATION,
    RESERVE,
    SPEC_I_PT,
    WERO,
    ask,
    cleared,
    code,
    keys,
    out,
    read,
    stream_of,
)
from helpers import proxy, qemu_helper
from labkit import pace
from labkit.processes import fork
from labkit.waiting import await_that
from proxy_kernels import PROXY_KERNELS
from streams import CLEANUP, PR_OUT, cdb, parameter, play

from prtrace.prhelper.attribution import UNKNOWN, Attribution
from prtrace.prhelper.attribution_reader import AttributionReader

pytestmark = [pytest.mark.machine(kernels=PROXY_KERNELS, nexuses=2), pytest.mark.timeout(200)]


@pytest.fixture
def disk(unit, lio) -> Iterator[int]:
    """The first path's disk, on which nothing is registered before and after."""
    assert lio().registrations == ()
    fd = os.open(unit.paths[0].block, os.O_RDWR | os.O_NONBLOCK)
    yield fd
    os.close(fd)
    cleared(unit)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """qemu-pr-helper's socket."""
    path = tmp_path_factory.mktemp("bare") / "helper"
    with qemu_helper(path):
        yield path


@pytest.fixture(scope="module", params=["alone", "with a helper"])
def served(
    request, tmp_path_factory: pytest.TempPathFactory, bare: Path
) -> Iterator[tuple[Path, Path]]:
    """The socket and the run directory of a proxy, which takes seconds to start: all tests'.

    Each test's connections are its own, and so is what a proxy remembers of a guest.
    """
    folder = tmp_path_factory.mktemp("served")
    run_dir = folder / "run"
    run_dir.mkdir()
    behind = [] if request.param == "alone" else ["--upstream", str(bare)]
    with proxy(folder / "proxy", "--run-dir", str(run_dir), *behind):
        yield folder / "proxy", run_dir


def attributions(run_dir: Path) -> list[Attribution]:
    reader = AttributionReader(run_dir)
    reader.read()
    reader.close()
    return list(reader.attributions.values())


def test_the_mask(served, bare: Path, disk: int) -> None:
    path, fd = served[0], disk
    for length in (0, 1, 2, 3, 4, 6, 7, 8, 24, 255, 8192):
        through, direct = (read(p, fd, CAPABILITIES, length) for p in (path, bare))
        wanted = direct.data[:2] + bytes(c & ~0x0C for c in direct.data[2:3]) + direct.data[3:]
        assert (through.status, through.data) == (direct.status, wanted), (
            f"capabilities of {length} bytes"
        )
        if length >= 8:
            assert (direct.data[2] & 0x0C) == 0x0C, "the device has both"


def test_what_is_refused(served, disk: int) -> None:
    path, fd = served[0], disk
    for action in (REGISTER, IGNORE):
        for flags in (SPEC_I_PT, ALL_TG_PT, SPEC_I_PT | ALL_TG_PT):
            assert code(out(path, fd, action, 0, 5, 0, flags)) == (CHECK, 0x26, 0), (
                f"{action}, flags {flags}"
            )
    for action in (MOVE, REPLACE):
        assert code(out(path, fd, action, 0, 5)) == (CHECK, 0x24, 0), f"action {action}"
    long = cdb(PR_OUT, REGISTER, 24)
    assert code(ask(path, fd, long[:5] + b"\0\1" + long[7:], parameter(0, 5))) == (
        CHECK,
        0x24,
        0,
    ), "a 64 KiB list"
    assert keys(path, fd) == [], "nothing registered"


def test_commands(served, disk: int) -> None:
    path, fd = served[0], disk
    assert out(path, fd, REGISTER, 0, 0xA).status == GOOD, "register"
    assert keys(path, fd) == [0xA], "keys"
    assert out(path, fd, REGISTER, 0xB, 0xC).status == CONFLICT, "wrong key"
    assert out(path, fd, RESERVE, 0xA, 0, WERO).status == GOOD, "reserve"
    assert out(path, fd, RESERVE, 0xA, 0, WERO).status == GOOD, "reserve again"
    assert read(path, fd, RESERVATION).data[8:22] == (0xA).to_bytes(8, "big") + bytes(5) + bytes(
        [WERO]
    ), "reservation"
    full = read(path, fd, FULL).data
    assert full[8:16] == (0xA).to_bytes(8, "big"), "full status"
    assert ask(path, fd, bytes([CLEANUP]) + bytes(15)).status == GOOD, "cleanup of a disk"
    assert out(path, fd, RELEASE, 0xA, 0, WERO).status == GOOD, "release"
    assert read(path, fd, RESERVATION).data[4:8] == bytes(4), "nothing reserved"
    assert out(path, fd, CLEAR, 0xA).status == GOOD, "clear"
    assert keys(path, fd) == [], "no keys"


def test_each_command_is_attributed(served, disk: int, unit) -> None:
    path, run_dir = served
    before = attributions(run_dir)
    read(path, disk, CAPABILITIES)
    out(path, disk, MOVE, 0, 5)
    keys(path, disk)
    found = [record for record in attributions(run_dir) if record not in before]
    assert [record for record in found if not record.end_ns] == []
    (masked,) = [record for record in found if record.answered]
    assert masked.shown[2] != masked.answered[2]
    (refused,) = [record for record in found if not record.issued]
    assert refused.note
    assert {record.client_pid for record in found} == {os.getpid()}
    assert {record.nexuses for record in found} == {(unit.paths[0].hctl,)}


def test_a_helper_that_dies(tmp_path: Path, disk: int) -> None:
    """It takes the request and closes: so does the proxy, and the record says unknown."""
    folder, fd = tmp_path, disk
    path, run_dir = folder / "dying", folder / "dying-run"
    run_dir.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(folder / "dead"))
        listener.listen()

        def dying_helper() -> None:
            signal.alarm(int(pace.limit(DEADLINE)))
            for reply in (b"", b"\0" * 50):
                peer, _ = listener.accept()
                peer.sendall(bytes(4))
                peer.recv(4, socket.MSG_WAITALL)
                peer.recv(16, socket.MSG_WAITALL)
                peer.recv(24, socket.MSG_WAITALL)
                peer.sendall(reply)
                peer.close()

        child = fork(dying_helper)
        with proxy(path, "--upstream", str(folder / "dead"), "--run-dir", str(run_dir)):
            for cut in ("before", "in"):
                request = (cdb(PR_OUT, REGISTER, 24), parameter(0, 7))
                got = play(str(path), stream_of(request), {"device": fd}, DEADLINE)
                assert (got.replies, got.rest) == ((), b""), f"died {cut} the reply"
            os.waitpid(child, 0)
            listener.close()
            got = play(str(path), stream_of(request), {"device": fd}, DEADLINE)
            assert got.replies == (), "no helper"
    outcomes = [record.outcome for record in attributions(run_dir)]
    assert outcomes == [UNKNOWN, UNKNOWN, "not sent"], "outcomes"


@pytest.mark.parametrize("guard", ["warn", "refuse"])
def test_two_guests(tmp_path: Path, disk: int, unit, guard: str) -> None:
    """On one nexus: this process, and a child."""
    folder, fd, nexus = tmp_path, disk, unit.paths[0].hctl
    policy, path = folder / f"{guard}.toml", folder / f"guard-{guard}"
    run_dir, log = folder / f"guard-{guard}-run", folder / f"guard-{guard}-log"
    policy.write_text(f'guard = "{guard}"\n')
    run_dir.mkdir()
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from commands import *; import os; fd = int(sys.argv[3]); p = Path(sys.argv[2]);"
        "print(os.getpid(), code(out(p, fd, IGNORE, 0, 0xB)),"
        " code(out(p, fd, RESERVE, 0xA, 0, 5)), read(p, fd, KEYS).status)"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(path), str(fd)]

    def second(what: str, wanted: str) -> str:
        """A guest of its own, which is gone when this returns; its pid."""
        done = subprocess.run(
            command, pass_fds=[fd], capture_output=True, text=True, timeout=pace.limit(DEADLINE)
        )
        pid, _, told = done.stdout.strip().partition(" ")
        assert told == wanted, f"{guard}: {what}"
        return pid

    refused = guard == "refuse"
    alone = f"({GOOD}, 0, 0) ({CONFLICT}, 0, 0) 0"
    beside = f"({CHECK}, 85, 4) ({CONFLICT}, 0, 0) 0" if refused else alone
    with proxy(path, "--policy", str(policy), "--run-dir", str(run_dir), log=log):
        assert out(path, fd, REGISTER, 0, 0xA).status == GOOD, "first guest"
        pid = second("second guest", beside)
        assert keys(path, fd) == [0xA if refused else 0xB], "first guest's registration"
        key = 0xA if refused else 0xB
        assert out(path, fd, REGISTER, key, 0).status == GOOD, "first guest unregisters"
        warned = log.read_text()
        second("second guest alone", alone)
        # Its process is gone, so the nexus is free.
        assert out(path, fd, IGNORE, 0, 0xA).status == GOOD, "first guest again"
        assert out(path, fd, CLEAR, 0xA).status == GOOD, "clear"
        assert log.read_text() == warned, "no more warnings"
    lines = [line for line in warned.splitlines() if nexus in line]
    both = all(pid in line and str(os.getpid()) in line for line in lines)
    assert lines, "not warned"
    assert both, "both are named"
    assert {line.endswith(": refused") for line in lines} == {refused}, f"{guard}: refused"
    noted = [record for record in attributions(run_dir) if record.note]
    assert all(nexus in record.note and str(os.getpid()) in record.note for record in noted), (
        f"{guard}: both in the record"
    )
    assert {record.issued for record in noted} == {not refused}, f"{guard}: sent"


def test_a_policy_for_a_device(tmp_path: Path, disk: int, unit) -> None:
    folder, fd, lu = tmp_path, disk, unit.lu
    path, policy = folder / "open", folder / "open.toml"
    policy.write_text(f'[[rule]]\ndevice = "{lu}"\nhide = false\n')
    with proxy(path, "--policy", str(policy)):
        assert (read(path, fd, CAPABILITIES, 8).data[2] & 0x0C) == 0x0C, "not hidden by policy"
        assert out(path, fd, REGISTER, 0, 5, 0, ALL_TG_PT).status == GOOD, "ALL_TG_PT by policy"
        assert out(path, fd, CLEAR, 5).status == GOOD, "clear"


def test_what_is_no_whole_scsi_device(served, tmp_path: Path, unit) -> None:
    """Refused at once, each of them."""
    path, folder, disk = served[0], tmp_path, unit.paths[0].block
    kinds: dict[str, int] = {"null": os.open("/dev/null", os.O_RDWR)}
    kinds["directory"] = os.open(folder, os.O_RDONLY)
    kinds["pipe"], kinds["pipe end"] = os.pipe()
    kinds["O_PATH"] = os.open(disk, os.O_PATH)
    with socket.socket() as inet:
        kinds["socket"] = os.dup(inet.fileno())
    for name, fd in kinds.items():
        start = time.monotonic()
        assert read(path, fd, KEYS).status == CHECK, f"{name} is refused"
        assert time.monotonic() - start < pace.limit(5), f"{name}: in time"
        os.close(fd)
    fd = os.open(disk, os.O_RDONLY)
    assert read(path, fd, KEYS).status == GOOD, "read-only, IN"
    assert code(out(path, fd, REGISTER, 0, 1)) == (CHECK, 0x20, 0), "read-only, OUT"
    os.close(fd)


def test_a_partition(served, unit) -> None:
    path, disk = served[0], unit.paths[0].block
    entry = (
        bytes((0, 0, 0, 0, 0x83, 0, 0, 0))
        + (64).to_bytes(4, "little")
        + (512).to_bytes(4, "little")
    )
    Path(disk).write_bytes(bytes(446) + entry + bytes(48) + b"\x55\xaa")
    subprocess.run(["partx", "-a", disk], check=True)
    node = f"{disk}1"
    await_that(node, lambda: os.path.exists(node))
    fd = os.open(node, os.O_RDWR)
    assert code(read(path, fd, KEYS)) == (CHECK, 0, 6), "a partition"
    os.close(fd)
    subprocess.run(["partx", "-d", disk], check=True)
