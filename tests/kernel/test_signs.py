"""What reservations do to other commands is counted: once, and whoever the command belongs to."""

from __future__ import annotations

import mmap
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab.agent import Agent
from lab.load import drain, fresh, pr_out
from labkit import sysfs
from labkit.target import Unit
from labkit.waiting import await_that

from prtrace.linux.sgio import SgDevice
from prtrace.probe import libbpf, pins
from prtrace.probe.record import nexus_text

pytestmark = [pytest.mark.machine(nexuses=2), pytest.mark.timeout(200)]

_KEY = (0x516).to_bytes(8, "big")
_WE = 1
_ERRORS = Path("/sys/kernel/debug/scsi_debug")
_TIMEOUT, _ABORT_FAILS = 0, 3  # ERR_TMOUT_CMD, ERR_ABORT_CMD_FAILED: drivers/scsi/scsi_debug.c
_READ_10 = 0x28
_FUA_BLOCK = 4096


def told(agent: Agent, command: str, nexus: str, sense: str = "") -> list[dict[str, Any]]:
    """The events of a command on a nexus with this in their sense data, once there is one."""

    def found() -> list[dict[str, Any]]:
        return [
            each
            for each in agent.events()
            if (each["command"], each["nexus"]) == (command, nexus)
            and sense in (each["sense"] or "")
        ]

    await_that(f"{command} {sense} on {nexus}", found, told=lambda: [*agent.events()])
    return found()


def in_pages(work: Callable[[mmap.mmap], object]) -> None:
    """Do something with memory that O_DIRECT takes."""
    with mmap.mmap(-1, _FUA_BLOCK) as pages:
        work(pages)


def debug_disk() -> sysfs.Disk:
    before = set(sysfs.addresses())
    subprocess.run(["modprobe", "scsi_debug", "dev_size_mb=8"], check=True, timeout=60)
    await_that("scsi_debug's disk", lambda: bool(set(sysfs.addresses()) - before))
    (address,) = set(sysfs.addresses()) - before
    return sysfs.await_disk(address)


@pytest.mark.machine(kernels=("7",), alone=True)
def test_an_attention_that_the_error_handler_takes_is_counted(unit: Unit) -> None:
    """A READ times out, cannot be aborted, and the device is reset.

    The error handler's own TEST UNIT READY is the command that is told of the reset.
    """
    disk = debug_disk()
    fresh()
    with Agent("--read-in-doubt", "no") as agent:
        with SgDevice(disk.block) as device:
            drain(device)
        before = [e for e in agent.events() if e["command"] == "UNIT ATTENTION"]
        assert not [
            e for e in before if e["nexus"] == disk.hctl and "29/" in (e["sense"] or "")
        ], before
        (Path("/sys/class/scsi_device") / disk.hctl / "device/timeout").write_text("2")
        for kind in (_TIMEOUT, _ABORT_FAILS):
            (_ERRORS / disk.hctl / "error").write_text(f"{kind} -1 {_READ_10:#x}")
        fd = os.open(disk.block, os.O_RDONLY | os.O_DIRECT)
        try:
            in_pages(lambda pages: os.preadv(fd, [pages], 0))
        finally:
            os.close(fd)
        assert told(agent, "UNIT ATTENTION", disk.hctl, "29/")
        assert "Traceback" not in agent.log


@pytest.mark.machine(kernels=("6.1", "7"))
def test_a_conflict_of_a_write_with_fua_is_counted_once(unit: Unit) -> None:
    """A device with a write cache and without FUA: the write goes through the flush machinery.

    The block layer tells of its failure twice.
    """
    path, holder = unit.paths
    attributes = Path(unit.directory) / "attrib"
    (attributes / "emulate_write_cache").write_text("1")
    (attributes / "emulate_fua_write").write_text("0")
    (Path("/sys/class/scsi_device") / path.hctl / "device/rescan").write_text("1")
    queue = Path("/sys/class/block") / Path(path.block).name / "queue"
    assert (queue / "write_cache").read_text().strip() == "write back"
    assert (queue / "fua").read_text().strip() == "0"
    fresh()
    with Agent("--read-in-doubt", "no") as agent, SgDevice(holder.block) as device:
        pr_out(device, 6, sa_key=_KEY).expect_good("REGISTER")
        pr_out(device, 1, _KEY, type_=_WE).expect_good("RESERVE")
        fd = os.open(path.block, os.O_RDWR | os.O_DIRECT | os.O_DSYNC)
        try:
            with pytest.raises(OSError, match=r"."):
                in_pages(lambda pages: os.pwritev(fd, [pages], 0))
        finally:
            os.close(fd)
        found = told(agent, "CONFLICT", path.hctl)
        assert sum(each["count"] for each in found) == 1, found
        pr_out(device, 3, _KEY).expect_good("CLEAR")
        assert "Traceback" not in agent.log


def refused(path: sysfs.Disk) -> None:
    """A write that meets a RESERVATION CONFLICT."""
    fd = os.open(path.block, os.O_RDWR | os.O_DIRECT)
    try:
        with pytest.raises(OSError, match=r"."):
            in_pages(lambda pages: os.pwritev(fd, [pages], 0))
    finally:
        os.close(fd)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_was_counted_for_a_nexus_that_is_gone_takes_no_room(unit: Unit) -> None:
    """Each log-in has an address of its own.  Nothing is told twice or lost by it, whenever the
    agent is killed."""
    holder, other = unit.paths
    port = Path(other.tpg) / "lun" / f"lun_{other.hctl.rpartition(':')[2]}" / "port"
    fresh()
    with Agent() as agent:
        agent.settled(60)
        with SgDevice(holder.sg) as device:
            pr_out(device, 6, sa_key=_KEY).expect_good("REGISTER")
            pr_out(device, 1, _KEY, type_=_WE).expect_good("RESERVE")
        counts = libbpf.bpf_obj_get(str(pins.epochs()[-1].path / "maps" / "pr_counts"))
        try:
            for number in (1, 2, 3):
                refused(sysfs.await_disk(other.hctl))
                await_that(
                    f"{number} conflicts are told",
                    lambda number=number: conflicts(agent, other.hctl) >= number,
                    told=lambda: [*agent.events()],
                )
                assert other.hctl in counted(counts)
                port.unlink()
                await_that("it is gone", lambda: other.hctl not in sysfs.addresses())
                await_that("its entry goes", lambda: other.hctl not in counted(counts), 120)
                if number == 2:
                    agent.kill()
                port.symlink_to(unit.directory)
                sysfs.await_disk(other.hctl)
                if number == 2:
                    agent.start()
            assert conflicts(agent, other.hctl) == 3
        finally:
            os.close(counts)
        with SgDevice(holder.sg) as device:
            pr_out(device, 3, _KEY).expect_good("CLEAR")
        assert "stay" not in agent.log
        assert "Traceback" not in agent.log


def counted(counts: int) -> set[str]:
    """The nexuses that the programs have counters for."""
    return {nexus_text(key) for key, _ in libbpf.map_items(counts)}


def conflicts(agent: Agent, nexus: str) -> int:
    return sum(
        each["count"]
        for each in agent.events()
        if (each["command"], each["nexus"]) == ("CONFLICT", nexus)
    )
