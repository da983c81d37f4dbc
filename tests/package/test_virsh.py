"""Two hosts with systemd, libvirt and the packages: a guest's reservation goes along.

What is done with the packages is what README and docs say: their commands are run as printed.

Each host is a machine of its own, with the distribution's libvirt, AppArmor enforced, and nothing
of the checkout but the packages.  Host a has the target, and reaches it by tcm_loop; host b
reaches it by open-iscsi, over a network between the two, and is started anew in between.  The
guest is the one of tests/libvirt: its first sector boots from the LUN and writes to it for ever.
Its PERSISTENT RESERVE OUTs are sent by the qemu-pr-helper that libvirt has started for it.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import pytest
from lab.documents import blocks, documents
from labkit import roots
from labkit.failure import LostMachineError
from labkit.lio import Backstore
from labkit.machine import Machine
from labkit.qemu import Link, Shape
from labkit.target import TargetSpec
from package.host import KERNEL, LIBRARIES, OUT, TOP, Host, built

ROOT = (*roots.SYSTEM, *LIBRARIES, "apparmor", "libvirt-clients", "libvirt-daemon-system",
        "open-iscsi", "python3-libvirt", "qemu-system-x86")  # fmt: skip
PORTAL, THERE = "10.9.0.1", "10.9.0.2"
LU = Backstore.numbered(0).lu
LUN = f"/dev/disk/by-id/wwn-0x{LU.removeprefix('naa.')}"
FIRST, SECOND = 0xB0B0, 0xB1B1
WERO = 5
BOOT_S = 900

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3400)]


@pytest.fixture(scope="module", params=roots.RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(release: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both hosts are given: packages, and the guest."""
    out = tmp_path_factory.mktemp("hosts")
    for package in built(release, out).glob("*.deb"):
        shutil.copy(package, out)
    guest = TOP / "tests/libvirt"
    subprocess.run(["as", "--32", "-o", out / "writer.o", guest / "writer.S"], check=True)
    linked = ["ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary"]
    subprocess.run([*linked, "-o", out / "sector", out / "writer.o"], check=True)
    definition = (guest / "guest.xml").read_text()
    source = "<source dev='/dev/lun'/>"
    assert source in definition
    lun = f"<source dev='{LUN}'><reservations managed='yes'/></source>"
    (out / "guest.xml").write_text(definition.replace(source, lun))
    return out


class Machines:
    """Both hosts, of which b can be started anew; a context manager."""

    def __init__(self, release: str, folder: Path, scratch: Path) -> None:
        self._folder = folder
        self._kernel = KERNEL[release]
        self._root = roots.root(release, ROOT)
        self._socket = scratch / "link"
        self._disk = scratch / "disk"
        self._resources = ExitStack()
        self._b = ExitStack()

    def __enter__(self) -> Self:
        with self._resources as resources:
            subprocess.run(["mkfs.ext4", "-q", self._disk, "3G"], check=True)
            target = TargetSpec(nexuses=1)
            self.a = Host(resources.enter_context(self._machine("a", PORTAL, target)))
            resources.callback(self._b.close)
            self._start_b()
            self._resources = resources.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def _start_b(self) -> None:
        self.b = Host(self._b.enter_context(self._machine("b", THERE, None)))

    def _machine(self, name: str, address: str, target: TargetSpec | None) -> Machine:
        shape = Shape(
            memory="3G",
            cpus=2,
            # What libvirt tells hosts apart by.
            options=(f"-uuid 00000000-0000-4000-8000-00000000000{name}",),
            link=Link(self._socket, f"{address}/24", listens=name == "a"),
            root=self._root,
            disk=self._disk if name == "b" else None,
        )
        return Machine(self._kernel, target, shape=shape, out=self._folder, boot_seconds=BOOT_S)

    def reboot_b(self) -> None:
        with suppress(LostMachineError):
            self.b.machine.run("systemctl reboot; sleep 600", 700)
        self._b.close()
        self._start_b()


@pytest.fixture
def hosts(release: str, folder: Path, tmp_path: Path) -> Iterator[Machines]:
    with Machines(release, folder, tmp_path) as machines:
        yield machines


_INSTEAD = {
    "LUN": LUN,
    "GUEST": "waldi",
    # Neither host has a user whom the other one would let in.
    "qemu+ssh://DESTINATION": f"qemu+tcp://{PORTAL}",
}
_PUT_IN = re.compile("|".join(map(re.escape, _INSTEAD)))


