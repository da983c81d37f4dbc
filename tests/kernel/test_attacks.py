"""What root can do to the attached programs, and what the agent then does and says."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.agent import STATE_DIR, Agent
from lab.load import check_oracle, counters, drain, fresh, pr_out
from labkit import needs, pace
from labkit.kernels import SERIES
from labkit.target import Unit
from labkit.waiting import await_that

from prtrace.linux.sgio import SgDevice
from prtrace.probe import pins

pytestmark = [
    pytest.mark.machine(nexuses=2, needs=("load",)),
    pytest.mark.timeout(400),
    pytest.mark.slow,
]

_BPFFS = Path("/sys/fs/bpf")
_ELSEWHERE = Path("/run/prtrace-second")
_KEY = (0xA77).to_bytes(8, "big")
_TURNS = 8
_KPROBES = Path("/sys/kernel/debug/kprobes/enabled")
_LOCKDOWN = Path("/sys/kernel/security/lockdown")
_UNPINNED = "the programs are not pinned"
_DOORS_TOLD = "attached to sg_rq_end_io(), which is new"


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


def prtrace(*words: str) -> subprocess.CompletedProcess[str]:
    return command(sys.executable, "-m", "prtrace", *words)


def register(agent: Agent, node: str) -> dict[str, object]:
    """Send a REGISTER over a node; its event."""
    since = max((event["seq"] for event in agent.events(last=1)), default=0)
    with SgDevice(node) as device:
        drain(device)
        pr_out(device, 6, sa_key=_KEY).expect_good("REGISTER")
    (told,) = (e for e in agent.events(since_seq=since) if e["command"] == "PR OUT")
    return told


def self_test(agent: Agent) -> str:
    result: str = agent.status()["status"]["self_test"]["result"]
    return result


def second_agent() -> subprocess.CompletedProcess[str]:
    """An agent with a store and a socket of its own, and what it says."""
    return prtrace(
        *("agent", "--state-dir", str(_ELSEWHERE), "--socket", str(_ELSEWHERE / "socket")),
    )


def kernel_complaints() -> list[str]:
    found = command("dmesg").stdout.splitlines()
    return [line for line in found if "BUG:" in line or "WARNING:" in line or "Oops" in line]


@pytest.mark.timeout(1500)
def test_attached_and_detached_at_any_moment_under_load(unit: Unit, seed: int) -> None:
    """Killed, detached and started anew while commands are under way on both paths."""
    chance = random.Random(seed)
    fresh()
    loads = [
        subprocess.Popen(
            [needs.load(), "out", path.block, str(number), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for number, path in enumerate(unit.paths, 1)
    ]
    for load in loads:
        assert load.stdin is not None
        load.stdin.write("100000000\n")
        load.stdin.flush()
    try:
        with Agent("--read-in-doubt", "no", patience=300) as agent:
            for turn in range(_TURNS):
                if turn % 2:
                    agent.start(wait=False)
                    time.sleep(chance.uniform(0, 6 * pace.factor()))
                elif turn:
                    agent.start()
                    assert prtrace("detach", "--yes").returncode == 1
                agent.kill()
                done = prtrace("detach", "--yes")
                assert done.returncode == 0, done
                assert not pins.epochs()
    finally:
        for load in loads:
            load.kill()
            load.communicate()
    with Agent() as agent:
        [shown] = agent.settled(60)
        check_oracle(shown, unit)
        assert "Traceback" not in agent.log
    assert not kernel_complaints()


@pytest.mark.machine(kernels=SERIES)
def test_sg_is_unloaded_and_loaded(unit: Unit) -> None:
    """sg cannot be unloaded under attached programs; an agent attaches to an sg loaded later."""
    path = unit.paths[0]
    fresh()
    with Agent() as agent:
        agent.settled(60)
        assert command("modprobe", "-r", "sg").returncode
        assert register(agent, path.sg)["path"] == "sg node"
        agent.kill()
        assert prtrace("detach", "--yes").returncode == 0
        assert command("modprobe", "-r", "sg").returncode == 0
        agent.start()
        assert command("modprobe", "sg").returncode == 0
        agent.await_said(_DOORS_TOLD)
        await_that("the sg node", Path(path.sg).exists)
        told = register(agent, path.sg)
        assert told["path"] == "sg node", told
        assert told["head"] == told["data"], told
        assert counters(agent)["missed"] == 0
        # The next agent adopts these, too.
        agent.kill()
        agent.start()
        assert agent.status()["status"]["note"] == "adopted the running programs"
        assert register(agent, path.sg)["path"] == "sg node"
        [shown] = agent.settled(60)
        check_oracle(shown, unit)
        assert "Traceback" not in agent.log


@pytest.fixture
def _no_sg() -> Iterator[None]:
    """The machine without the module sg, which a test may load."""
    fresh()
    await_that("no sg", lambda: command("modprobe", "-r", "sg").returncode == 0)
    yield
    command("modprobe", "sg")


@pytest.mark.machine(kernels=SERIES)
@pytest.mark.usefixtures("_no_sg")
def test_sg_is_loaded_while_nobody_watches(unit: Unit) -> None:
    """Commands through sg meanwhile may have ended unseen: the next agent counts that, once."""
    path = unit.paths[0]
    with Agent() as agent:
        agent.settled(60)
        agent.kill()
        assert command("modprobe", "sg").returncode == 0
        agent.start()
        status = agent.status()["status"]
        assert status["note"] == "adopted the running programs"
        assert status["self_test"]["result"] == "passed", status["self_test"]
        assert counters(agent)["skipped"] == 1
        assert register(agent, path.sg)["path"] == "sg node"
        agent.kill()
        agent.start()
        assert counters(agent)["skipped"] == 1
        [shown] = agent.settled(60)
        check_oracle(shown, unit)
        assert "Traceback" not in agent.log


@pytest.mark.machine(kernels=SERIES)
@pytest.mark.usefixtures("_no_sg")
def test_sg_is_loaded_and_cannot_be_hooked(unit: Unit) -> None:
    """Without sg's BTF one of two programs cannot attach: the fallback sees its commands end."""
    path = unit.paths[0]
    told = Path("/run/btf")
    shutil.copytree("/sys/kernel/btf", told)
    assert command("mount", "--bind", str(told), "/sys/kernel/btf").returncode == 0
    try:
        with Agent() as agent:
            agent.settled(60)
            before = agent.status()["status"]
            assert not before["fallback"], before["fallback"]
            assert command("modprobe", "sg").returncode == 0
            agent.await_said("sg_rq_end_io() cannot be hooked twice")
            await_that("the sg node", Path(path.sg).exists)
            await_that("the fallback", lambda: agent.status()["status"]["fallback"])
            status = agent.status()["status"]
            assert status["generation"] == before["generation"] + 1, status
            assert register(agent, path.sg)["status"] == "GOOD"
            await_that("one generation", lambda: len(pins.epochs()[-1].generations) == 1)
            assert register(agent, path.sg)["status"] == "GOOD"
            [shown] = agent.settled(60)
            check_oracle(shown, unit)
            assert "Traceback" not in agent.log
    finally:
        command("umount", "/sys/kernel/btf")


