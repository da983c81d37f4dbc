"""Faults around a running agent: each has its stated behaviour, and nothing is lost in silence.

docs/security.md has the table.  Elsewhere: a full disk, and a target that is torn down while it is
read (tests/kernel/test_bad_input); pins that are removed, and a bpffs that is unmounted
(tests/kernel/test_attacks).
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab.agent import STATE_DIR, Agent, cli
from lab.load import Load, check_answers, check_history, check_oracle, counters, fresh, newest
from labkit import pace
from labkit.target import Unit
from labkit.waiting import await_that

from prtrace.linux.sgio import SgDevice
from prtrace.model import Action
from prtrace.scsi.cdb import PrOutCdb
from prtrace.scsi.parameter import BasicList
from prtrace.store.database import FILE

pytestmark = [pytest.mark.machine(nexuses=2, needs=("load",)), pytest.mark.timeout(200)]

STORE = STATE_DIR / FILE
DAY = 86_400
GROUP = Path("/sys/fs/cgroup/prtrace-test")
IMAGE, ELSEWHERE = Path("/run/prtrace-image"), Path("/run/prtrace-ext4")


def register(unit: Unit, key: int, *, path: int = 0) -> None:
    """REGISTER AND IGNORE EXISTING KEY, until it is carried out."""
    cdb = PrOutCdb(Action.REGISTER_AND_IGNORE).build()
    with SgDevice(unit.paths[path].sg) as device:
        while device.send(cdb, BasicList(0, key, aptpl=False).build()).status:
            pass


def keys(agent: Agent) -> set[str]:
    """Of one unit, which nothing is in doubt of."""
    (shown,) = agent.settled(60)
    return {each["key"] for each in shown["registrations"]}


def ended(agent: Agent) -> int:
    assert agent.process is not None
    return agent.process.wait(pace.limit(30))


@pytest.fixture
def agent(unit: Unit) -> Iterator[Agent]:
    fresh()
    with Agent() as running:
        running.settled(60)
        register(unit, 0xA)
        yield running
        assert "Traceback" not in running.log


def test_a_store_that_is_deleted_ends_the_agent(agent: Agent, unit: Unit) -> None:
    for each in STATE_DIR.glob(f"{FILE}*"):
        each.unlink()
    register(unit, 0xB)
    assert ended(agent) == 1
    register(unit, 0xC)
    agent.start()
    assert keys(agent) == {"0x000000000000000c"}
    (shown,) = agent.show()
    check_oracle(shown, unit)


def test_a_store_that_is_replaced_by_an_older_one(agent: Agent, unit: Unit) -> None:
    """Restored from a backup, say: what it does not know is not taken for what is so."""
    agent.kill(signal.SIGTERM)
    older = shutil.copy2(STORE, STATE_DIR / "older")
    os.chown(older, STORE.stat().st_uid, STORE.stat().st_gid)
    agent.start()
    agent.settled(60)
    register(unit, 0xB)
    assert keys(agent) == {"0x000000000000000b"}
    os.replace(older, STORE)
    assert ended(agent) == 1
    for suffix in ("-wal", "-shm"):
        (STATE_DIR / f"{FILE}{suffix}").unlink(missing_ok=True)
    agent.start()
    (shown,) = agent.show()
    if not shown["doubt"]:
        check_oracle(shown, unit)
    assert keys(agent) == {"0x000000000000000b"}
    register(unit, 0xC)
    assert keys(agent) == {"0x000000000000000c"}
    assert any(event["command"] == "LOST" for event in agent.events()), "nothing says what is gone"


def test_a_store_that_is_damaged_is_given_nothing_more(agent: Agent, unit: Unit) -> None:
    with STORE.open("r+b") as file:
        file.write(os.urandom(4096))
    await_that("it is noticed", lambda: bool(agent.status()["status"]["store"]["problem"]))
    register(unit, 0xB)
    assert cli("show", unit.lu, socket=agent.socket).returncode == 4
    agent.kill(signal.SIGTERM)
    agent.start(wait=False)
    assert ended(agent) == 1
    shutil.rmtree(STATE_DIR / "move", ignore_errors=True)
    for each in STATE_DIR.glob(f"{FILE}*"):
        each.rename(each.with_name(f"away-{each.name}"))
    agent.start()
    assert keys(agent) == {"0x000000000000000b"}
    (shown,) = agent.show()
    check_oracle(shown, unit)


def device_of(path: Path) -> str:
    number = path.stat().st_dev
    return f"{os.major(number)}:{os.minor(number)}"


@contextlib.contextmanager
def own_file_system() -> Iterator[Callable[..., None]]:
    """An ext4 of its own, mounted at ELSEWHERE; what is given runs mount with these words."""
    subprocess.run(["modprobe", "-a", "loop", "ext4"], check=True, timeout=60)
    with IMAGE.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(IMAGE)], check=True, timeout=60)
    ELSEWHERE.mkdir(exist_ok=True)

    def mount(*words: str) -> None:
        subprocess.run(["mount", *words, str(ELSEWHERE)], check=True, timeout=60)

    mount("-o", "loop,errors=remount-ro", str(IMAGE))
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", str(ELSEWHERE)], check=False, timeout=60)


def test_a_store_that_cannot_be_written_any_more(unit: Unit) -> None:
    """As when ext4 finds an error: the file system is read-only from then on."""
    fresh()
    socket = Path("/run/prtrace-ext4.socket")
    with (
        own_file_system() as mount,
        Agent(state_dir=ELSEWHERE / "state", socket=socket) as agent,
    ):
        agent.settled(60)
        mark = newest(agent)
        loop = Path(os.path.realpath(f"/sys/dev/block/{device_of(ELSEWHERE)}")).name
        Path(f"/sys/fs/ext4/{loop}/trigger_fs_error").write_text("of the test's")
        load = Load(unit, 1)
        load.burst(50)
        total = load.end()
        # It finds out when it has something to write.
        await_that(
            "it says so",
            lambda: "read-only" in (agent.status()["status"]["store"]["problem"] or ""),
        )
        assert cli("show", unit.lu, socket=socket).returncode == 4
        agent.kill(signal.SIGTERM)
        subprocess.run(["umount", str(ELSEWHERE)], check=True, timeout=60)
        mount("-o", "loop", str(IMAGE))
        agent.start()
        agent.caught_up()
        (shown,) = agent.settled(60)
        check_answers(list(agent.events(since_seq=mark)), total)
        check_oracle(shown, unit)
        agent.kill(signal.SIGTERM)


def test_a_clock_that_is_set_back_a_day(agent: Agent, unit: Unit) -> None:
    mark = newest(agent)
    (before,) = agent.settled(60)
    shift = -DAY
    time.clock_settime(time.CLOCK_REALTIME, time.time() + shift)
    try:
        register(unit, 0xB)
        assert keys(agent) == {"0x000000000000000b"}
        agent.kill()
        register(unit, 0xC)
        agent.start()
        assert keys(agent) == {"0x000000000000000c"}
        (asked,) = agent.call("Refresh", devices=[unit.lu], max_age=1)["units"]
        assert not asked["problem"]
    finally:
        time.clock_settime(time.CLOCK_REALTIME, time.time() - shift)
    register(unit, 0xD)
    assert keys(agent) == {"0x000000000000000d"}
    told = [each["sa_key"] for each in agent.events(since_seq=mark) if each["command"] == "PR OUT"]
    assert [int(key, 16) for key in told if key] == [0xB, 0xC, 0xD]
    (shown,) = agent.show()
    assert shown["generation"] == before["generation"] + 3
    check_oracle(shown, unit)


def stood_still(agent: Agent, unit: Unit, seed: int, seconds: float, room: int) -> None:
    mark = newest(agent)
    load = Load(unit, random.Random(seed).randrange(1 << 30)).feed(room)
    agent.send(signal.SIGSTOP)
    time.sleep(seconds)
    agent.send(signal.SIGCONT)
    time.sleep(1)
    total = load.end()
    agent.caught_up(600)
    (shown,) = agent.settled(60)
    figures = counters(agent)
    assert figures["ring_full"] == 0
    check_history(list(agent.events()), figures["seen"])
    told = list(agent.events(since_seq=mark))
    check_answers(told, total)
    check_oracle(shown, unit)
    print(f"{load.sent} PR OUT, {len(told)} events")


def test_an_agent_that_stands_still_under_load(agent: Agent, unit: Unit, seed: int) -> None:
    stood_still(agent, unit, seed, 5, 400_000)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_an_agent_that_stands_still_for_a_minute(agent: Agent, unit: Unit, seed: int) -> None:
    stood_still(agent, unit, seed, 60, 12 << 20)


@contextlib.contextmanager
def own_group() -> Iterator[None]:
    """This process, and what it starts meanwhile, in a control group whose memory is limited."""
    root = GROUP.parent
    if not (root / "cgroup.controllers").exists():
        subprocess.run(["mount", "-t", "cgroup2", "none", str(root)], check=True, timeout=60)
    (root / "cgroup.subtree_control").write_text("+memory")
    GROUP.mkdir(exist_ok=True)
    (GROUP / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        (root / "cgroup.procs").write_text(str(os.getpid()))


def test_an_agent_without_memory(unit: Unit, seed: int) -> None:
    """The kernel ends it, or a process of it; the next one goes on where it was."""
    fresh()
    with contextlib.ExitStack() as stack:
        with own_group():
            (GROUP / "memory.max").write_text(str(256 << 20))
            agent = stack.enter_context(Agent())
        agent.settled(60)
        mark = newest(agent)
        charged = int((GROUP / "memory.current").read_text())
        print(f"{charged >> 20} MiB are charged")
        assert charged < 256 << 20
        load = Load(unit, seed)
        (GROUP / "memory.max").write_text(str(4 << 20))
        load.burst(100)
        # What it reads next needs memory.
        with contextlib.suppress(Exception):
            agent.status()
        ended(agent)
        (GROUP / "memory.max").write_text("max")
        load.burst(100)
        total = load.end()
        agent.start()
        agent.caught_up()
        (shown,) = agent.settled(60)
        check_history(list(agent.events()), counters(agent)["seen"])
        check_answers(list(agent.events(since_seq=mark)), total)
        check_oracle(shown, unit)


def test_a_hangup_is_said_and_changes_nothing(agent: Agent, unit: Unit) -> None:
    agent.send(signal.SIGHUP)
    agent.await_said("options are read at the start")
    register(unit, 0xB)
    assert keys(agent) == {"0x000000000000000b"}
