"""virsh migrate --live, and nothing else: the reservation goes along, and the guest never notices.

Two libvirt daemons of Debian 12, an agent and prtrace-libvirt beside each.  Registrations are made
before the agents start: that is whom they find registered, and nobody else has touched the nexus.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from labkit.kernels import SERIES
from libvirt.hosts import Hosts, await_that, register
from libvirt.moving import MARKS, Peer, arrived, follows, migrate, runs_well, start, stayed

from prtrace.model import Outcome, ReservationType

pytestmark = MARKS


@pytest.fixture(scope="module")
def both() -> Iterator[Hosts]:
    with Hosts() as hosts:
        yield hosts


@pytest.mark.machine(kernels=SERIES)
def test_a_holder_of_wero_moves(hosts: Hosts) -> None:
    register(hosts.a.path, ReservationType.WERO)
    start(hosts, "--late-commit", "warn")
    with Peer(hosts) as peer:
        migrate(hosts)
        arrived(hosts, ReservationType.WERO, holds=True)
    assert peer.outcomes == {Outcome.CONFLICT}
    assert peer.without_key == 0


def test_a_guest_that_came_goes_back(hosts: Hosts) -> None:
    """Its registration is one that prtrace made, and still the guest's."""
    register(hosts.a.path, ReservationType.WERO)
    start(hosts, "--late-commit", "warn")
    with Peer(hosts) as peer:
        migrate(hosts)
        arrived(hosts, ReservationType.WERO, holds=True)
        hosts.b.await_note()
        hosts.b.virsh("migrate", "--live", "waldi", "qemu+tcp://a/system")
        stayed(hosts, ReservationType.WERO, holds=True)
    assert peer.outcomes == {Outcome.CONFLICT}
    assert peer.without_key == 0


def test_a_follower_moves(hosts: Hosts) -> None:
    follows(hosts)


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
    assert "LATE_COMMIT=warn" in migrate(hosts, expect=1)
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
