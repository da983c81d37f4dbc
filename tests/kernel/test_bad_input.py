"""What can go wrong around the agent: a clear message, an exit status, nothing lost."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lab.agent import Agent, cli
from lab.load import (
    Load,
    check_answers,
    check_history,
    check_oracle,
    counters,
    fresh,
    newest,
    run,
)
from labkit import pace
from labkit.target import Target, Unit
from labkit.waiting import await_that

from prtrace.probe import pins
from prtrace.store.database import FILE

pytestmark = pytest.mark.machine(luns=2, nexuses=4, needs=("load",))

_NOBODY = 65534
_EMPTY = Path("/run/prtrace-empty")
_DISK = Path("/run/prtrace-disk")
_ELSEWHERE = Path("/run/prtrace-elsewhere")
_READS = 2000
_FULL_STATUS = 3
_PROGRAM = (sys.executable, "-m", "prtrace")


def refused(
    what: str, *words: str, prefix: tuple[str, ...] = (), options: tuple[str, ...] = ()
) -> None:
    """An agent that cannot start says why in a sentence and a hint, and ends with status 1.

    prefix: words that start another program, which starts the agent with less.
    """
    _ELSEWHERE.mkdir(exist_ok=True)
    if not any(option == "--state-dir" for option in options):
        options = ("--state-dir", str(_ELSEWHERE / "state"), *options)
    command = ("agent", "--socket", str(_ELSEWHERE / "socket"), *options)
    done = (
        subprocess.run(
            [*prefix, *_PROGRAM, *command],
            capture_output=True, text=True, timeout=pace.limit(120),
        )
        if prefix
        else cli(*command)
    )  # fmt: skip
    print(f"--- {what}: {done.returncode}\n{done.stderr}", flush=True)
    assert done.returncode == 1, what
    assert done.stderr.startswith("prtrace: "), what
    assert "Traceback" not in done.stderr, what
    assert "internal error" not in done.stderr, what
    assert "hint: " in done.stderr, what
    for word in words:
        assert word in done.stderr, (what, word)


def hidden(*paths: str) -> tuple[str, ...]:
    """Words before a command that let it find empty folders and empty files at these paths."""
    _EMPTY.mkdir(exist_ok=True)
    nothing = _EMPTY.with_name("prtrace-nothing")
    nothing.touch()
    mounts = "; ".join(
        f"mount --bind {_EMPTY if Path(path).is_dir() else nothing} {path}" for path in paths
    )
    return ("unshare", "--mount", "sh", "-ec", f'{mounts}; exec "$@"', "sh")


@pytest.mark.timeout(480)
def test_a_host_that_lacks_or_spoils_something() -> None:
    """One thing after the other is missing or wrong; the agent names it and says what to do."""
    fresh()
    shutil.rmtree(_ELSEWHERE, ignore_errors=True)
    # The one capability is for reading this program, wherever it is.
    read = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    nobody = ("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", *read)
    _ELSEWHERE.mkdir()
    os.chown(_ELSEWHERE, _NOBODY, _NOBODY)
    refused("no root", "root", prefix=nobody)
    pins.BASE.mkdir(mode=0o700, exist_ok=True)
    refused("no root, and an agent was here", "root", prefix=nobody)
    shutil.rmtree(_ELSEWHERE)
    refused("no BTF", "BTF: the kernel has none", "--engine bcc",
            prefix=hidden("/sys/kernel/btf"), options=("--engine", "core"))  # fmt: skip
    library = os.path.realpath("/usr/lib/x86_64-linux-gnu/libbpf.so.1")
    refused("no libbpf", "libbpf.so.1", "apt install libbpf1", prefix=hidden(library))
    refused("no bcc", "bcc is not installed", "apt install python3-bpfcc",
            prefix=hidden("/usr/lib/python3/dist-packages/bcc"),
            options=("--engine", "bcc"))  # fmt: skip
    refused("no bpf file system", "not a bpf file system", "mount",
            prefix=hidden("/sys/fs/bpf"))  # fmt: skip

    with Agent() as agent:
        agent.settled(60)
        refused("a second agent", "in use by another agent", f"process {agent.process.pid}",
                options=("--state-dir", str(agent.state_dir)))  # fmt: skip
        refused("a second agent elsewhere", "another agent reads this host's events")
        # And the first one does not mind.
        assert agent.show()

    store, whole = _ELSEWHERE / "state" / FILE, _ELSEWHERE / "whole"
    with Agent(state_dir=whole) as agent:
        agent.settled(60)
        agent.kill(signal.SIGTERM)
    for what, spoil, words in (
        ("a newer store", newer, ("newer prtrace",)),
        ("a corrupt store", corrupt, ("damaged", "move")),
        ("another program's store", foreign, ("another program",)),
    ):
        shutil.rmtree(store.parent, ignore_errors=True)
        shutil.copytree(whole, store.parent)
        spoil(store)
        before = store.read_bytes()
        refused(what, *words)
        assert store.read_bytes() == before, what


def newer(store: Path) -> None:
    """As a later version would leave it."""
    with sqlite3.connect(store) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()


def corrupt(store: Path) -> None:
    """A page of rubbish in the middle."""
    with store.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(4096 * 4))


def foreign(store: Path) -> None:
    """Somebody else's database."""
    store.unlink()
    with sqlite3.connect(store) as database:
        database.execute("CREATE TABLE theirs (x)")
    database.close()