def test_an_agent_is_interrupted_while_it_starts(seed: int) -> None:
    """SIGINT ends it at any moment, without a traceback; the next agent attaches everything."""
    chance = random.Random(seed)
    fresh()
    for _ in range(_TURNS):
        agent = Agent()
        agent.start(wait=False)
        time.sleep(chance.uniform(0, 5 * pace.factor()))
        agent.kill(signal.SIGINT)
        assert "Traceback" not in agent.log, agent.log
        assert "Exception ignored" not in agent.log, agent.log
    with Agent() as agent:
        agent.settled(60)
        assert agent.status()["status"]["self_test"]["result"] == "passed"


def test_kprobes_are_switched_off_while_an_agent_runs(unit: Unit) -> None:
    """The kernel tells nobody.  The next agent's self-test fails, and a command has no sender."""
    path = unit.paths[0]
    fresh()
    command("mount", "-t", "debugfs", "debugfs", "/sys/kernel/debug")
    with Agent() as agent:
        agent.settled(60)
        assert self_test(agent) == "passed"
        _KPROBES.write_text("0")
        try:
            agent.kill()
            agent.start()
            agent.settled(60)
            await_that("a failed self-test", lambda: self_test(agent) == "failed")
            assert register(agent, path.block)["comm"] is None
        finally:
            _KPROBES.write_text("1")
        [shown] = agent.settled(60)
        check_oracle(shown, unit)


