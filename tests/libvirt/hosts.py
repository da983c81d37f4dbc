"""Two hosts in one lab machine, each with Debian's libvirtd, an agent and prtrace-libvirt.

A host is a mount, UTS and network namespace (host.sh).  /dev/lun is the same logical unit on both,
by another nexus; a third nexus is nobody's here.  The guest is one sector long: it boots from the
LUN, and writes to it for ever (writer.S).  Runs as root in a lab machine.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from labkit import pace, places, roots
from labkit.oracle import OracleState, oracle
from labkit.target import Target, UnitPath

from prtrace.api.address import SOCKET
from prtrace.linux.sgio import SgDevice
from prtrace.model import Action, Outcome, ReservationType
from prtrace.scsi.cdb import PrOutCdb
from prtrace.scsi.parameter import BasicList

HERE = Path(__file__).parent
HOSTS = Path("/run/lab/hosts")
UUID = "11111111-2222-4333-8444-555555555555"
KEY, PEER = 0x4B4B, 0x9999
ADDRESSES = {"a": "10.9.0.1", "b": "10.9.0.2"}
HOOK = "/etc/libvirt/hooks/qemu.d/prtrace"
DEADLINE_S = 60
"""Of a call of the agent: everything here is emulated, and QEMU twice."""


def sector() -> bytes:
    """The guest: its disk's first sector."""
    folder = HOSTS / "guest"
    folder.mkdir(parents=True, exist_ok=True)
    done = ["as", "--32", "-o", folder / "writer.o", HERE / "writer.S"]
    subprocess.run(done, check=True)
    linked = ["ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary"]
    subprocess.run([*linked, "-o", folder / "sector", folder / "writer.o"], check=True)
    return (folder / "sector").read_bytes()


class Host:
    """One host and its daemons; a context manager."""

    def __init__(self, name: str, path: UnitPath, plugin: Path | None = None) -> None:
        self.name = name
        self.path = path
        self._plugin = plugin
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._resources = ExitStack()

    @property
    def root(self) -> Path:
        """Its root directory, as this process can reach it."""
        return Path(f"/proc/{self.pid}/root{HOSTS}/{self.name}/root")

    def __enter__(self) -> Self:
        root = roots.root("bookworm", roots.LIBVIRT)
        made = subprocess.Popen(
            ["unshare", "-m", "-u", "-n", "bash", HERE / "host.sh", root, self.name,
             ADDRESSES[self.name], self.path.block, self._plugin or ""],
            env={**os.environ, "CHECKOUT": str(places.CHECKOUT)},
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self._resources.callback(made.wait)
        self._resources.callback(made.kill)
        self.pid = made.pid
        self._made = made
        # Before that, its network is this machine's.
        own = Path("/proc/self/ns/net").readlink()
        await_that(
            "a network of its own", lambda: Path(f"/proc/{made.pid}/ns/net").readlink() != own
        )
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.daemons):
            self.kill(name)
        self._resources.close()

    def link(self, interface: str) -> None:
        """Give it its end of the network."""
        subprocess.run(["ip", "link", "set", interface, "netns", str(self.pid)], check=True)
        await_that(f"host {self.name}", self._is_ready, 180)

    def _is_ready(self) -> bool:
        assert self._made.poll() is None, f"host.sh ended with {self._made.returncode}"
        return (HOSTS / self.name / "ready").exists()

    def command(self, *words: str) -> list[str]:
        """A command line that runs words on this host."""
        environment = {name: os.environ[name] for name in ("PYTHONPYCACHEPREFIX", "LANG")}
        return [
            *(
                "nsenter",
                "-t",
                str(self.pid),
                "-m",
                "-u",
                "-n",
                "chroot",
                f"{HOSTS}/{self.name}/root",
            ),
            *("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"),
            f"PYTHONPATH={places.CHECKOUT}",
            *(f"{name}={value}" for name, value in environment.items()),
            *words,
        ]

    def run(self, *words: str, expect: int | None = 0, timeout: float = 180) -> str:
        """What a command says on this host; expect: its exit status, None for any."""
        begun = time.monotonic()
        done = subprocess.run(
            self.command(*words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=pace.limit(timeout),
        )
        said = done.stdout + done.stderr
        took = time.monotonic() - begun
        print(f"{self.name}$ {shlex.join(words)} [{done.returncode}] {took:.1f} s\n{said}")
        assert expect in (None, done.returncode), said
        return said

    def start(self, name: str, *words: str) -> None:
        """Start a daemon, called name."""
        with (HOSTS / "shared" / f"{name}.{self.name}").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                self.command(*words), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self, name: str) -> None:
        """End a daemon with SIGKILL."""
        daemon = self.daemons.pop(name)
        daemon.kill()
        daemon.wait()

    def log(self, name: str) -> str:
        """What a daemon has said since the last clean-up."""
        file = HOSTS / "shared" / f"{name}.{self.name}"
        return file.read_text(errors="replace") if file.exists() else ""

    def await_daemon(self, name: str, answers: Callable[[], bool], seconds: float) -> None:
        """Wait until a daemon answers; AssertionError at once where it has ended."""

        def there() -> bool:
            status = self.daemons[name].poll()
            assert status is None, f"{name} on {self.name} ended with {status}\n{self.log(name)}"
            return answers()

        await_that(f"{name} on {self.name}", there, seconds)

    def start_libvirtd(self) -> None:
        self.start("libvirtd", "/usr/sbin/libvirtd", "--listen")
        self.await_daemon(
            "libvirtd", lambda: "QEMU" in self.run("virsh", "version", expect=None), 240
        )

    def start_agent(self) -> None:
        self.start("agent", "python3", "-m", "prtrace", "agent")
        # A prtrace that asks in vain takes seconds of what the agent needs to start.
        self.await_daemon("agent", (self.root / SOCKET.lstrip("/")).exists, 120)
        self.await_daemon(
            "agent", lambda: self.prtrace("status", expect=None).find("events") > 0, 120
        )

    def start_service(self, *options: str) -> None:
        connected = "connected to libvirt"
        connections = self.log("service").count(connected)
        self.start(
            "service",
            "python3",
            "-m",
            "prtrace",
            "libvirt",
            "--deadline",
            str(DEADLINE_S),
            *options,
        )
        self.await_daemon(
            "service", lambda: self.log("service").count(connected) > connections, 120
        )

    def prtrace(self, *words: str, expect: int | None = 0) -> str:
        return self.run("python3", "-m", "prtrace", *words, expect=expect)

    def virsh(self, *words: str, expect: int | None = 0, timeout: float = 240) -> str:
        return self.run("virsh", *words, expect=expect, timeout=timeout)

    def state(self) -> str:
        """The guest's, "" where it is not here."""
        said = self.virsh("domstate", "waldi", expect=None)
        return "" if "error" in said else said.strip()

    def console(self) -> str:
        """What the guest has said on this host's newest QEMU."""
        file = self.root / "run/guest.console"
        return file.read_text(errors="replace") if file.exists() else ""

    def await_note(self) -> None:
        """Wait until the guest's metadata have a note with a file."""
        show = ("metadata", "waldi", "--uri", "urn:io.prtrace:libvirt:1")
        await_that("a note", lambda: "prtrace.save/2" in self.virsh(*show, expect=None), 120)