@pytest.mark.timeout(300)
def test_a_full_disk(unit: Unit, seed: int) -> None:
    """Records wait in the ring while the disk is full, and show says so."""
    chance = random.Random(seed)
    built = unit
    fresh()
    _DISK.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", _DISK], check=True)
    with Agent(state_dir=_DISK / "state") as agent:
        agent.settled(60)
        mark = newest(agent)
        load = Load(built, chance.randrange(1 << 30))
        filler = (_DISK / "filler").open("wb", buffering=0)
        try:
            while True:
                filler.write(bytes(4096))
        except OSError as error:
            print("full:", error)
        load.burst(100)
        shown = cli("show", built.lu, socket=agent.socket)
        print(shown.returncode, shown.stdout, shown.stderr)
        assert shown.returncode == 4
        assert "wait to be stored" in " ".join(shown.stdout.split())
        status = cli("status", socket=agent.socket)
        assert status.returncode == 1
        assert "NOTHING IS STORED" in status.stdout, status.stdout
        # Neither is anything lost when the agent ends in this state.
        agent.kill()
        load.burst(50)
        agent.start()
        assert cli("show", built.lu, socket=agent.socket).returncode == 4
        filler.truncate(0)
        filler.close()
        total = load.end()
        await_that(
            "it stores again", lambda: not agent.status()["status"]["store"]["problem"], 120,
            told=lambda: agent.log,
        )  # fmt: skip
        agent.await_said("nothing is taken")
        agent.await_said("storing again")
        units = {unit["lu"]: unit for unit in agent.settled(60)}
        figures = counters(agent)
        events = list(agent.events(since_seq=mark))
        check_history(list(agent.events()), figures["seen"])
        check_answers(events, total)
        check_oracle(units[built.lu], built)
        assert "Traceback" not in agent.log
    subprocess.run(["umount", _DISK], check=True)


@pytest.mark.timeout(300)
@pytest.mark.machine(alone=True)
def test_units_that_go_and_come(target: Target) -> None:
    """Paths that go while they are read, and paths and units that come."""
    kept, going = target.units[:2]
    fresh()
    with Agent() as agent:
        agent.settled(60)
        path = going.paths[1]
        sysfs = Path("/sys/block") / Path(path.block).name / "device"
        before = answered_count(sysfs)
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(run, "in", path.block, _READS, _FULL_STATUS)
            while answered_count(sysfs) < before + 10:
                assert not reading.done()
            (sysfs / "delete").write_text("1")
            answered = reading.result(timeout=pace.limit(240))
        print("read while it went:", answered)
        assert answered["good"] >= 10
        assert answered["other"] > 0
        after = cli("read", path.block)
        print("read again:", after.returncode, after.stderr)
        assert after.returncode == 3, after
        wait(agent, going.lu, {each.hctl for each in going.paths if each is not path})
        # The other paths of the unit, by LIO's own means, while the agent is in doubt of it.
        for each in going.paths:
            for link in Path(each.tpg).glob("lun/lun_*/port"):
                if os.path.realpath(link) == os.path.realpath(going.directory):
                    link.unlink()
        agent.kill()
        (agent.state_dir / FILE).unlink()
        agent.start()
        print("in doubt:", [(unit["lu"], unit["doubt"]) for unit in agent.show() if unit["doubt"]])
        for each in going.paths:
            device = Path("/sys/block") / Path(each.block).name / "device" / "delete"
            if device.exists():
                device.write_text("1")
        wait(agent, going.lu, set())
        assert not any(unit["doubt"] for unit in agent.settled(60))
        # And back again: the same unit over one nexus.
        back = going.paths[0]
        lun = Path(back.tpg) / "lun" / f"lun_{back.hctl.split(':')[3]}"
        (lun / "port").symlink_to(going.directory)
        wait(agent, going.lu, {back.hctl})
        known = {unit["lu"]: unit for unit in agent.settled(60)}
        check_oracle(known[kept.lu], kept)
        assert known[going.lu]["present"]
        assert "Traceback" not in agent.log
        print(agent.log[-2000:])


def answered_count(device: Path) -> int:
    """How many commands a device has answered, as the kernel counts them."""
    return int((device / "iodone_cnt").read_text(), 16)


def wait(agent: Agent, lu: str, nexuses: set[str]) -> None:
    """Until the agent sees exactly these paths of a unit."""

    def here() -> set[str]:
        shown = {unit["lu"]: unit for unit in agent.show()}
        return {path["nexus"] for path in shown[lu]["nexuses"]} if lu in shown else set()

    await_that(f"{lu} has {nexuses}", lambda: here() == nexuses, told=here)


@pytest.mark.timeout(200)
@pytest.mark.machine(target=False)
def test_no_scsi_module() -> None:
    """No SCSI module: nothing to attach to."""
    assert not Path("/sys/module/scsi_mod").exists()
    refused("no SCSI module", "modprobe scsi_mod")