@pytest.mark.machine(alone=True)
def test_a_kernel_that_is_locked_down_says_so() -> None:
    fresh()
    command("mount", "-t", "securityfs", "securityfs", "/sys/kernel/security")
    _LOCKDOWN.write_text("confidentiality")
    for words in (("agent",), ("doctor",)):
        refused = prtrace(*words)
        assert refused.returncode, refused
        assert "lockdown" in refused.stderr + refused.stdout, refused
        assert "confidentiality" in refused.stderr + refused.stdout, refused


def test_a_second_agent_is_refused(unit: Unit) -> None:
    fresh()
    with Agent() as agent:
        agent.settled(60)
        refused = second_agent()
        assert refused.returncode == 1, refused
        assert "another agent reads this host's events" in refused.stderr, refused
        register(agent, unit.paths[0].block)


@pytest.mark.parametrize(
    ("gone", "note"),
    [
        ("maps/pr_counts", "a pinned map is gone"),
        ("maps", "a pinned map is gone"),
        ("PROGRAMS", "the pinned programs are gone"),
        ("PROGRAMS/pr_over_sg", "replaced programs that lacked pr_over_sg"),
        ("PROGRAMS/pr_on_timeout", "adopted the running programs"),
    ],
)
def test_pins_are_half_removed_while_no_agent_runs(unit: Unit, gone: str, note: str) -> None:
    fresh()
    with Agent() as agent:
        agent.settled(60)
        register(agent, unit.paths[0].block)
        agent.kill()
        epoch = pins.epochs()[-1]
        path = epoch.path / gone.replace("PROGRAMS", epoch.generations[-1].path.name)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        agent.start()
        status = agent.status()["status"]
        assert note in status["note"], status["note"]
        absent = {each["program"] for each in status["attach"] if not each["attached"]}
        assert absent == ({"pr_on_timeout"} if "timeout" in gone else set()), absent
        [shown] = agent.settled(60)
        check_oracle(shown, unit)
        register(agent, unit.paths[0].block)
        assert len(pins.epochs()) == 1
        assert "Traceback" not in agent.log


@pytest.mark.machine(alone=True)
def test_bpffs_is_unmounted_and_mounted_while_an_agent_runs(unit: Unit) -> None:
    """The agent goes on, says so once, and pins all of it again as soon as it can."""
    block = unit.paths[0].block
    fresh()
    with Agent() as agent:
        agent.settled(60)
        epoch = pins.epochs()[-1]
        assert command("umount", "--lazy", str(_BPFFS)).returncode == 0
        agent.await_said(_UNPINNED)
        register(agent, block)
        refused = second_agent()
        assert refused.returncode == 1, refused
        assert "is not a bpf file system" in refused.stderr, refused
        time.sleep(4 * pace.factor())
        assert agent.log.count(_UNPINNED) == 1, agent.log
        assert command("mount", "-t", "bpf", "bpf", str(_BPFFS)).returncode == 0
        agent.await_said("pr_submit was unpinned")
        refused = second_agent()
        assert refused.returncode == 1, refused
        assert "another agent reads this host's events" in refused.stderr, refused
        register(agent, block)
        agent.kill()
        agent.start()
        assert agent.status()["status"]["note"] == "adopted the running programs"
        assert [each.name for each in pins.epochs()] == [epoch.name]
        [shown] = agent.show(unit.lu)
        assert not shown["doubt"], shown["doubt"]
        check_oracle(shown, unit)
        assert "Traceback" not in agent.log
    shutil.rmtree(STATE_DIR)
