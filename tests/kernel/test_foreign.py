"""Programs that nobody here wrote: every reservation command of theirs is seen and decoded.

What was sent is counted apart from prtrace, by the kernel's own histogram of
scsi:scsi_dispatch_cmd_start by operation code.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab.agent import Agent, cli
from lab.load import fresh
from labkit import foreign, pace
from labkit.foreign import fence_scsi
from labkit.kernels import SERIES
from labkit.target import Unit, UnitPath
from labkit.waiting import await_that

pytestmark = [
    pytest.mark.machine(
        kernels=(SERIES[0], *(pytest.param(each, marks=pytest.mark.slow) for each in SERIES[1:])),
        nexuses=2,
        transport="loop,iscsi",
    ),
    pytest.mark.timeout(300),
]

_TRACE = Path("/sys/kernel/tracing/events/scsi/scsi_dispatch_cmd_start")
_OPCODES = {0x16: "RESERVE", 0x17: "RELEASE", 0x56: "RESERVE", 0x57: "RELEASE"}
_OPCODES |= {0x5E: "PR IN", 0x5F: "PR OUT"}
_BUCKET = re.compile(r"opcode:\s+([0-9a-f]+)\s*\}\s*hitcount:\s+(\d+)")


class Counting:
    """The kernel's histogram of dispatched commands, from entering to leaving."""

    def __enter__(self) -> Counting:
        self._trigger("hist:keys=opcode.hex")
        return self

    def __exit__(self, *_: object) -> None:
        self._trigger("!hist:keys=opcode.hex")

    def sent(self) -> Counter[str]:
        """How many reservation commands were dispatched, by kind."""
        counted: Counter[str] = Counter()
        for opcode, count in _BUCKET.findall((_TRACE / "hist").read_text()):
            if int(opcode, 16) in _OPCODES:
                counted[_OPCODES[int(opcode, 16)]] += int(count)
        return counted

    def _trigger(self, text: str) -> None:
        # The file refuses what an open with O_TRUNC does to it.
        fd = os.open(_TRACE / "trigger", os.O_WRONLY | os.O_APPEND)
        try:
            os.write(fd, f"{text}\n".encode())
        finally:
            os.close(fd)


class Program:
    """Runs commands and keeps what they said, for the case that something fails."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.statuses: Counter[int] = Counter()

    def run(self, command: str, timeout: float = 240) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        self.statuses[done.returncode] += 1
        self.said.append(f"$ {command}\n{done.stdout}{done.stderr}[{done.returncode}]")
        return done.stdout


def sg_persist(program: Program, unit: Unit) -> set[str]:
    """Every service action and option that sg_persist has."""
    one, two = unit.paths[0], unit.paths[1]
    iscsi = [path for path in unit.paths if path.transport == "iscsi"]

    def out(path: UnitPath, words: str) -> None:
        program.run(f"sg_turs -n 4 {path.sg}; sg_persist -n --out {words} {path.sg}")

    out(one, "--register --param-sark=a1")
    out(one, "--register --param-rk=a1 --param-sark=a2 --param-aptpl")
    out(two, "--register-ignore --param-sark=b1")
    for kind in (1, 3, 5, 6, 7, 8):
        out(one, f"--reserve --param-rk=a2 --prout-type={kind}")
        for what in ("--read-keys", "--read-reservation", "--read-full-status"):
            program.run(f"sg_persist -n --in {what} {two.block}")
        out(two, f"--reserve --param-rk=b1 --prout-type={kind}")
        out(one, f"--release --param-rk=a2 --prout-type={kind}")
    program.run(f"sg_persist -n --in --report-capabilities {one.sg}")
    program.run(f"sg_persist -n --in --read-full-status --maxlen=4000 --hex {one.sg}")
    out(one, "--reserve --param-rk=a2 --prout-type=5")
    out(two, "--preempt --param-rk=b1 --param-sark=a2 --prout-type=6")
    out(
        two,
        f"--register-move --param-rk=b1 --param-sark=c1 --relative-target-port={one.rtpi} "
        f"--transport-id=sas,{one.initiator.removeprefix('naa.')} --prout-type=6",
    )
    out(
        two,
        f"--register-move --param-rk=b1 --param-sark=c1 --relative-target-port={one.rtpi} "
        f"--transport-id=sas,{one.initiator.removeprefix('naa.')} --unreg --prout-type=6",
    )
    out(one, "--clear --param-rk=c1")
    out(one, "--register --param-sark=a1 --param-alltgpt")
    out(one, "--clear --param-rk=a1")
    out(one, f"--register --param-sark=a1 --transport-id=sas,{two.initiator.removeprefix('naa.')}")
    out(one, "--replace-lost --param-rk=a1 --param-sark=a1 --prout-type=5")
    out(one, "--clear --param-rk=a1")
    out(iscsi[0], "--register --param-sark=d1")
    out(iscsi[1], "--register --param-sark=d2")
    out(iscsi[0], "--reserve --param-rk=d1 --prout-type=1")
    out(iscsi[1], "--preempt-abort --param-rk=d2 --param-sark=d1 --prout-type=3")
    out(iscsi[1], "--clear --param-rk=d2")
    return {"sg_persist"}


def libiscsi(program: Program, unit: Unit) -> set[str]:
    """libiscsi's conformance tests, by SG_IO over two paths."""
    one, two = unit.paths[0].block, unit.paths[1].block
    for suite in ("ALL.Prin*", "ALL.Prout*", "ALL.Reserve6*"):
        program.run(f"iscsi-test-cu -d -n -t '{suite}' {one} {two}", timeout=900)
    return {"iscsi-test-cu"}


