"""A dm-multipath map: one nexus to the guest, all paths to LIO."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from commands import (
    CAPABILITIES,
    CHECK,
    CONFLICT,
    FULL,
    GOOD,
    PREEMPT,
    REGISTER,
    RELEASE,
    RESERVE,
    WE,
    WERO,
    ask,
    code,
    keys,
    out,
    read,
)
from helpers import proxy
from proxy_kernels import PROXY_KERNELS
from streams import CLEANUP, PR_OUT, cdb

pytestmark = [
    pytest.mark.machine(kernels=PROXY_KERNELS, nexuses=2, multipath=True),
    pytest.mark.timeout(300),
]


def test_one_nexus_to_the_guest(tmp_path: Path, unit) -> None:
    """The paths' own view is LIO's configfs."""
    path = tmp_path / "proxy"
    with proxy(path, "--run-dir", str(tmp_path)):
        carried_out(path, unit)


def carried_out(path: Path, unit) -> None:
    fd = os.open(unit.multipath, os.O_RDWR | os.O_NONBLOCK)
    pr = Path(unit.directory, "pr")
    paths = len(unit.paths)

    def registered() -> int:
        text = (pr / "res_pr_registered_i_pts").read_text()
        return sum("Node:" in line for line in text.splitlines())

    assert out(path, fd, REGISTER, 0, 0xA).status == GOOD, "register"
    assert (registered(), keys(path, fd)) == (paths, [0xA] * paths), "every path"
    assert out(path, fd, REGISTER, 0xB, 0xC).status == CONFLICT, "wrong key"
    assert out(path, fd, REGISTER, 0xA, 0xB).status == GOOD, "new key"
    assert keys(path, fd) == ([0xB] * paths), "on every path"
    for kind in (WE, WERO, 7):
        assert out(path, fd, RESERVE, 0xB, 0, kind).status == GOOD, f"reserve {kind}"
        assert out(path, fd, RESERVE, 0xB, 0, kind).status == GOOD, "again"
        assert read(path, fd, FULL).status == GOOD, "full status"
        # LIO says RESERVATION CONFLICT where SPC-4 wants 26/04.
        assert out(path, fd, RELEASE, 0xB, 0, 8).status == CONFLICT, "wrong type"
        assert out(path, fd, RELEASE, 0xB, 0, kind).status == GOOD, "release"
        assert "No SPC-3" in (pr / "res_holder").read_text(), "released"
    # Held by the second path, as after a path failed and came back.
    with proxy(path.with_name("side")):
        side = path.with_name("side")
        second = os.open(unit.paths[1].block, os.O_RDWR | os.O_NONBLOCK)
        assert out(side, second, RESERVE, 0xB, 0, WERO).status == GOOD, "second path reserves"
        assert out(path, fd, RESERVE, 0xB, 0, WERO).status == GOOD, "it is the guest's"
        assert out(path, fd, RELEASE, 0xB, 0, WERO).status == GOOD, "release by the guest"
        assert "No SPC-3" in (pr / "res_holder").read_text(), "is released"
        # A path that came back without its registration gets the new key.
        assert out(side, second, REGISTER, 0xB, 0).status == GOOD, "one path loses its key"
        assert out(path, fd, REGISTER, 0xB, 0xD).status == GOOD, "register with the old key"
        assert keys(path, fd) == ([0xD] * paths), "all paths again"
        os.close(second)
    assert out(path, fd, RESERVE, 0xD, 0, WERO).status == GOOD, "reserve"
    assert out(path, fd, PREEMPT, 0xD, 0xD, WERO).status == GOOD, "preempt of itself"
    assert keys(path, fd) == ([0xD] * paths), "registered on all paths"
    assert out(path, fd, REGISTER, 0xA, 0xE).status == CONFLICT, "fenced: wrong key stays out"
    assert ask(path, fd, bytes([CLEANUP]) + bytes(15)).status == GOOD, "cleanup"
    assert registered() == 0, "nothing left"
    assert code(ask(path, fd, cdb(PR_OUT, REGISTER, 16), bytes(16))) == (CHECK, 0x1A, 0), (
        "short list"
    )
    assert (read(path, fd, CAPABILITIES, 8).data[2] & 0x0C) == 0, "capabilities"
    os.close(fd)
