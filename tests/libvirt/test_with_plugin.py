"""virsh migrate --live with the lock-manager plugin: the reservation goes before the guest.

As in test_migrate, but libvirtd has loaded the plugin on both hosts, and nothing is allowed that
would need an option of the service.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from labkit import places
from libvirt.hosts import KEY, PEER, Hosts, await_that, register, send
from libvirt.moving import MARKS, Peer, arrived, follows, migrate, runs_well, start, stayed

from prtrace.model import Action, Outcome, ReservationType

pytestmark = MARKS


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    plugin = tmp_path_factory.mktemp("plugin") / "prtrace.so"
    source = Path(places.CHECKOUT, "prtrace/libvirt/prtrace-lock.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", plugin, source], check=True)
    with Hosts(plugin) as hosts:
        yield hosts


@pytest.mark.parametrize("kind", list(ReservationType), ids=lambda kind: kind.name)
def test_a_reservation_moves(hosts: Hosts, kind: ReservationType) -> None:
    register(hosts.a.path, kind)
    start(hosts)
    with Peer(hosts) as peer:
        migrate(hosts)
        arrived(hosts, kind, holds=not kind.all_registrants)
    assert peer.outcomes == {Outcome.CONFLICT}
    assert peer.without_key == 0


def test_a_follower_moves(hosts: Hosts) -> None:
    follows(hosts)


def test_a_guest_that_was_paused_before_moves(hosts: Hosts) -> None:
    """libvirt does not tell the plugin on the source of it; the service hears it otherwise."""
    register(hosts.a.path, ReservationType.WE)
    start(hosts)
    hosts.a.virsh("suspend", "waldi")
    with Peer(hosts) as peer:
        migrate(hosts)
        said = "is paused, and its memory is being sent"
        await_that("the service hears it", lambda: said in hosts.a.log("service"))
        assert hosts.b.state() == "paused"
        hosts.b.virsh("resume", "waldi")
        arrived(hosts, ReservationType.WE, holds=True)
    assert peer.outcomes == {Outcome.CONFLICT}
    assert peer.without_key == 0


@pytest.fixture
def moving(hosts: Hosts) -> Iterator[threading.Thread]:
    """A migration of a WE holder that is prepared, and too slow to come to the pause by itself."""
    register(hosts.a.path, ReservationType.WE)
    start(hosts)
    hosts.a.virsh("migrate-setspeed", "waldi", "1")
    thread = threading.Thread(target=migrate, args=(hosts,), kwargs={"expect": None})
    thread.start()
    await_that("prepared", lambda: len(hosts.lio().keys()) == 2, 240)
    yield thread
    thread.join()


def goes_on(hosts: Hosts, thread: threading.Thread) -> None:
    """Let the migration come to the pause, and to its end."""
    hosts.a.virsh("migrate-setspeed", "waldi", "1000")
    thread.join()


def test_a_destination_that_cannot_ask_gives_the_guest_back(
    hosts: Hosts, moving: threading.Thread
) -> None:
    hosts.b.kill("service")
    goes_on(hosts, moving)
    assert hosts.a.state() == "running"
    runs_well(hosts.a)
    assert hosts.lio().holder == hosts.a.path.initiator
    hosts.b.start_service()
    stayed(hosts, ReservationType.WE, holds=True)


def test_a_guest_that_was_fenced_on_the_way_runs_nowhere(
    hosts: Hosts, moving: threading.Thread
) -> None:
    send(hosts.third, Action.REGISTER, 0, PEER)
    send(hosts.third, Action.PREEMPT, PEER, KEY, ReservationType.WE)
    goes_on(hosts, moving)
    assert hosts.a.state() == "paused"
    assert hosts.b.state() != "running"
    assert set(hosts.lio().keys().values()) == {PEER}
    hosts.a.virsh("resume", "waldi", expect=1)
    assert hosts.a.state() == "paused"
