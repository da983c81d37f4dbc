"""The life of the Debian package, under a real systemd: from apt install to purge.

Nothing of the checkout is used in the machines but the package: system Python, no compiler, no
network.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from labkit import needs, roots
from labkit.control import CompletedRun
from labkit.machine import Machine
from labkit.qemu import Shape
from labkit.target import TargetSpec

TOP = Path(__file__).parents[2]
DEPENDS = ("python3-click", "python3-construct", "python3-psutil", "libbpf1")
KERNEL = {"bookworm": "6.1", "trixie": "6.12"}
OUT = "/run/lab/out"
NEWER = "1.0.0+next"

STORM_SECONDS = 60
STORM_RATE = 1000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3400), pytest.mark.needs("load")]


class Host:
    """A machine as its administrator sees it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def asked(self, command: str, timeout: float = 240) -> CompletedRun:
        done = self.machine.run(command, timeout)
        print(f"# {command}\n{done.output}")  # pytest shows it where the test fails
        return done

    def run(self, command: str, timeout: float = 240) -> str:
        done = self.asked(command, timeout)
        assert done.status == 0, f"{command}: {done.status}\n{done.output[-3000:]}"
        return done.output

    def json(self, command: str) -> Any:
        return json.loads(self.run(f"{command} --json"))

    def apt(self, words: str) -> str:
        return self.run(f"DEBIAN_FRONTEND=noninteractive apt-get {words} -y 2>&1", 600)

    def unit(self, device: str) -> dict[str, Any]:
        """What show says of a device, once what waits was read and nothing is in doubt."""
        self.run(
            f"timeout 1500 sh -c 'until prtrace show {device} >/dev/null; do sleep 1; done'", 1600
        )
        (unit,) = self.json(f"prtrace show {device}")["units"]
        return unit

    def keys(self, device: str) -> dict[str, str]:
        """Registered keys by device node."""
        told = self.unit(device)["registrations"]
        return {each["device"]: each["key"].removeprefix("0x").lstrip("0") for each in told}


