"""Faults around a running agent: each has its stated behaviour, and nothing is lost in silence.

docs/security.md has the table.  Elsewhere: a full disk, and a target that is torn down while it is
read (tests/kernel/test_bad_input); pins that are removed, and a bpffs that is unmounted
(tests/kernel/test_attacks).
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab.agent import STATE_DIR, Agent, cli
from lab.load import (
    Load,
    check_answers,
    check_history,
    check_oracle,
    counters,
    fresh,
    newest,
    pr_out,
)
from labkit import pace
from labkit.target import Unit
from labkit.waiting import await_that

from prtrace.agent.watch import WAITS_FOR_DISK
from prtrace.linux.sgio import SgDevice
from prtrace.model import Action
from prtrace.probe import libbpf, pins
from prtrace.probe.record import NEXUS, nexus_text
from prtrace.scsi.cdb import PrOutCdb
from prtrace.scsi.parameter import BasicList
from prtrace.store.database import FILE

pytestmark = [pytest.mark.machine(nexuses=2, needs=("load",)), pytest.mark.timeout(200)]

STORE = STATE_DIR / FILE
DAY = 86_400
GROUP = Path("/sys/fs/cgroup/prtrace-test")
IMAGE, SECTORS = Path("/run/prtrace-image"), 1 << 16
DISK, ELSEWHERE = Path("/dev/mapper/prtrace-disk"), Path("/run/prtrace-ext4")


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


def run(*words: str) -> str:
    # Without the device manager nobody but dmsetup itself makes the node.
    alone = {**os.environ, "DM_DISABLE_UDEV": "1"}
    done = subprocess.run(
        words, check=False, timeout=pace.limit(60), env=alone, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout.strip()


class OwnDisk:
    """An ext4 of its own, on a disk that can be made to refuse what is written to it."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        run("modprobe", "-a", "loop", "dm-mod", "dm-flakey", "ext4")
        with IMAGE.open("wb") as file:
            file.truncate(SECTORS * 512)
        self._loop = run("losetup", "--find", "--show", str(IMAGE))
        stack.callback(run, "losetup", "--detach", self._loop)
        run("dmsetup", "create", DISK.name, "--table", self._well)
        stack.callback(run, "dmsetup", "remove", "--retry", DISK.name)
        run("mkfs.ext4", "-q", "-F", str(DISK))
        ELSEWHERE.mkdir(exist_ok=True)
        self.mount()
        stack.callback(run, "umount", str(ELSEWHERE))

    @property
    def _well(self) -> str:
        return f"0 {SECTORS} linear {self._loop} 0"

    def mount(self) -> None:
        run("mount", "-o", "errors=remount-ro", str(DISK), str(ELSEWHERE))

    def mount_anew(self) -> None:
        """As after whatever was wrong was mended."""
        run("umount", str(ELSEWHERE))
        self._becomes(self._well)
        self.mount()

    def has_an_error_in_ext4(self) -> None:
        number = ELSEWHERE.stat().st_dev
        disk = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
        Path(f"/sys/fs/ext4/{disk.name}/trigger_fs_error").write_text("of the test's")

    def refuses_writes(self) -> None:
        self._becomes(f"0 {SECTORS} flakey {self._loop} 0 0 3600 1 error_writes")

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """What is sent to it waits."""
        run("dmsetup", "suspend", "--nolockfs", "--noflush", DISK.name)
        try:
            yield
        finally:
            run("dmsetup", "resume", DISK.name)

    def _becomes(self, table: str) -> None:
        run("dmsetup", "load", DISK.name, "--table", table)
        run("dmsetup", "suspend", "--nolockfs", "--noflush", DISK.name)
        run("dmsetup", "resume", DISK.name)


FAULTS = pytest.mark.parametrize("fault", [OwnDisk.has_an_error_in_ext4, OwnDisk.refuses_writes])


@FAULTS
def test_a_store_that_cannot_be_written_any_more(
    unit: Unit, fault: Callable[[OwnDisk], None]
) -> None:
    """Linux 6.1 tells neither a writer nor the mount table, only who waits for the disk."""
    written_no_more(unit, fault)


@FAULTS
@pytest.mark.slow
@pytest.mark.machine(kernels=("6.12", "7"))
def test_a_store_that_cannot_be_written_any_more_later(
    unit: Unit, fault: Callable[[OwnDisk], None]
) -> None:
    """Later ones fail writers too, and those between 6.6 and 6.15 readers as well."""
    written_no_more(unit, fault)


def written_no_more(unit: Unit, fault: Callable[[OwnDisk], None]) -> None:
    fresh()
    socket = Path("/run/prtrace-ext4.socket")
    with contextlib.ExitStack() as stack:
        disk = OwnDisk(stack)
        agent = stack.enter_context(Agent(state_dir=ELSEWHERE / "state", socket=socket))
        agent.settled(60)
        # What the disk never had nobody can miss: the history's beginning is on it.
        os.sync()
        fault(disk)
        load = Load(unit, 1)
        load.burst(50)
        total = load.end()
        # It finds out when it has something to write.
        await_that(
            "it says so",
            lambda: agent.status()["status"]["store"]["problem"],
            told=lambda: f"{Path('/proc/mounts').read_text()}\n{agent.log}",
        )
        print(agent.status()["status"]["store"]["problem"])
        assert cli("show", unit.lu, socket=socket).returncode == 4
        agent.kill(signal.SIGTERM)
        disk.mount_anew()
        agent.start()
        agent.caught_up()
        (shown,) = agent.settled(60)
        check_oracle(shown, unit)
        await_that("nothing is missing, or it is told", lambda: told_or_there(agent, total))
        agent.kill(signal.SIGTERM)