class Pages:
    """The documentation's blocks that are marked `host`."""

    def __init__(self) -> None:
        found = [block for document in documents() for block in blocks(document)]
        self._blocks = [block for block in found if block.mark == "host"]
        self._followed: set[str] = set()

    def follow(self, host: Host, words: str) -> None:
        """Run the block that has these words, line by line, beside the packages.

        What a reader puts in for himself is put in: the LUN, the guest, the destination.
        """
        (block,) = [block for block in self._blocks if words in block.text]
        for line in block.commands():
            host.run(f"cd {OUT}; {_PUT_IN.sub(lambda found: _INSTEAD[found[0]], line)}", 1200)
        self._followed.add(block.name)

    def left(self) -> set[str]:
        """The blocks that nobody has followed."""
        return {block.name for block in self._blocks} - self._followed


def wait(host: Host, condition: str, seconds: int = 600) -> None:
    """Until a command succeeds; what it says the last time is in the failure."""
    host.run(
        f"for n in $(seq {seconds}); do ({condition}) >/dev/null 2>&1 && exit; sleep 1; done;"
        f" {condition}",
        seconds * 3,
    )


def test_a_guest_moves_between_hosts_with_the_packages(hosts: Machines) -> None:
    a, b, pages = hosts.a, hosts.b, Pages()
    exported(a)
    attached(b)
    with ThreadPoolExecutor() as both:
        list(both.map(installed, (a, b), "ab", (pages, pages)))
    a.run(f"dd if={OUT}/sector of={LUN} oflag=direct bs=512 count=1")

    started(b)
    sent(b, 0x06, sa_key=FIRST)
    sent(b, 0x01, key=FIRST, kind=WERO)
    b.run("virsh destroy waldi")
    hosts.reboot_b()
    b = hosts.b
    adopted(b)

    started(b)
    sent(b, 0x06, key=FIRST, sa_key=SECOND)
    told = map(json.loads, b.run(f"prtrace events {LUN} --json").splitlines())
    *_, event = (each for each in told if each["command"] == "PR OUT")
    assert int(event["sa_key"], 16) == SECOND
    # libvirt's machine tells whose helper it was; a guest is named by a proxy.
    assert event["unit"].endswith("waldi.scope")
    assert event["comm"] == "qemu-pr-helper"
    wait(b, f"virsh metadata waldi --uri urn:io.prtrace:libvirt:1 | grep {SECOND:016x}")

    pages.follow(b, "virsh migrate --live")
    assert a.run("virsh domstate waldi").strip() == "running"
    wait(a, "[ $(tr -cd w </run/guest.console | wc -c) -gt 20 ]")
    for host in (a, b):
        host.run("! grep 'E[0-9A-F][0-9A-F]' /run/guest.console")
    # The source's part ends once libvirt has told it that the guest left.
    wait(b, "prtrace moves")
    pages.follow(b, "at an initiator port of the destination")
    a.run(f"prtrace show {LUN}")
    # What the service keeps ready for the guest's next move, and nothing else.
    wait(a, "prtrace moves | grep '^  last .* save$'")
    listed = json.loads(a.asked("prtrace moves --json").stdout)["moves"]
    assert [each["verb"] for each in listed if each["next"]] == ["save"]
    moved(a, b)
    explained(b)
    pages.follow(b, "multipath.conf")
    pages.follow(b, "journalctl -u")
    pages.follow(b, "metrics --details")
    pages.follow(b, "replay --check")
    for host in (a, b):
        host.run("! journalctl --no-pager | grep -A20 Traceback")
        host.run(
            "! dmesg | grep 'apparmor=\"DENIED\"' | grep -E 'prtrace|qemu.d|lock-driver|pr-helper'"
        )
    pages.follow(b, "the new version, nothing lost")
    pages.follow(b, "apt purge")
    assert not pages.left()


def exported(a: Host) -> None:
    script = (
        f"from labkit import lio; lio.iscsi_target([lio.Backstore.numbered(0)], '{PORTAL}:3260')"
    )
    a.run(f"PYTHONPATH=/lab/checkout/tools python3 -c {shlex.quote(script)}")