def multipath(program: Program, unit: Unit) -> set[str]:
    """mpathpersist, with the multipathd that it needs."""
    subprocess.run(["modprobe", "-a", "dm_multipath", "dm_round_robin"], check=True)
    Path("/etc/multipath.conf").write_text(
        "defaults {\n find_multipaths no\n user_friendly_names yes\n reservation_key 0x123abc\n}\n"
    )
    daemon = subprocess.Popen(
        ["multipathd", "-d"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        node = _map_of(program, unit)
        for words in (
            "--out --register --param-sark=123abc",
            "--in --read-keys",
            "--in --read-full-status",
            "--out --reserve --param-rk=123abc --prout-type=5",
            "--in --read-reservation",
            "--in --report-capabilities",
            "--out --release --param-rk=123abc --prout-type=5",
            "--out --reserve --param-rk=123abc --prout-type=7",
            "--out --preempt --param-rk=123abc --param-sark=bad --prout-type=7",
            "--out --register-ignore --param-sark=123abc",
            "--out --clear --param-rk=123abc",
        ):
            program.run(f"mpathpersist {words} {node}")
    finally:
        daemon.terminate()
        daemon.wait(timeout=60)
    return {"mpathpersist"}


def _map_of(program: Program, unit: Unit) -> str:
    """The multipath node that multipathd made over the unit's paths."""
    holders = Path(f"/sys/class/block/{Path(unit.paths[0].block).name}/holders")

    def nodes() -> list[str]:
        found = []
        # A map may be replaced while it is looked at.
        with contextlib.suppress(FileNotFoundError):
            for holder in holders.iterdir():
                node = Path("/dev/mapper") / (holder / "dm/name").read_text().strip()
                if len(list((holder / "slaves").iterdir())) == len(unit.paths) and node.exists():
                    found.append(str(node))
        return found

    def told() -> str:
        return program.run("multipath -ll -v3 | tail -60")

    await_that("multipathd's map", nodes, 120, told=told)
    return nodes()[0]


def fence(program: Program, unit: Unit, command: str) -> set[str]:
    """fence_scsi on for two nodes, then one fences the other.

    Over iSCSI: to fence is PREEMPT AND ABORT, which tcm_loop does not survive.
    """
    one, two = (path.block for path in unit.paths if path.transport == "iscsi")
    Path("/run/cluster").mkdir(exist_ok=True)
    for action, key, node in (
        ("metadata", "1", one),
        ("on", "7e570001", one),
        ("status", "7e570001", one),
        ("on", "7e570002", two),
        ("off", "7e570001", two),
        ("status", "7e570001", two),
    ):
        program.run(f"{command} --action={action} --devices={node} --key={key} -v")
    return {"sg_persist"}


def blkpr(program: Program, unit: Unit, root: str) -> set[str]:
    """The kernel's own interface, IOC_PR_*, with every type and option that blkpr has.

    Its C library is not the machine's, so it gets a root directory of its own.
    """
    subprocess.run(["mkdir", "-p", f"{root}/dev"], check=True)
    for name in ("lib", "lib64"):  # links that another package of that release has
        if not Path(root, name).exists():
            Path(root, name).symlink_to(f"usr/{name}")
    subprocess.run(["mount", "--rbind", "/dev", f"{root}/dev"], check=True)
    one, two = (path.block for path in unit.paths if path.transport == "iscsi")

    def out(node: str, words: str) -> None:
        program.run(f"sg_turs -n 4 {node}; chroot {root} /usr/sbin/blkpr {words} {node}")

    out(one, "-c register -k 0xa1")
    out(one, "-c register -K 0xa1 -k 0xa2")
    out(two, "-c register -k 0xb1 -f ignore-key")
    plain = ("write-exclusive", "exclusive-access")
    for kind in (f"{each}{who}" for each in plain for who in ("", "-reg-only", "-all-regs")):
        out(one, f"-c reserve -k 0xa2 -t {kind}")
        out(two, f"-c reserve -k 0xb1 -t {kind}")
        out(one, f"-c release -k 0xa2 -t {kind}")
    out(one, "-c reserve -k 0xa2 -t write-exclusive-reg-only")
    out(two, "-c preempt -K 0xb1 -k 0xa2 -t exclusive-access")
    out(one, "-c register -k 0xa3 -f ignore-key")
    out(two, "-c preempt-abort -K 0xb1 -k 0xa3 -t exclusive-access")
    out(two, "-c clear -k 0xb1")
    return {"blkpr"}


def check(agent: Agent, sent: Counter[str], first: int, programs: set[str]) -> list[str]:
    """Events against the kernel's count; every command decoded and attributed."""
    end = time.monotonic() + pace.limit(10)
    while True:
        events = [e for e in agent.events(since_seq=first) if e["command"] in _OPCODES.values()]
        seen = Counter(event["command"] for event in events)
        if seen == sent or time.monotonic() > end:
            break
        time.sleep(0.1)
    wrong = []
    if seen != sent:
        wrong.append(f"the kernel dispatched {dict(sent)}, prtrace saw {dict(seen)}")
    for event in events:
        wrong += (f"{problem}: {event}" for problem in problems(event))
    by = Counter(event["comm"] for event in events)
    if missing := programs - by.keys():
        wrong.append(f"no command of {missing}")
    print("seen:", dict(seen), "by", dict(by))
    kinds = Counter((e["action"] or e["command"], e["status"]) for e in events)
    print("kinds:", *(f"{a} {s} {n}" for (a, s), n in sorted(kinds.items())), sep="\n  ")
    return wrong


def problems(event: dict[str, Any]) -> list[str]:
    """What is missing in an event that has everything."""
    found = []
    if event["command"] in ("PR IN", "PR OUT") and not event["action"]:
        found.append("no action")
    if event["command"] == "PR OUT" and event["key"] is None and event["status"] == "GOOD":
        found.append("no key")
    if event["status"] == "GOOD" and event["problem"]:
        found.append("not understood")
    if not event["status"] or event["status"].startswith("STATUS "):
        found.append("no known status")
    if event["status"] == "CHECK CONDITION" and not event["sense"]:
        found.append("sense data not decoded")
    if not event["pid"] or not event["comm"] or event["path"] in (None, "unknown"):
        found.append("nobody asked")
    if not event["lu"].startswith("naa.") or not event["device"]:
        found.append("no unit")
    return found


def seen(unit: Unit, use: Callable[[Program, Unit], set[str]]) -> None:
    """All that a program sends is seen; use() sends, and gives the names of who sent."""
    fresh()
    program = Program()
    with Agent() as agent:
        agent.settled(30)
        first = max((event["seq"] for event in agent.events()), default=0)
        with Counting() as counting:
            comms = use(program, unit)
            agent.settled(30)
            sent = counting.sent()
            wrong = check(agent, sent, first, comms)
        print(*program.said, "exit statuses:", dict(program.statuses), sep="\n")
        assert not wrong, "\n".join(wrong)
        assert sent["PR OUT"]
        assert not any(each["doubt"] for each in agent.show())
        # A program skipped on top of itself is told and harmless where the counts agree.
        loss = agent.status()["status"]["loss"]
        assert not [each for each in loss if "uncounted" not in each["cause"]]
        assert cli("events", "--json").returncode == 0


def test_sg_persist(unit: Unit) -> None:
    seen(unit, sg_persist)


@pytest.mark.timeout(1100)
def test_libiscsi(unit: Unit) -> None:
    seen(unit, libiscsi)


@pytest.mark.machine(needs=("fence_scsi",))
def test_fence_scsi(unit: Unit) -> None:
    seen(unit, lambda program, unit: fence(program, unit, fence_scsi().command))


@pytest.mark.machine(transport="loop", udev=True)
def test_mpathpersist(unit: Unit) -> None:
    seen(unit, multipath)


@pytest.mark.machine(needs=("blkpr",))
def test_blkpr(unit: Unit) -> None:
    seen(unit, lambda program, unit: blkpr(program, unit, str(foreign.blkpr())))