# What the agent writes before it knows may have to wait in the kernel (docs/security.md), and then
# it does not answer.
@pytest.mark.slow
def test_a_disk_that_does_not_answer(unit: Unit) -> None:
    """A suspended map: fdatasync() does not return, and nobody else waits for it."""
    fresh()
    socket = Path("/run/prtrace-ext4.socket")
    with contextlib.ExitStack() as stack:
        disk = OwnDisk(stack)
        # Not on that disk: whoever reads a file there waits for its time of access.
        log = Path("/run/prtrace-ext4.log")
        agent = stack.enter_context(Agent(state_dir=ELSEWHERE / "state", socket=socket, log=log))
        agent.settled(60)
        register(unit, 0xA)
        assert keys(agent) == {"0x000000000000000a"}
        # Nothing of ext4's own is under way then, for which a write would have to wait.
        os.sync()
        with disk.suspended():
            register(unit, 0xB)
            await_that(
                "the status says so",
                lambda: WAITS_FOR_DISK in agent.status()["status"]["store"]["problem"],
                told=lambda: agent.log,
            )
            register(unit, 0xC)
            # It answers, and says that it does not know.
            (shown,) = agent.show()
            assert WAITS_FOR_DISK in {
                each["reason"].split(": ")[1].split(" since")[0] for each in shown["doubt"]
            }
            assert cli("show", unit.lu, socket=socket).returncode == 4
            assert cli("status", socket=socket).returncode == 1
            await_that("the journal says so", lambda: WAITS_FOR_DISK in agent.log)
        await_that(
            "it goes on",
            lambda: not agent.status()["status"]["store"]["problem"],
            told=lambda: agent.log,
        )
        assert keys(agent) == {"0x000000000000000c"}
        (shown,) = agent.show()
        check_oracle(shown, unit)
        sent = [each["sa_key"] for each in agent.events() if each["command"] == "PR OUT"]
        assert {"0x000000000000000a", "0x000000000000000b", "0x000000000000000c"} <= set(sent), (
            sent
        )
        assert "Traceback" not in agent.log
        agent.kill(signal.SIGTERM)


def told_or_there(agent: Agent, total: Counter[str]) -> bool:
    """Whether every answer of the load is in the history, or an event says that some are not."""
    events = list(agent.events())
    if any(event["command"] == "LOST" for event in events):
        return True
    try:
        check_answers(events, total)
    except AssertionError:
        return False
    return True


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


def test_a_nexus_without_room_for_its_counters_is_told(agent: Agent, unit: Unit) -> None:
    """What nobody counts may have told of a lost registration, of whichever unit."""
    holder, other = unit.paths
    counts = libbpf.bpf_obj_get(str(pins.epochs()[-1].path / "maps" / "pr_counts"))
    try:
        full(counts)
        with SgDevice(holder.sg) as device:
            pr_out(device, 1, (0xA).to_bytes(8, "big"), type_=1).expect_good("RESERVE")
        fd = os.open(other.block, os.O_WRONLY | os.O_DIRECT)
        try:
            with mmap.mmap(-1, 4096) as page, pytest.raises(OSError, match=r"."):
                os.pwrite(fd, page, 0)
        finally:
            os.close(fd)
        assert other.hctl not in {nexus_text(key) for key, _ in libbpf.map_items(counts)}
    finally:
        os.close(counts)
    await_that(
        "it says so",
        lambda: any("no counter free" in (each["problem"] or "") for each in agent.events()),
        told=lambda: [*agent.events()],
    )
    causes = [each["cause"] for each in agent.status()["status"]["loss"]]
    assert "no room for a nexus's counters" in causes
    (shown,) = agent.settled(60)
    check_oracle(shown, unit)


def full(counts: int) -> None:
    """Fill the map with addresses that nothing here has."""
    for key, _ in list(libbpf.map_items(counts)):
        libbpf.bpf_map_delete_elem(counts, key)
    value = bytes(libbpf.bpf_map_get_info(counts).value_size)
    with contextlib.suppress(OSError):  # E2BIG, in the end
        for number in itertools.count():
            key = NEXUS.build(lun=number, host=1 << 20, channel=0, target=0)
            libbpf.bpf_map_update_elem(counts, key, value)


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


class InThisGroup(Agent):
    """What is started by itself is in the control group of who starts it."""

    program = ("-m", "prtrace")


def test_an_agent_without_memory(unit: Unit, seed: int) -> None:
    """The kernel ends it, or a process of it; the next one goes on where it was."""
    fresh()
    with contextlib.ExitStack() as stack:
        with own_group():
            (GROUP / "memory.max").write_text(str(256 << 20))
            agent = stack.enter_context(InThisGroup())
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
