"""Attaching: the basic scenario with one engine, and an optional attach point that is missing.

attach.py scenario ENGINE
attach.py missing
attach.py no-btf
"""

from __future__ import annotations

import os
import subprocess
import sys

from agent import STATE_DIR, Agent, cli
from load import check_oracle, fresh, target

from prtrace.linux.sgio import Reply, SgDevice
from prtrace.probe import core

_A, _B = (0xA11).to_bytes(8, "big"), (0xB22).to_bytes(8, "big")
_NONE = bytes(8)
_WERO = 5
_OPTIONAL = b"tp_btf/scsi_dispatch_cmd_error"
_NOWHERE = b"tp_btf/scsi_dispatch_nowhere__"
_BTF = "/sys/kernel/btf"


def send(device: SgDevice, action: int, key: bytes, sa_key: bytes, type_: int = 0) -> Reply:
    """One PR OUT, once; whatever is answered."""
    cdb = bytes((0x5F, action, type_, 0, 0, 0, 0, 0, 24, 0))
    return device.pr_out(cdb, key + sa_key + bytes(8))


def collect(device: SgDevice) -> None:
    """Take the unit attentions that wait for a nexus."""
    while device.test_unit_ready().attention:
        pass


def scenario(engine: str) -> None:
    """Register, reserve, collide, preempt, learn of it; killed in the middle, and adopted."""
    built = target().units[0]
    path_a, path_b = built.paths[:2]
    fresh()
    with (
        Agent("--engine", engine, patience=600) as agent,
        SgDevice(path_a.block) as device_a,
        SgDevice(path_b.sg) as device_b,
    ):
        agent.settled(60)
        for device in (device_a, device_b):
            collect(device)
        send(device_a, 6, _NONE, _A).expect_good("REGISTER")
        send(device_b, 6, _NONE, _B).expect_good("REGISTER")
        send(device_a, 1, _A, _NONE, _WERO).expect_good("RESERVE")
        assert send(device_b, 1, _B, _NONE, _WERO).conflict
        [unit] = agent.show(built.lu)
        check_oracle(unit, built)
        epoch = agent.status()["status"]["epoch"]
        agent.kill()
        send(device_b, 4, _B, _A, _WERO).expect_good("PREEMPT")
        assert device_a.test_unit_ready().attention
        agent.start()
        status = agent.status()["status"]
        assert status["engine"] == engine
        assert status["epoch"] == epoch, status["note"]
        print(status["kernel"], status["note"], status["rss_bytes"] >> 20, "MiB")
        missing = {each["program"] for each in status["attach"] if not each["attached"]}
        assert not missing, missing
        assert bool(status["fallback"]) is (engine == "bcc"), status["fallback"]
        assert status["self_test"]["result"] == "passed", status["self_test"]
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
        send(device_b, 3, _B, _NONE).expect_good("CLEAR")
        assert "Traceback" not in agent.log
    print("1 passed, 0 failed")


def missing() -> None:
    """A program whose attach point this kernel lacks is left out, and status says so."""
    built = target().units[0]
    fresh()
    whole = core.object_path().read_bytes()
    assert _OPTIONAL in whole
    changed = STATE_DIR.with_name("prtrace-missing.o")
    changed.write_bytes(whole.replace(_OPTIONAL, _NOWHERE))
    os.environ["PRTRACE_BPF_OBJECT"] = str(changed)
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
        collect(device)
        send(device, 6, _NONE, _A).expect_good("REGISTER")
        [unit] = agent.show(built.lu)
        check_oracle(unit, built)
        send(device, 3, _A, _NONE).expect_good("CLEAR")
        assert "Traceback" not in agent.log
    print("1 passed, 0 failed")


def no_btf() -> None:
    """A kernel without BTF: bcc is taken, nobody knows who asked, and the rest is right."""
    built = target().units[0]
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
                collect(device_a)
                collect(device_b)
                send(device_a, 6, _NONE, _A).expect_good("REGISTER")
                send(device_b, 6, _NONE, _B).expect_good("REGISTER")
                send(device_a, 1, _A, _NONE, _WERO).expect_good("RESERVE")
                send(device_b, 4, _B, _A, _WERO).expect_good("PREEMPT")
                [unit] = agent.show(built.lu)
                assert not unit["doubt"], unit
                check_oracle(unit, built)
                send(device_b, 3, _B, _NONE).expect_good("CLEAR")
            sent = [each for each in agent.events() if each["command"] == "PR OUT"]
            assert len(sent) == 10, sent
            assert {each["pid"] for each in sent} == {None}, sent
            assert all(each["head"] == each["data"] for each in sent), sent
            assert "Traceback" not in agent.log
    finally:
        subprocess.run(["umount", _BTF], check=True, timeout=60)
    print("1 passed, 0 failed")


if __name__ == "__main__":
    if sys.argv[1] == "scenario":
        scenario(sys.argv[2])
    elif sys.argv[1] == "no-btf":
        no_btf()
    else:
        missing()
