"""virsh migrate --live, and nothing else: the reservation goes along, and the guest never notices.

Two libvirt daemons of Debian 12, an agent and prtrace-libvirt beside each.  Registrations are made
before the agents start: that is whom they find registered, and nobody else has touched the nexus.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import pytest
from labkit.oracle import oracle
from labkit.target import UnitPath
from libvirt.hosts import KEY, PEER, Host, Hosts, await_that, errors, register

from prtrace.linux.sgio import SgDevice
from prtrace.model import Outcome, ReservationType

pytestmark = [
    pytest.mark.slow,
    pytest.mark.machine(nexuses=3, memory="3G", cpus=2, needs=("libvirt",)),
    pytest.mark.timeout(1500),
]

WRITE_10 = bytes((0x2A, 0, 0, 0, 0, 128, 0, 0, 1, 0))
URI = "qemu+tcp://b/system"


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


@pytest.fixture(scope="module")
def both() -> Iterator[Hosts]:
    with Hosts() as hosts:
        yield hosts


@pytest.fixture
def hosts(both: Hosts) -> Iterator[Hosts]:
    yield both
    both.clean()


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
    return hosts.a.virsh("migrate", "--live", *options, "waldi", URI, expect=expect)


def arrived(hosts: Hosts, kind: ReservationType | None, *, holds: bool) -> None:
    assert hosts.b.state() == "running"
    runs_well(hosts.b)
    await_that("finish", lambda: hosts.is_at(hosts.b, kind, holds=holds))
    assert errors(hosts.a.console()) == errors(hosts.b.console()) == []


def stayed(hosts: Hosts, kind: ReservationType | None, *, holds: bool) -> None:
    """As if nobody had tried."""
    assert hosts.a.state() == "running"
    runs_well(hosts.a)
    await_that("withdrawn", lambda: hosts.is_at(hosts.a, kind, holds=holds))
    assert errors(hosts.a.console()) == []
    assert hosts.b.state() != "running"


def test_a_holder_of_wero_moves(hosts: Hosts) -> None:
    register(hosts.a.path, ReservationType.WERO)
    start(hosts, "--late-commit", "warn")
    with Peer(hosts) as peer:
        migrate(hosts)
        arrived(hosts, ReservationType.WERO, holds=True)
    assert peer.outcomes == {Outcome.CONFLICT}
    assert peer.without_key == 0


def test_a_follower_moves(hosts: Hosts) -> None:
    register(hosts.third, ReservationType.WERO, key=PEER)
    register(hosts.a.path, None)
    start(hosts)
    with Peer(hosts) as peer:
        migrate(hosts)
        arrived(hosts, ReservationType.WERO, holds=False)
    assert peer.without_key == 0
    assert hosts.lio().holder == hosts.third.initiator


def test_one_of_all_registrants_moves(hosts: Hosts) -> None:
    register(hosts.a.path, ReservationType.WEAR)
    start(hosts)
    with Peer(hosts) as peer:
        migrate(hosts)
        arrived(hosts, ReservationType.WEAR, holds=False)
    assert peer.outcomes == {Outcome.CONFLICT}
    assert peer.without_key == 0


def test_a_registration_without_reservation_moves(hosts: Hosts) -> None:
    register(hosts.a.path, None)
    start(hosts)
    with Peer(hosts) as peer:
        migrate(hosts)
        arrived(hosts, None, holds=False)
    assert peer.without_key == 0


def test_a_guest_without_registration_moves(hosts: Hosts) -> None:
    start(hosts)
    migrate(hosts)
    assert hosts.b.state() == "running"
    runs_well(hosts.b)
    assert hosts.lio().keys() == {}


def test_a_holder_of_we_moves_suspended_only(hosts: Hosts) -> None:
    register(hosts.a.path, ReservationType.WE)
    start(hosts, "--late-commit", "warn")
    said = migrate(hosts, expect=1)
    assert "prtrace:" in said
    stayed(hosts, ReservationType.WE, holds=True)
    with Peer(hosts) as peer:
        migrate(hosts, "--suspend")
        await_that("commit", lambda: hosts.lio().holder == hosts.b.path.initiator)
        hosts.b.virsh("resume", "waldi")
        arrived(hosts, ReservationType.WE, holds=True)
    assert peer.outcomes == {Outcome.CONFLICT}
    assert peer.without_key == 0


def test_a_holder_is_refused_where_nobody_allowed_a_late_commit(hosts: Hosts) -> None:
    register(hosts.a.path, ReservationType.WERO)
    start(hosts)
    assert "late-commit" in migrate(hosts, expect=1)
    stayed(hosts, ReservationType.WERO, holds=True)


def test_a_cancelled_migration_leaves_the_source_as_it_was(hosts: Hosts) -> None:
    register(hosts.a.path, ReservationType.WERO)
    start(hosts, "--late-commit", "warn")
    hosts.a.virsh("migrate-setspeed", "waldi", "1")
    moving = threading.Thread(target=migrate, args=(hosts,), kwargs={"expect": 1})
    moving.start()
    await_that("prepared", lambda: len(hosts.lio().keys()) == 2, 240)
    await_that("abort", lambda: not hosts.a.virsh("domjobabort", "waldi", expect=None).strip())
    moving.join()
    stayed(hosts, ReservationType.WERO, holds=True)
    # What was withdrawn does not stand in the way of the next try.
    hosts.a.virsh("migrate-setspeed", "waldi", "1000")
    migrate(hosts)
    arrived(hosts, ReservationType.WERO, holds=True)


def test_a_destination_that_dies_leaves_the_source_as_it_was(hosts: Hosts) -> None:
    register(hosts.a.path, ReservationType.WERO)
    start(hosts, "--late-commit", "warn")
    hosts.a.virsh("migrate-setspeed", "waldi", "1")
    moving = threading.Thread(target=migrate, args=(hosts,), kwargs={"expect": 1})
    moving.start()
    await_that("prepared", lambda: len(hosts.lio().keys()) == 2, 240)
    hosts.b.run("bash", "-c", "kill -9 $(cat /run/libvirt/qemu/waldi.pid)")
    moving.join()
    stayed(hosts, ReservationType.WERO, holds=True)


def test_a_dead_service_refuses_and_nothing_is_sent(hosts: Hosts) -> None:
    register(hosts.a.path, ReservationType.WERO)
    start(hosts, "--late-commit", "warn")
    hosts.b.kill("service")
    generation = hosts.lio().generation
    assert "prtrace-libvirt cannot be asked" in migrate(hosts, expect=1)
    stayed(hosts, ReservationType.WERO, holds=True)
    assert hosts.lio().generation == generation


def test_a_service_that_was_killed_finishes_when_it_is_back(hosts: Hosts) -> None:
    register(hosts.a.path, None)
    start(hosts)
    hosts.b.kill("service")
    hosts.b.start_service()
    hosts.a.kill("service")
    migrate(hosts)
    # The source has given nothing up yet: nobody was there to hear that the guest left.
    assert hosts.lio().keys().keys() == {hosts.a.path.initiator, hosts.b.path.initiator}
    hosts.a.start_service()
    arrived(hosts, None, holds=False)
