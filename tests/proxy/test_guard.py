"""guard = "refuse" on real devices: two guests are never both registered on one nexus.

The guests race over every pair of nodes of the nexus: the disk, its sg node, and the multipath map
that it is a path of.  The proxy is ended and killed in between.  What holds is LIO's own view.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import proxy
from labkit import pace
from labkit.kernels import SERIES

GUEST = Path(__file__).parents[1] / "hostile/racing_guest.py"
REGISTER_AND_IGNORE, CLEAR = 6, 3
GOOD, NO_ROOM, CONFLICT = "00 0000", "02 5504", "18 0000"
FEW, MANY = 27, 1000


class Guest:
    """A process that the proxy takes for one guest; key is what it registers."""

    def __init__(self, socket_path: Path, key: int) -> None:
        self.key = key
        self._socket = socket_path
        self._process = subprocess.Popen(
            [sys.executable, str(GUEST)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, bufsize=1,
        )  # fmt: skip

    def begin(self, node: str, action: int, key: int = 0, sa_key: int = 0) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{self._socket} {node} {action:x} {key:x} {sa_key:x}\n")

    def answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def does(self, node: str, action: int, key: int = 0, sa_key: int = 0) -> str:
        self.begin(node, action, key, sa_key)
        return self.answer()

    def registers(self, node: str) -> str:
        return self.does(node, REGISTER_AND_IGNORE, 0, self.key)

    def unregisters(self, node: str) -> None:
        """Until it is said to be done: a proxy that is killed gives no answer."""
        while self.does(node, REGISTER_AND_IGNORE, 0, 0) == "gone":
            pass

    def end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(60)


class Bed:
    """A proxy that is restarted, two guests, and LIO's view."""

    def __init__(self, folder: Path, unit, lio) -> None:
        self.path = folder / "proxy"
        (folder / "run").mkdir()
        (folder / "policy").write_text('guard = "refuse"\n')
        self._options = ["--run-dir", str(folder / "run"), "--policy", str(folder / "policy")]
        self._lio = lio
        first = unit.paths[0]
        self.nodes = [first.block, first.sg, unit.multipath]
        self.guests = [Guest(self.path, key) for key in (0xA, 0xB)]
        self._stack = contextlib.ExitStack()
        self._start()

    def _start(self) -> None:
        self._running = self._stack.enter_context(proxy(self.path, *self._options))

    def restart(self, how: signal.Signals) -> None:
        self._running.send_signal(how)
        self._running.wait(pace.limit(60))
        self._start()

    def keys(self) -> set[int]:
        return {registration.key for registration in self._lio().registrations}

    def close(self) -> None:
        for guest in self.guests:
            guest.end()
        self._stack.close()


@pytest.fixture
def bed(tmp_path: Path, unit, lio) -> Iterator[Bed]:
    bed = Bed(tmp_path, unit, lio)
    yield bed
    bed.close()


def race(bed: Bed, r: random.Random, nodes: tuple[str, str]) -> None:
    """Both at once; then the loser again, perhaps by a proxy that was started since."""
    pairs = list(zip(bed.guests, nodes, strict=True))
    r.shuffle(pairs)
    for guest, node in pairs:
        guest.begin(node, REGISTER_AND_IGNORE, 0, guest.key)
    dying = r.random() < 0.1
    if dying:
        bed.restart(signal.SIGKILL)
    answers = {guest: guest.answer() for guest, _ in pairs}
    assert len(bed.keys()) <= 1, answers
    winners = [guest for guest, answer in answers.items() if answer == GOOD]
    assert len(winners) <= 1, answers
    if not dying:
        assert sorted(answers.values()) == [GOOD, NO_ROOM]
    if r.random() < 0.1:
        bed.restart(r.choice((signal.SIGTERM, signal.SIGKILL)))
    for guest, node in pairs:
        if winners and guest is not winners[0]:
            assert guest.registers(node) == NO_ROOM
            assert guest.does(node, CLEAR, guest.key) == CONFLICT
            assert bed.keys() == {winners[0].key}
    for guest, node in pairs:
        if guest in winners or not winners:
            guest.unregisters(node)
    assert not bed.keys()


def races(bed: Bed, seed: int, count: int) -> None:
    r = random.Random(seed)
    pairs = list(itertools.product(bed.nodes, repeat=2))
    assert count >= len(pairs)
    for number in range(count):
        race(bed, r, pairs[number % len(pairs)])
        if number % 50 == 49:
            print(f"{number + 1} races", flush=True)


@pytest.mark.machine(nexuses=2, multipath=True)
@pytest.mark.timeout(400)
def test_a_few_races(bed: Bed, seed: int) -> None:
    races(bed, seed, FEW)


@pytest.mark.slow
@pytest.mark.machine(kernels=SERIES, nexuses=2, multipath=True)
@pytest.mark.timeout(3600)
def test_a_thousand_races(bed: Bed, seed: int) -> None:
    races(bed, seed, MANY)


@pytest.mark.machine(nexuses=2, multipath=True)
@pytest.mark.timeout(200)
def test_a_guest_that_ended_frees_the_nexus(bed: Bed) -> None:
    one, two = bed.guests
    disk, sg, _ = bed.nodes
    assert one.registers(disk) == GOOD
    assert two.registers(sg) == NO_ROOM
    bed.restart(signal.SIGKILL)
    assert two.registers(sg) == NO_ROOM
    one.end()
    bed.guests.remove(one)
    assert two.registers(sg) == GOOD
    two.unregisters(sg)
    assert os.path.exists(bed.path)
