"""The life of the Debian package, under a real systemd: from apt install to purge.

Nothing of the checkout is used in the machines but the package: system Python, no compiler, no
network.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from labkit import needs, roots
from labkit.machine import Machine
from labkit.qemu import Shape
from labkit.target import TargetSpec
from package.host import KERNEL, LIBRARIES, OUT, Host, built

from prtrace.state.event import Command, Event
from prtrace.store.database import Store

NEWER = "1.0.0+next"

UPGRADED = "/run/upgraded"

CODE = "/usr/lib/python3/dist-packages/prtrace"

PROXY = "systemctl show --property MainPID --value prtrace-proxy.service"

# 1,000 commands a second, for 60 s and until the upgrade is over; ten at a time.
STORM = f"""
import json, os, subprocess, time
load = subprocess.Popen(
    ["{OUT}/load", "out", "/dev/sdb", "7", "1"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
)
begun = due = time.monotonic()
while time.monotonic() < begun + 60 or not os.path.exists("{UPGRADED}"):
    print(10, file=load.stdin, flush=True)
    load.stdout.readline()
    due = max(due + 0.01, time.monotonic() - 1)
    time.sleep(max(0, due - time.monotonic()))
seconds = time.monotonic() - begun
counts = load.communicate()[0].split()
sent = sum(int(count.partition("=")[2]) for count in counts)
print(json.dumps({{"sent": sent, "seconds": seconds}}))
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3400), pytest.mark.needs("load")]


@pytest.fixture(scope="module", params=roots.RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def packages(release: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release's packages, and prtrace's once more with a greater version."""
    out = built(release, tmp_path_factory.mktemp("packages"))
    (first,) = out.glob("prtrace_*.deb")
    tree = out / "tree"
    subprocess.run(["dpkg-deb", "-R", first, tree], check=True)
    control = tree / "DEBIAN/control"
    lines = control.read_text().splitlines()
    control.write_text(
        "\n".join(f"Version: {NEWER}" if line.startswith("Version:") else line for line in lines)
        + "\n"
    )
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, out / "newer.deb"], check=True)
    return out


@pytest.fixture
def host(release: str, packages: Path, tmp_path: Path) -> Iterator[Host]:
    for package in packages.glob("*.deb"):
        shutil.copy(package, tmp_path)
    shutil.copy(needs.load(), tmp_path / "load")
    root = roots.root(release, (*roots.SYSTEM, *LIBRARIES))
    spec = TargetSpec(luns=1, nexuses=2)
    # A processor of 1 GHz, by its instructions: where the clock is the host's, an emulated machine
    # does some 40 commands a second.
    shape = Shape(root=root, memory="3G", icount=True, idles=True)
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
    host.run(
        f"rm -f {UPGRADED}; python3 -c {shlex.quote(STORM)} >{OUT}/storm 2>&1 & sleep 10;"
        f" apt-get install -y {OUT}/newer.deb 2>&1 && touch {UPGRADED} && wait",
        1200,
    )
    assert NEWER in host.run("dpkg-query -W prtrace")
    figures = json.loads(host.run(f"tail -n 1 {OUT}/storm"))
    sent = figures["sent"]
    rate = sent / figures["seconds"]
    print(f"{sent} commands in {figures['seconds']:.0f} s: {rate:.0f} a second")
    assert rate > 950
    assert host.unit("/dev/sda")["doubt"] == []

    counters = host.json("prtrace status")["counters"]
    assert counters["missed"] == counters["ring_full"] == 0
    assert counters["seen"] - seen >= sent
    events = copied_history(host)
    numbers = [(event.epoch, event.record) for event in events if event.record]
    assert len(numbers) == len(set(numbers))
    storm = [
        event
        for event in events
        if event.command is Command.PR_OUT and event.issuer and event.issuer.comm == "load"
    ]
    assert sum(event.count for event in storm) == sent
    # The storm's last key is known: its commands' order was kept.
    *_, last = (
        event.sa_key
        for event in storm
        if event.action.startswith("REGISTER") and event.status == "GOOD"
    )
    assert host.keys("/dev/sdb")["/dev/sdb"] == f"{last:x}"


def copied_history(host: Host) -> list[Event]:
    """What the agent has stored, looked at here: the machine would take minutes for so much."""
    copying = (
        'import sqlite3; there = sqlite3.connect("/tmp/history.db");'
        ' sqlite3.connect("/var/lib/prtrace/prtrace.db").backup(there)'
    )
    host.run("rm -f /tmp/history.db")
    host.run(f"runuser -u prtrace -- python3 -c {shlex.quote(copying)}")
    host.run(f"cp /tmp/history.db {OUT}/history.db; rm /tmp/history.db")
    copied = host.machine.out / "history.db"
    done = subprocess.run(
        [sys.executable, "-m", "prtrace", "replay", "--check", copied],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    with Store.open(copied, readonly=True) as store:
        return list(store.events())


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
        f'runuser -u prtrace -- python3 -c \'import sqlite3; print(sqlite3.connect("{store}")'
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
    gone(host, f"/sys/fs/bpf/prtrace/* /run/prtrace/io.prtrace {CODE}")
    host.run("! systemctl is-active prtrace-agent.socket prtrace-agent.service")
    host.run("test -s /var/lib/prtrace/prtrace.db")


def reinstalled(host: Host) -> None:
    """What happened while nothing was installed is read, and said to be so."""
    host.run("sg_persist -o -I -S 123 /dev/sda")
    host.apt(f"install {OUT}/newer.deb {OUT}/prtrace-proxy_*.deb")
    assert host.keys("/dev/sda")["/dev/sda"] == "123"
    host.run("prtrace replay --check /var/lib/prtrace/prtrace.db", 900)
    host.run("systemctl start prtrace-proxy.socket prtrace-proxy.service")
    before = host.run(PROXY)
    host.apt(f"install --reinstall {OUT}/newer.deb")
    # It runs the package's code, and must not go on with that of before.
    assert host.run(PROXY) not in (before, "0\n")


def purged(host: Host) -> None:
    """Nothing of it is left, and nothing runs."""
    host.apt("purge prtrace prtrace-proxy")
    host.run("! systemctl is-active 'prtrace*'")
    gone(
        host,
        f"{CODE} /var/lib/prtrace /run/prtrace /run/prtrace-proxy* /etc/default/prtrace*"
        " /sys/fs/bpf/prtrace/* /etc/systemd/system/*/prtrace*",
    )
    host.run("! journalctl --no-pager | grep -A20 Traceback")


def gone(host: Host, names: str) -> None:
    """None of these files is there."""
    assert host.asked(f"ls -d {names} 2>/dev/null").stdout == ""
