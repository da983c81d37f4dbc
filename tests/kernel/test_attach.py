"""The core object attaches on every kernel, bcc on two; a missing attach point is reported."""

from __future__ import annotations

import os
import subprocess

import pytest
from lab.agent import STATE_DIR, Agent, cli
from lab.load import TEST_UNIT_READY, check_oracle, drain, fresh, send_once
from lab.objects import without
from labkit.kernels import OLD, SERIES
from labkit.target import Unit

from prtrace.linux.sgio import SgDevice

pytestmark = [pytest.mark.machine(), pytest.mark.timeout(300)]

_A, _B = (0xA11).to_bytes(8, "big"), (0xB22).to_bytes(8, "big")
_NONE = bytes(8)
_WERO = 5
_BTF = "/sys/kernel/btf"


def scenario(engine: str, built: Unit) -> None:
    """Register, reserve, collide, preempt, learn of it; killed in the middle, and adopted."""
    path_a, path_b = built.paths[:2]
    fresh()
    with (
        Agent("--engine", engine, patience=600) as agent,
        SgDevice(path_a.block) as device_a,
        SgDevice(path_b.sg) as device_b,
    ):
        agent.settled(60)
        for device in (device_a, device_b):
            drain(device)
        send_once(device_a, 6, _NONE, _A).expect_good("REGISTER")
        send_once(device_b, 6, _NONE, _B).expect_good("REGISTER")
        send_once(device_a, 1, _A, _NONE, _WERO).expect_good("RESERVE")
        assert send_once(device_b, 1, _B, _NONE, _WERO).conflict
        [unit] = agent.show(built.lu)
        check_oracle(unit, built)
        epoch = agent.status()["status"]["epoch"]
        agent.kill()
        send_once(device_b, 4, _B, _A, _WERO).expect_good("PREEMPT")
        assert device_a.send(TEST_UNIT_READY).attention
        agent.start()
        status = agent.status()["status"]
        assert status["engine"] == engine
        assert status["epoch"] == epoch, status["note"]
        print(status["kernel"], status["note"], status["rss_bytes"] >> 20, "MiB")
        missing = {each["program"] for each in status["attach"] if not each["attached"]}
        assert not missing, missing
        assert bool(status["fallback"]) is (engine == "bcc"), status["fallback"]
        assert status["self_test"]["result"] == "passed", status["self_test"]
        # A unit attention that was counted while no agent ran costs one reading.
        agent.settled(60)
        [unit] = agent.show(built.lu)
        check_oracle(unit, built)
        assert unit["reservation"]["holders"] == [path_b.hctl]
        seen = [
            (each["command"], each["action"], each["status"], each["nexus"], each["path"])
            for each in agent.events(devices=[built.lu])
            if each["command"] == "PR OUT"
        ]
        a, b = (path_a.hctl, "SG_IO block"), (path_b.hctl, "sg node")
        register, good = "REGISTER AND IGNORE EXISTING KEY", "GOOD"
        assert seen == [
            ("PR OUT", register, good, *a),
            ("PR OUT", register, good, *b),
            ("PR OUT", "RESERVE", good, *a),
            ("PR OUT", "RESERVE", "RESERVATION CONFLICT", *b),
            ("PR OUT", "PREEMPT", good, *b),
        ], seen
        told = [e for e in agent.events() if e["command"] == "UNIT ATTENTION" and e["sense"]]
        assert any("2A/05" in e["sense"] and e["nexus"] == path_a.hctl for e in told), told
        send_once(device_b, 3, _B, _NONE).expect_good("CLEAR")
        assert "Traceback" not in agent.log


@pytest.mark.machine(kernels=SERIES)
def test_core(unit: Unit) -> None:
    scenario("core", unit)


@pytest.mark.timeout(1300)
@pytest.mark.machine(needs=("headers",))
def test_bcc(unit: Unit) -> None:
    scenario("bcc", unit)


@pytest.mark.slow
@pytest.mark.timeout(1300)
@pytest.mark.machine(kernels=(OLD,), needs=("headers",))
def test_bcc_on_debian_11(unit: Unit) -> None:
    """No module has BTF, requests have a struct scsi_request, no addition tells what was there."""
    scenario("bcc", unit)


def test_a_missing_optional_attach_point_is_reported(unit: Unit) -> None:
    """A program whose attach point this kernel lacks is left out, and status says so."""
    built = unit
    fresh()
    os.environ["PRTRACE_BPF_OBJECT"] = str(without("tp_btf/scsi_dispatch_cmd_error"))
    with Agent() as agent, SgDevice(built.paths[0].block) as device:
        agent.settled(60)
        for restarted in (False, True):
            if restarted:
                agent.kill()
                agent.start()
            attach = {each["program"]: each for each in agent.status()["status"]["attach"]}
            absent = {name for name, each in attach.items() if not each["attached"]}
            assert absent == {"pr_on_error"}, absent
            assert attach["pr_on_error"]["why"], attach["pr_on_error"]
            shown = cli("status")
            assert shown.returncode == 0, shown
            assert "pr_on_error (" in shown.stdout, shown.stdout
        print(shown.stdout)
        drain(device)
        send_once(device, 6, _NONE, _A).expect_good("REGISTER")
        [unit] = agent.show(built.lu)
        check_oracle(unit, built)
        send_once(device, 3, _A, _NONE).expect_good("CLEAR")
        assert "Traceback" not in agent.log


@pytest.mark.slow
@pytest.mark.timeout(1300)
@pytest.mark.machine(needs=("headers",))
def test_bcc_on_a_kernel_without_btf(unit: Unit) -> None:
    """A kernel without BTF: bcc is taken, nobody knows who asked, and the rest is right."""
    built = unit
    path_a, path_b = built.paths[:2]
    fresh()
    empty = STATE_DIR.with_name("prtrace-no-btf")
    empty.mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", str(empty), _BTF], check=True, timeout=60)
    try:
        with (
            Agent(patience=600) as agent,
            SgDevice(path_a.block) as device_a,
            SgDevice(path_b.sg) as device_b,
        ):
            agent.settled(60)
            for restarted in (False, True):
                if restarted:
                    agent.kill()
                    agent.start()
                status = agent.status()["status"]
                assert status["engine"] == "bcc", status
                why = {each["program"]: each["why"] for each in status["attach"]}
                assert why["pr_submit"], why
                drain(device_a)
                drain(device_b)
                send_once(device_a, 6, _NONE, _A).expect_good("REGISTER")
                send_once(device_b, 6, _NONE, _B).expect_good("REGISTER")
                send_once(device_a, 1, _A, _NONE, _WERO).expect_good("RESERVE")
                send_once(device_b, 4, _B, _A, _WERO).expect_good("PREEMPT")
                # Nobody knows when a command was submitted, so a unit attention costs a reading.
                agent.settled(60)
                [unit] = agent.show(built.lu)
                check_oracle(unit, built)
                send_once(device_b, 3, _B, _NONE).expect_good("CLEAR")
            sent = [each for each in agent.events() if each["command"] == "PR OUT"]
            assert len(sent) == 10, sent
            assert {each["pid"] for each in sent} == {None}, sent
            assert all(each["head"] == each["data"] for each in sent), sent
            assert "Traceback" not in agent.log
    finally:
        subprocess.run(["umount", _BTF], check=True, timeout=60)
