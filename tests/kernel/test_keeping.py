"""What becomes of attached programs while the agent runs, and of commands that take their time."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from lab.agent import Agent
from lab.load import drain, fresh
from labkit.target import Unit
from labkit.waiting import await_that

from prtrace.errors import PrtraceError
from prtrace.linux.sgio import SgDevice
from prtrace.probe import pins

pytestmark = [pytest.mark.machine(kernels=("7",), nexuses=2), pytest.mark.timeout(200)]

_DEBUG = Path("/sys/bus/pseudo/drivers/scsi_debug")
_OPT_TIMEOUT = 4  # SDEBUG_OPT_TIMEOUT, drivers/scsi/scsi_debug.c
_RESERVE_6 = bytes((0x16, 0, 0, 0, 0, 0))


def modprobe(*words: str) -> int:
    return subprocess.run(["modprobe", *words], timeout=60, check=False).returncode


def test_a_pin_that_somebody_removed_is_made_again(unit: Unit) -> None:
    fresh()
    with Agent("--read-in-doubt", "no") as agent:
        folder = pins.epochs()[-1].generations[-1].path
        (folder / "pr_submit").unlink()
        (folder.parent / "maps" / "pr_stats").unlink()
        await_that("pr_submit is pinned again", (folder / "pr_submit").exists)
        await_that("pr_stats is pinned again", (folder.parent / "maps" / "pr_stats").exists)
        agent.await_said("pr_submit was unpinned, and is pinned again")
        agent.kill()
        agent.start()
        assert agent.status()["status"]["note"] == "adopted the running programs"


def test_a_command_that_timed_out_is_over_when_its_request_is(unit: Unit) -> None:
    """scsi_debug leaves it unanswered; the error handler aborts it."""
    fresh()
    assert not modprobe("scsi_debug", "dev_size_mb=8")
    with Agent("--read-in-doubt", "no") as agent:
        nodes = [
            disk.name
            for disk in Path("/sys/block").glob("sd*")
            if (disk / "device/model").read_text().strip() == "scsi_debug"
        ]
        with SgDevice(f"/dev/{nodes[0]}") as device:
            drain(device)
            (_DEBUG / "opts").write_text(str(_OPT_TIMEOUT))
            (_DEBUG / "every_nth").write_text("-1")
            try:
                told = device.send(_RESERVE_6, timeout_ms=2000).text
            except PrtraceError as error:
                told = error.message
            finally:
                (_DEBUG / "every_nth").write_text("0")
                (_DEBUG / "opts").write_text("0")
        print(told)
        seen = [each for each in agent.events() if each["command"] == "RESERVE"]
        assert [each["status"] == "TIMEOUT" for each in seen] == [True, False], seen
        timed_out, over = seen
        assert over["start_ns"] == timed_out["start_ns"], seen
        assert over["done_ns"] > timed_out["done_ns"], seen
        assert over["host_byte"], over
