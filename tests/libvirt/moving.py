"""A guest moved by virsh migrate, a third nexus that tries to write, and what holds afterwards."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

import pytest
from labkit.oracle import oracle
from labkit.target import UnitPath
from libvirt.hosts import KEY, PEER, Host, Hosts, await_that, errors, register

from prtrace.linux.sgio import SgDevice
from prtrace.model import Outcome, ReservationType

MARKS = [
    pytest.mark.slow,
    pytest.mark.machine(kernels=("6.12",), nexuses=3, memory="3G", cpus=2, needs=("libvirt",)),
    pytest.mark.timeout(1500),
]
"""Of every module here."""
WRITE_10 = bytes((0x2A, 0, 0, 0, 0, 128, 0, 0, 1, 0))


class Peer:
    """A third nexus that writes all the time, and the device's own view meanwhile."""

    def __init__(self, hosts: Hosts) -> None:
        self._path: UnitPath = hosts.third
        self._directory = hosts.unit.directory
        self.outcomes: set[Outcome] = set()
        self.tries = 0
        self.without_key = 0
        self.samples = 0
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._write),
            threading.Thread(target=self._watch),
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        print(f"third nexus: {self.tries} writes, {self.outcomes}; {self.samples} samples")

    def _write(self) -> None:
        with SgDevice(self._path.block) as node:
            while not self._over.is_set():
                reply = node.send(WRITE_10, bytes(512))
                if not reply.attention:
                    self.outcomes.add(reply.outcome)
                    self.tries += 1
                time.sleep(0.02)

    def _watch(self) -> None:
        while not self._over.is_set():
            self.samples += 1
            self.without_key += KEY not in oracle(self._directory).keys().values()
            time.sleep(0.02)


def start(hosts: Hosts, *options: str) -> None:
    """Agents, services, and the guest on a."""
    hosts.start(*options)
    hosts.a.virsh("define", "/shared/guest.xml")
    hosts.a.virsh("start", "waldi")
    await_that("the guest writes", lambda: hosts.a.console().count("w") > 20)
    hosts.a.await_note()


def runs_well(host: Host) -> None:
    """The guest goes on writing, and none of its writes ever failed."""
    done = host.console().count("w")
    await_that("the guest writes", lambda: host.console().count("w") > done + 20)


def migrate(hosts: Hosts, *options: str, expect: int = 0) -> str:
    """virsh migrate --live to b, and nothing else."""
    uri = f"qemu+tcp://{hosts.b.name}/system"
    return hosts.a.virsh("migrate", "--live", *options, "waldi", uri, expect=expect)


def arrived(hosts: Hosts, kind: ReservationType | None, *, holds: bool) -> None:
    """The guest runs on b with its reservation, and has noticed nothing."""
    assert hosts.b.state() == "running"
    runs_well(hosts.b)
    await_that("finish", lambda: hosts.is_at(hosts.b, kind, holds=holds))
    assert errors(hosts.a.console()) == errors(hosts.b.console()) == []


def follows(hosts: Hosts) -> None:
    """A guest that is registered beside another node's reservation moves."""
    register(hosts.third, ReservationType.WERO, key=PEER)
    register(hosts.a.path, None)
    start(hosts)
    with Peer(hosts) as peer:
        migrate(hosts)
        arrived(hosts, ReservationType.WERO, holds=False)
    assert peer.without_key == 0
    assert hosts.lio().holder == hosts.third.initiator


def stayed(hosts: Hosts, kind: ReservationType | None, *, holds: bool) -> None:
    """The guest runs on a with its reservation, as if nobody had tried."""
    assert hosts.a.state() == "running"
    runs_well(hosts.a)
    await_that("withdrawn", lambda: hosts.is_at(hosts.a, kind, holds=holds))
    assert errors(hosts.a.console()) == []
    assert hosts.b.state() != "running"
