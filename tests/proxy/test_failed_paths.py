"""A dm-multipath map with paths that fail: the guest's registration, reservation and reads.

A path fails in two ways.  "offline": the kernel has given the device up, so that its node cannot
be opened.  "disrupted": the node opens and every command comes back as DID_TRANSPORT_DISRUPTED,
which is what a REGISTER meets whose path fails half way.  What holds is LIO's own view.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import (
    CHECK,
    CLEAR,
    CONFLICT,
    GOOD,
    IGNORE,
    KEYS,
    PREEMPT,
    REGISTER,
    RELEASE,
    RESERVE,
    WERO,
    Lasting,
    cleared,
    keys,
    out,
    read,
)
from helpers import proxy
from labkit import pace
from labkit.target import Unit
from proxy_kernels import PROXY_KERNELS

pytestmark = [
    pytest.mark.machine(kernels=PROXY_KERNELS, nexuses=2, multipath=True),
    pytest.mark.timeout(300),
]
EACH_WAY = pytest.mark.parametrize("way", ["offline", "disrupted"])
EACH_PATH = pytest.mark.parametrize("dead", [0, 1])


class Bed:
    """One map, its paths, and LIO behind them."""

    def __init__(self, unit: Unit, path: Path, bare: Path) -> None:
        self.paths = unit.paths[:2]
        self._pr = Path(unit.directory, "pr")
        self.socket, self._bare = path, bare
        # What a path is owed belongs to the guest's connection.
        self._guest = Lasting(path)
        self.fd = os.open(unit.multipath, os.O_RDWR | os.O_NONBLOCK)
        # Each path's own disk, opened while the path is well.
        self._disks = [os.open(p.block, os.O_RDWR | os.O_NONBLOCK) for p in self.paths]

    def out(self, *what: int) -> int:
        return self._guest.out(self.fd, *what)

    def by_path(self, place: int, *what: int) -> int:
        """A command of somebody else, who is not the map's guest."""
        return out(self._bare, self._disks[place], *what).status

    def settled(self, key: int) -> None:
        """The guest goes on with its key, until every path has it: RESERVE of what it holds."""
        end = time.monotonic() + pace.limit(30)
        while self.keys() != [key] * len(self.paths):
            assert time.monotonic() < end, "a path is owed the registration still"
            assert self.out(RESERVE, key, 0, WERO) == GOOD, "the next command"
            time.sleep(0.1)

    def keys(self) -> list[int]:
        return keys(self.socket, self.fd)

    def registered(self) -> int:
        """How many nexuses LIO has."""
        text = (self._pr / "res_pr_registered_i_pts").read_text()
        return sum("Node:" in line for line in text.splitlines())

    def held(self) -> bool:
        return "No SPC-3" not in (self._pr / "res_holder").read_text()

    @contextlib.contextmanager
    def failed(self, way: str, *places: int) -> Iterator[None]:
        """With these paths dead."""
        for place in places:
            self._set(way, place, well=False)
        try:
            yield
        finally:
            for place in places:
                self._set(way, place, well=True)

    def _set(self, way: str, place: int, *, well: bool) -> None:
        path = self.paths[place]
        if way == "offline":
            state = Path("/sys/class/block", Path(path.block).name, "device/state")
            state.write_text("running\n" if well else "offline\n")
        else:
            Path(path.tpg, "transport_status").write_text("online" if well else "offline")

    def close(self) -> None:
        self._guest.close()
        for fd in (self.fd, *self._disks):
            os.close(fd)