@pytest.fixture(scope="module", params=roots.RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def packages(release: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release's packages, and prtrace's once more with a greater version."""
    out = tmp_path_factory.mktemp("packages")
    subprocess.run(
        [sys.executable, TOP / "tools" / "package", release, "--out", out],
        check=True,
        timeout=1800,
    )
    (first,) = (out / release).glob("prtrace_*.deb")
    tree = out / "tree"
    subprocess.run(["dpkg-deb", "-R", first, tree], check=True)
    control = tree / "DEBIAN/control"
    lines = control.read_text().splitlines()
    control.write_text(
        "\n".join(f"Version: {NEWER}" if line.startswith("Version:") else line for line in lines)
        + "\n"
    )
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-b", tree, out / release / "newer.deb"], check=True
    )
    return out / release


@pytest.fixture
def host(release: str, packages: Path, tmp_path: Path) -> Iterator[Host]:
    for package in packages.glob("*.deb"):
        shutil.copy(package, tmp_path)
    shutil.copy(needs.load(), tmp_path / "load")
    root = roots.root(release, (*roots.SYSTEM, *DEPENDS))
    spec = TargetSpec(luns=1, nexuses=2)
    shape = Shape(root=root, memory="3G")
    with Machine(KERNEL[release], spec, shape=shape, out=tmp_path, boot_seconds=600) as machine:
        yield Host(machine)


def test_life(host: Host) -> None:
    reserved_before_the_agent(host)
    upgraded_under_load(host)
    downgrade_is_refused(host)
    removed(host)
    reinstalled(host)
    purged(host)


def reserved_before_the_agent(host: Host) -> None:
    """What was there before is adopted; what happens after is observed and explained."""
    host.run("sg_persist -o -G -S abc /dev/sda && sg_persist -o -R -K abc -T 5 /dev/sda")
    host.apt(f"install {OUT}/prtrace_*.deb")
    host.run("systemctl is-active prtrace-agent.service prtrace-agent.socket")
    assert host.keys("/dev/sda") == {"/dev/sda": "abc"}
    held = host.unit("/dev/sda")["reservation"]
    assert held["type_code"] == 5

    host.run("sg_persist -o -G -S def /dev/sdb")
    assert host.keys("/dev/sdb") == {"/dev/sda": "abc", "/dev/sdb": "def"}
    host.run("sg_persist -o -G -K def -S 0 /dev/sdb")
    refused = host.asked("dd if=/dev/zero of=/dev/sdb bs=4k count=1 oflag=direct")
    assert refused.status
    told = host.run("prtrace explain /dev/sdb")
    assert "WRITE(10) at block 0" in told
    assert "0000000000000abc" in told
    host.run("prtrace doctor")


def upgraded_under_load(host: Host) -> None:
    """Nothing that happens while the agent is replaced is missing or there twice."""
    seen = host.json("prtrace status")["counters"]["seen"]
    lines = STORM_SECONDS * 10
    host.run(
        f"(for n in $(seq {lines}); do echo {STORM_RATE // 10}; sleep 0.1; done"
        f" | {OUT}/load out /dev/sdb 7 1 >{OUT}/storm 2>&1) & sleep 10;"
        f" apt-get install -y {OUT}/newer.deb 2>&1; wait",
        1200,
    )
    assert NEWER in host.run("dpkg-query -W prtrace")
    storm = host.run(f"tail -n 1 {OUT}/storm")
    figures = {name: int(count) for name, count in (word.split("=") for word in storm.split())}
    sent = sum(figures.values())
    assert sent == STORM_SECONDS * STORM_RATE
    assert host.unit("/dev/sda")["doubt"] == []

    counters = host.json("prtrace status")["counters"]
    assert counters["missed"] == counters["ring_full"] == 0
    told = json.loads(host.run(f"prtrace events --json | python3 -c '{COUNT}'", 900))
    assert told["twice"] == 0
    assert told["storm"] == sent
    assert counters["seen"] - seen >= sent
    host.run("prtrace replay --check /var/lib/prtrace/prtrace.db", 900)
    # The storm's last key is known: its commands' order was kept.
    last = told["last"]
    assert host.keys("/dev/sdb")["/dev/sdb"] == last


COUNT = """
import json, sys
records, twice, storm, last = set(), 0, 0, ""
for line in sys.stdin:
    event = json.loads(line)
    if event["record"]:
        name = event["epoch"], event["record"]
        twice += name in records
        records.add(name)
    if event["command"] == "PR OUT" and event["comm"] == "load":
        storm += event["count"]
        if event["action"].startswith("REGISTER") and event["status"] == "GOOD":
            last = event["sa_key"][2:].lstrip("0")
print(json.dumps({"twice": twice, "storm": storm, "last": last}))
"""


def downgrade_is_refused(host: Host) -> None:
    """An older package leaves a newer one's store alone, and says what to do."""
    store = "/var/lib/prtrace/prtrace.db"
    # By its owner: Linux lets nobody else create files in a sticky folder, not even root, over
    # those that are there (fs.protected_regular), and SQLite opens as if it created.
    form = (
        "runuser -u prtrace -- python3 -c"
        ' \'import sqlite3; sqlite3.connect("%s").execute("PRAGMA user_version=%s")\''
    )
    known = host.run(
        f'python3 -c \'import sqlite3; print(sqlite3.connect("{store}")'
        '.execute("PRAGMA user_version").fetchone()[0])\''
    ).strip()
    host.run("systemctl stop prtrace-agent.socket prtrace-agent.service")
    host.run(form % (store, 99))
    done = host.asked(f"apt-get install -y --allow-downgrades {OUT}/prtrace_1*.deb 2>&1")
    assert done.status
    assert "a newer version wrote" in done.output
    assert NEWER in host.run("dpkg-query -W prtrace")
    host.asked("systemctl start prtrace-agent.service")
    assert "newer prtrace" in host.run("journalctl -u prtrace-agent.service --no-pager | tail -40")
    host.run("systemctl stop prtrace-agent.socket prtrace-agent.service")
    host.run(form % (store, known))
    host.run("systemctl reset-failed; systemctl start prtrace-agent.socket prtrace-agent.service")


def removed(host: Host) -> None:
    """Nothing stays in the kernel, nothing listens; the history is kept."""
    host.apt("remove prtrace")
    host.run("! ls /sys/fs/bpf/prtrace/* /run/prtrace/io.prtrace")
    host.run("! systemctl is-active prtrace-agent.socket prtrace-agent.service")
    host.run("test -s /var/lib/prtrace/prtrace.db")


def reinstalled(host: Host) -> None:
    """What happened while nothing was installed is read, and said to be so."""
    host.run("sg_persist -o -I -S 123 /dev/sda")
    host.apt(f"install {OUT}/newer.deb {OUT}/prtrace-proxy_*.deb")
    assert host.keys("/dev/sda")["/dev/sda"] == "123"
    host.run("prtrace replay --check /var/lib/prtrace/prtrace.db", 900)
    host.run("systemctl start prtrace-proxy.socket && systemctl is-active prtrace-proxy.socket")


def purged(host: Host) -> None:
    """Nothing of it is left."""
    host.apt("purge prtrace prtrace-proxy")
    host.run(
        "! ls -d /var/lib/prtrace /run/prtrace /run/prtrace-proxy* /etc/default/prtrace*"
        " /sys/fs/bpf/prtrace/* /etc/systemd/system/*/prtrace*"
    )
    host.run("! journalctl --no-pager | grep -A20 Traceback")
