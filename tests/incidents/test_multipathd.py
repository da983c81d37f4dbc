"""A real multipathd that registers by itself, and a cluster that takes the path for a new one."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from labkit import pace
from labkit.oracle import oracle
from labkit.waiting import await_that

from incidents.scene import CONFLICT, Scene

pytestmark = [pytest.mark.machine(nexuses=2, udev=True), pytest.mark.timeout(300)]

KEY = 0x123ABC


@pytest.fixture
def multipathd(scene: Scene) -> Iterator[None]:
    subprocess.run(["modprobe", "-a", "dm_multipath", "dm_round_robin"], check=True, timeout=60)
    Path("/etc/multipath.conf").write_text(
        "defaults {\n find_multipaths no\n polling_interval 1\n max_polling_interval 1\n"
        f" reservation_key {KEY:#x}\n}}\n"
    )
    daemon = subprocess.Popen(["multipathd", "-d"], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        daemon.terminate()
        daemon.wait(60)


def path_state(hctl: str) -> str:
    """The path's state as multipathd sees it, "" where it has no such path."""
    asked = ["multipathd", "show", "paths", "raw", "format", "%i %t %T"]
    told = subprocess.run(asked, capture_output=True, text=True, timeout=120, check=False).stdout
    states = {words[0]: words[1] for line in told.splitlines() if len(words := line.split()) > 1}
    return states.get(hctl, "")


@pytest.mark.usefixtures("multipathd")
def test_multipathd_registers_by_itself(scene: Scene) -> None:
    """It does so on a path that comes back, where another path has its key already."""
    state = Path(f"/sys/class/scsi_device/{scene.two.hctl}/device/state")
    for path in (scene.one, scene.two):
        await_that(
            f"multipathd has {path.hctl}",
            lambda hctl=path.hctl: path_state(hctl) == "active",
            pace.limit(90),
        )
    key = f"--param-sark={KEY:x}"
    scene.run("mpathpersist", "--out", "--register", key, map_of(scene))
    # It keeps the key on its paths from now on, whoever takes it away.
    scene.persist(scene.two, "-G", "-K", hex(KEY), "-S", "0")
    assert keys(scene).count(KEY) == 1
    end = time.monotonic() + pace.limit(120)
    while keys(scene).count(KEY) < 2:
        assert time.monotonic() < end, (keys(scene), path_state(scene.two.hctl))
        state.write_text("offline\n")
        await_that("path failed", lambda: path_state(scene.two.hctl) == "failed", pace.limit(60))
        state.write_text("running\n")
        await_that("path back", lambda: path_state(scene.two.hctl) == "active", pace.limit(60))
        time.sleep(1)
    # The cluster's agent registers its own key, as on a path that has none.
    scene.persist(scene.two, "-G", "-S", "0xa1", status=CONFLICT)
    scene.says(
        "refused PERSISTENT RESERVE",
        ("inferred", f"this nexus has key 0x{KEY:016x}, the command gave 0x0000000000000000"),
        ("observed", "REGISTER AND IGNORE EXISTING KEY by multipathd["),
        ("observed", f"registered {scene.two.hctl} with key 0x{KEY:016x}"),
    )


def map_of(scene: Scene) -> str:
    """multipathd's map over the unit's paths."""
    holders = Path("/sys/class/block", Path(scene.one.block).name, "holders")

    def nodes() -> list[Path]:
        found = (
            Path("/dev/mapper", (each / "dm/name").read_text().strip())
            for each in holders.iterdir()
        )
        return [each for each in found if each.exists()]

    await_that("multipathd's map", lambda: bool(nodes()), pace.limit(90))
    return str(nodes()[0])


def keys(scene: Scene) -> list[int]:
    """The keys that LIO has for the unit."""
    return [each.key for each in oracle(scene.unit.directory).registrations]