class Hosts:
    """Both hosts, the guest's logical unit, and a third nexus; a context manager."""

    def __init__(self, plugin: Path | None = None) -> None:
        self.unit = Target.load(os.environ["LAB_TARGET"]).units[0]
        here, there, self.third = self.unit.paths[:3]
        self.a = Host("a", here, plugin)
        self.b = Host("b", there, plugin)
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        (HOSTS / "shared").mkdir(parents=True, exist_ok=True)
        Path(self.third.block).write_bytes(sector())
        subprocess.run(["modprobe", "-a", "veth", "overlay"], check=True)
        for host in (self.a, self.b):
            self._resources.enter_context(host)
        veth = ["ip", "link", "add", "va", "type", "veth", "peer", "name", "vb"]
        subprocess.run(veth, check=True)
        self.a.link("va")
        self.b.link("vb")
        # The other daemon takes the capabilities over that the first has probed.
        self.a.start_libvirtd()
        self.b.start_libvirtd()
        (HOSTS / "shared/guest.xml").write_text((HERE / "guest.xml").read_text())
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def start(self, *options: str) -> None:
        """Agents and services on both."""

        def start(host: Host) -> None:
            host.start_agent()
            host.start_service(*options)

        self.on_both(start)

    def on_both(self, work: Callable[[Host], None]) -> None:
        """Both hosts work at once: the machine has a processor for each."""
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(work, (self.a, self.b)))

    def clean(self) -> None:
        """End guests and daemons but libvirtd; forget every move, and clear the device."""
        self.on_both(self._clean)
        send(self.third, Action.REGISTER_AND_IGNORE, 0, PEER)
        send(self.third, Action.CLEAR, PEER)

    @staticmethod
    def _clean(host: Host) -> None:
        host.virsh("destroy", "waldi", expect=None)
        host.virsh("undefine", "waldi", expect=None)
        for name in ("service", "agent"):
            if name in host.daemons:
                host.kill(name)
            print(f"== {name} on {host.name}\n{host.log(name)}")
            (HOSTS / "shared" / f"{name}.{host.name}").unlink(missing_ok=True)
        # What the lock-manager plugin made stays, like its libvirtd.
        for name in ("var/lib/prtrace", "var/lib/prtrace-libvirt", "run/prtrace"):
            shutil.rmtree(host.root / name, ignore_errors=True)

    def lio(self) -> OracleState:
        """The device's own view."""
        return oracle(self.unit.directory)

    def is_at(self, host: Host, kind: ReservationType | None, *, holds: bool) -> bool:
        """The guest's key is on this host's nexus and nowhere else, of this type, and holds."""
        state = self.lio()
        where = {port for port, key in state.keys().items() if key == KEY}
        held = not holds or state.holder == host.path.initiator
        right = state.type_code == (None if kind is None else int(kind))
        return where == {host.path.initiator} and right and held


def send(
    path: UnitPath, action: Action, key: int, sa_key: int = 0, kind: ReservationType | None = None
) -> None:
    """One PERSISTENT RESERVE OUT over path, which must be done."""
    with SgDevice(path.block) as node:
        for _ in range(8):
            reply = node.send(PrOutCdb(action, type=kind).build(), BasicList(key, sa_key).build())
            if not reply.attention:
                break
        assert reply.outcome is Outcome.DONE


def register(path: UnitPath, kind: ReservationType | None, key: int = KEY) -> None:
    """Register key over path, and reserve where a type is given."""
    send(path, Action.REGISTER, 0, key)
    if kind is not None:
        send(path, Action.RESERVE, key, 0, kind)


def errors(console: str) -> list[str]:
    """The writes of the guest that failed, with the BIOS's status."""
    return re.findall(r"E[0-9A-F]{2}", console)


def await_that(what: str, holds: object, seconds: float = 120) -> None:
    """Wait until holds() is true; AssertionError after so many seconds."""
    assert callable(holds)
    end = time.monotonic() + pace.limit(seconds)
    while not holds():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.2)