def attached(b: Host) -> None:
    """The LUN by iSCSI, and again at each start of the host."""
    network = "[Match]\\nName=eth0\\n[Network]\\nAddress=10.9.0.2/24\\n"
    b.run("mkdir -p /var/lib/prometheus/node-exporter")  # another package's
    b.run(f"printf '{network}' >/etc/systemd/network/link.network")
    b.run("systemctl enable systemd-networkd.service 2>&1")
    b.run(f"iscsiadm -m discovery -t sendtargets -p {PORTAL}")
    b.run("iscsiadm -m node -o update -n node.startup -v automatic")
    b.run("iscsiadm -m node --login")


def installed(host: Host, name: str, pages: Pages) -> None:
    host.run(f"hostname {name}; echo {name} >/etc/hostname")
    host.run(f"printf '127.0.0.1 localhost\\n{PORTAL} a\\n{THERE} b\\n' >/etc/hosts")
    host.run("udevadm settle; test -b " + LUN)
    # Two hosts that trust their network.
    host.run("""echo 'auth_tcp = "none"' >>/etc/libvirt/libvirtd.conf""")
    sockets = "libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket"
    host.run(f"systemctl stop libvirtd.service {sockets} 2>&1")
    host.run("systemctl enable --now libvirtd-tcp.socket 2>&1")
    host.run(f"systemctl start {sockets} libvirtd.service")
    # Nobody is there to answer what apt asks.
    host.run("""echo 'Apt::Get::Assume-Yes "true";' >/etc/apt/apt.conf.d/yes""")
    pages.follow(host, "prtrace-proxy_*_all.deb")
    pages.follow(host, "agent, commands, service, hook, plugin")
    # A machine in which all takes ten times as long.
    host.run("echo PRTRACE_LIBVIRT_DEADLINE=60 >>/etc/default/prtrace-libvirt")
    host.run("systemctl restart prtrace-libvirt.service")
    host.run("""echo 'lock_manager = "prtrace"' >>/etc/libvirt/qemu.conf""")
    pages.follow(host, "guests that run go on")
    wait(host, "virsh version")
    host.run("grep -q '^libvirtd (enforce)' /proc/$(pidof libvirtd)/attr/current")


def started(host: Host) -> None:
    """The guest runs, confined, and writes."""
    host.run(f"virsh define {OUT}/guest.xml && virsh start waldi", 900)
    wait(host, "[ $(tr -cd w </run/guest.console | wc -c) -gt 20 ]")
    host.run("grep -q '^libvirt-.*(enforce)' /proc/$(pidof qemu-system-x86_64)/attr/current")


def sent(host: Host, action: int, *, key: int = 0, sa_key: int = 0, kind: int = 0) -> None:
    """A PERSISTENT RESERVE OUT of the guest's, by its own helper."""
    cdb = bytes((0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0)).hex()
    parameter = f"{key:016x}{sa_key:016x}{0:016x}"
    host.run(
        "python3 /lab/checkout/tests/package/proxy_client.py"
        f" /var/lib/libvirt/qemu/domain-*-waldi/pr-helper0.sock {LUN} {cdb} {parameter}"
    )


def registered(host: Host) -> dict[str, Any]:
    """What the agent says without doubt: one registration of the guest's, which holds."""
    unit = host.unit(LUN)
    (registration,) = unit["registrations"]
    assert unit["reservation"]["type_code"] == WERO
    assert unit["reservation"]["holders"] == [registration["nexus"]]
    return dict(registration)


def adopted(b: Host) -> None:
    """What was there before the host was started: read, without anybody's asking."""
    b.run("systemctl is-active prtrace-agent.service prtrace-libvirt.service")
    wait(b, f"test -b {LUN}")
    found = registered(b)
    assert int(found["key"], 16) == FIRST
    assert found["local"]


def moved(a: Host, b: Host) -> None:
    """The key is on a's nexus and nowhere else, and both agents say so."""
    for host, here in ((a, True), (b, False)):
        found = registered(host)
        assert int(found["key"], 16) == SECOND
        assert found["local"] == here
    a.run("grep -q loopback /sys/kernel/config/target/core/rd_mcp_0/lun0/pr/res_pr_holder_tg_port")


def explained(b: Host) -> None:
    """Why the host that the guest has left cannot write any more."""
    refused = b.asked(f"dd if=/dev/zero of={LUN} bs=4k count=1 seek=16 oflag=direct")
    assert refused.status
    assert f"{SECOND:016x}" in b.run(f"prtrace explain {LUN}")