@pytest.fixture(scope="module")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The guest's proxy and everybody else's, for all tests: each takes seconds to start.

    What a proxy remembers of a guest ends with the guest's connection, which is a test's own.
    """
    folder = tmp_path_factory.mktemp("proxies")
    with proxy(folder / "proxy", "--run-dir", str(folder)), proxy(folder / "bare"):
        yield folder / "proxy", folder / "bare"


@pytest.fixture
def bed(proxies: tuple[Path, Path], unit: Unit) -> Iterator[Bed]:
    bed = Bed(unit, *proxies)
    assert (bed.keys(), bed.registered(), bed.held()) == ([], 0, False), "left by another test"
    yield bed
    bed.close()
    cleared(unit)


@EACH_PATH
@EACH_WAY
def test_register(bed: Bed, way: str, dead: int) -> None:
    """One path is dead while the guest registers; it gets the registration when it is back."""
    with bed.failed(way, dead):
        assert bed.keys() == [], "read with a dead path"
        assert bed.out(REGISTER, 0, 0xA) == GOOD, "register"
        assert (bed.registered(), bed.keys()) == (1, [0xA]), "on the other path"
        assert bed.out(RESERVE, 0xA, 0, WERO) == GOOD, "reserve"
        assert bed.out(RESERVE, 0xA, 0, WERO) == GOOD, "reserve again"
        assert bed.out(REGISTER, 0xB, 0xC) == CONFLICT, "wrong key"
        assert bed.registered() == 1, "still one"
    assert (bed.keys(), bed.registered()) == ([0xA], 1), "a read changes nothing"
    bed.settled(0xA)
    with bed.failed(way, dead):
        assert bed.out(REGISTER, 0xA, 0xD) == GOOD, "new key"
    assert bed.keys().count(0xD) == 1, "a read changes nothing"
    bed.settled(0xD)
    with bed.failed(way, dead):
        assert bed.out(RELEASE, 0xD, 0, WERO) == GOOD, "release"
        assert not bed.held(), "is released"
        assert bed.out(REGISTER, 0xD, 0) == GOOD, "unregister"
        assert bed.registered() == 1, "one is left"
    assert bed.out(REGISTER, 0, 0) == GOOD, "unregister what is left"
    assert (bed.keys(), bed.registered()) == ([], 0), "none is left"


@EACH_PATH
@EACH_WAY
def test_preempt(bed: Bed, way: str, dead: int) -> None:
    with bed.failed(way, dead):
        assert bed.out(IGNORE, 0, 0xA) == GOOD, "register"
        assert bed.out(RESERVE, 0xA, 0, WERO) == GOOD, "reserve"
        assert bed.out(PREEMPT, 0xA, 0xA, WERO) == GOOD, "preempt of itself"
    bed.settled(0xA)
    assert bed.out(CLEAR, 0xA) == GOOD, "clear"
    assert bed.registered() == 0, "none"


@EACH_PATH
@EACH_WAY
def test_fenced(bed: Bed, way: str, dead: int) -> None:
    """Preempted while a path was dead: the registration does not come back with the path."""
    with bed.failed(way, dead):
        assert bed.out(REGISTER, 0, 0xA) == GOOD, "register"
        # The peer fences by the only nexus that is well: it takes the registration away.
        assert bed.by_path(1 - dead, REGISTER, 0xA, 0xF) == GOOD, "fenced"
    assert bed.keys() == [0xF], "stays fenced"
    assert bed.registered() == 1, "one registration"
    assert bed.keys() == [0xF], "and later"
    # LIO says LOGICAL UNIT COMMUNICATION FAILURE to a nexus without registration.
    assert bed.out(RESERVE, 0xA, 0, WERO) in (CONFLICT, CHECK), "no reservation"
    assert not bed.held(), "nothing is held"
    assert bed.by_path(1 - dead, REGISTER, 0xF, 0) == GOOD, "peer leaves"


@EACH_PATH
@EACH_WAY
def test_cleared(bed: Bed, way: str, dead: int) -> None:
    """What was owed is not owed any more after the guest's own CLEAR."""
    with bed.failed(way, dead):
        assert bed.out(REGISTER, 0, 0xA) == GOOD, "register"
        assert bed.out(CLEAR, 0xA) == GOOD, "clear"
    assert (bed.keys(), bed.registered()) == ([], 0), "nothing comes"


@EACH_WAY
def test_the_holder(bed: Bed, way: str) -> None:
    """The path that holds the reservation dies."""
    assert bed.out(REGISTER, 0, 0xA) == GOOD, "register"
    assert bed.out(RESERVE, 0xA, 0, WERO) == GOOD, "reserve"
    with bed.failed(way, 0):
        assert bed.out(RESERVE, 0xA, 0, WERO) == GOOD, "held by the map's dead path"
        assert bed.keys() == [0xA, 0xA], "read"
        assert bed.out(RELEASE, 0xA, 0, WERO) == CHECK, "not released"
        assert bed.held(), "is held"
    assert bed.out(RELEASE, 0xA, 0, WERO) == GOOD, "released"
    assert not bed.held(), "is not held"
    assert bed.out(CLEAR, 0xA) == GOOD, "clear"


@EACH_WAY
def test_all_dead(bed: Bed, way: str) -> None:
    with bed.failed(way, 0, 1):
        assert bed.out(REGISTER, 0, 0xA) == CHECK, "register"
        assert read(bed.socket, bed.fd, KEYS).status == CHECK, "read"
    assert (bed.keys(), bed.registered()) == ([], 0), "nothing happened"
