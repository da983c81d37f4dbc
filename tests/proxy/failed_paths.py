"""A dm-multipath map with paths that fail: the guest's registration, reservation and reads.

    ./tools/lab run --luns 1 --nexuses 2 --multipath -- python3 tests/proxy/failed_paths.py

A path fails in two ways.  "offline": the kernel has given the device up, so that its node cannot
be opened.  "disrupted": the node opens and every command comes back as DID_TRANSPORT_DISRUPTED,
which is what a REGISTER meets whose path fails half way.  What holds is LIO's own view.  Prints
"N passed, N failed"; exits 1 when something failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import lab_check
from helpers import proxy
from lab_check import (
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
    check,
    keys,
    out,
    read,
)

WAYS = ("offline", "disrupted")


class Bed:
    """One map, its paths, and LIO behind them."""

    def __init__(self, unit: dict[str, Any], path: Path, bare: Path) -> None:
        self.paths = unit["paths"][:2]
        self._pr = Path(unit["directory"], "pr")
        self._socket, self._bare = path, bare
        self.fd = os.open(unit["multipath"], os.O_RDWR | os.O_NONBLOCK)
        # Each path's own door, opened while it is well.
        self._doors = [os.open(p["block"], os.O_RDWR | os.O_NONBLOCK) for p in self.paths]

    def out(self, *what: int) -> int:
        return out(self._socket, self.fd, *what).status

    def by_path(self, place: int, *what: int) -> int:
        """A command of another host's, so to say: not through the map's guest."""
        return out(self._bare, self._doors[place], *what).status

    def keys(self) -> list[int]:
        return keys(self._socket, self.fd)

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
            state = Path("/sys/class/block", Path(path["block"]).name, "device/state")
            state.write_text("running\n" if well else "offline\n")
        else:
            Path(path["tpg"], "transport_status").write_text("online" if well else "offline")


def check_register(bed: Bed, way: str, dead: int) -> None:
    """One path is dead while the guest registers; it has the registration when it is back."""
    with bed.failed(way, dead):
        check("read with a dead path", bed.keys(), [])
        check("register", bed.out(REGISTER, 0, 0xA), GOOD)
        check("on the other path", (bed.registered(), bed.keys()), (1, [0xA]))
        check("reserve", bed.out(RESERVE, 0xA, 0, WERO), GOOD)
        check("reserve again", bed.out(RESERVE, 0xA, 0, WERO), GOOD)
        check("wrong key", bed.out(REGISTER, 0xB, 0xC), CONFLICT)
        check("still one", bed.registered(), 1)
    check("the next command", bed.keys(), [0xA, 0xA])
    check("every path", bed.registered(), 2)
    with bed.failed(way, dead):
        check("new key", bed.out(REGISTER, 0xA, 0xD), GOOD)
    check("new key on both", bed.keys(), [0xD, 0xD])
    with bed.failed(way, dead):
        check("release", bed.out(RELEASE, 0xD, 0, WERO), GOOD)
        check("is released", bed.held(), False)
        check("unregister", bed.out(REGISTER, 0xD, 0), GOOD)
        check("one is left", bed.registered(), 1)
    check("no key", bed.keys(), [])
    check("none is left", bed.registered(), 0)


def check_preempt(bed: Bed, way: str, dead: int) -> None:
    with bed.failed(way, dead):
        check("register", bed.out(IGNORE, 0, 0xA), GOOD)
        check("reserve", bed.out(RESERVE, 0xA, 0, WERO), GOOD)
        check("preempt of itself", bed.out(PREEMPT, 0xA, 0xA, WERO), GOOD)
    check("back on both", bed.keys(), [0xA, 0xA])
    check("clear", bed.out(CLEAR, 0xA), GOOD)
    check("none", bed.registered(), 0)


def check_fenced(bed: Bed, way: str, dead: int) -> None:
    """Preempted while a path was dead: nothing of the guest's comes back with the path."""
    with bed.failed(way, dead):
        check("register", bed.out(REGISTER, 0, 0xA), GOOD)
        # The peer fences by the only nexus that is well: it takes the registration away.
        check("fenced", bed.by_path(1 - dead, REGISTER, 0xA, 0xF), GOOD)
    check("stays fenced", bed.keys(), [0xF])
    check("one registration", bed.registered(), 1)
    check("and later", bed.keys(), [0xF])
    # LIO says LOGICAL UNIT COMMUNICATION FAILURE to a nexus without registration.
    check("no reservation", bed.out(RESERVE, 0xA, 0, WERO) in (CONFLICT, CHECK), True)
    check("nothing is held", bed.held(), False)
    check("peer leaves", bed.by_path(1 - dead, REGISTER, 0xF, 0), GOOD)


def check_cleared(bed: Bed, way: str, dead: int) -> None:
    """What was owed is not owed any more after the guest's own CLEAR."""
    with bed.failed(way, dead):
        check("register", bed.out(REGISTER, 0, 0xA), GOOD)
        check("clear", bed.out(CLEAR, 0xA), GOOD)
    check("nothing comes", (bed.keys(), bed.registered()), ([], 0))


def check_holder(bed: Bed, way: str) -> None:
    """The path that holds the reservation dies."""
    check("register", bed.out(REGISTER, 0, 0xA), GOOD)
    check("reserve", bed.out(RESERVE, 0xA, 0, WERO), GOOD)
    with bed.failed(way, 0):
        check("held by a dead path of ours", bed.out(RESERVE, 0xA, 0, WERO), GOOD)
        check("read", bed.keys(), [0xA, 0xA])
        check("not released", bed.out(RELEASE, 0xA, 0, WERO), CHECK)
        check("is held", bed.held(), True)
    check("released", bed.out(RELEASE, 0xA, 0, WERO), GOOD)
    check("is not held", bed.held(), False)
    check("clear", bed.out(CLEAR, 0xA), GOOD)


def check_all_dead(bed: Bed, way: str, path: Path) -> None:
    with bed.failed(way, 0, 1):
        check("register", bed.out(REGISTER, 0, 0xA), CHECK)
        check("read", read(path, bed.fd, KEYS).status, CHECK)
    check("nothing happened", (bed.keys(), bed.registered()), ([], 0))


def main() -> int:
    unit = json.loads(Path(os.environ["LAB_TARGET"]).read_text())["units"][0]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path, bare = folder / "proxy", folder / "bare"
        stack.enter_context(proxy(path, "--run-dir", str(folder)))
        stack.enter_context(proxy(bare))
        bed = Bed(unit, path, bare)
        for way in WAYS:
            for dead in (0, 1):
                for each in (check_register, check_preempt, check_fenced, check_cleared):
                    print(f"-- {each.__name__} {way} {dead}", flush=True)
                    each(bed, way, dead)
            print(f"-- {way}", flush=True)
            check_holder(bed, way)
            check_all_dead(bed, way, path)
    print(f"{len(lab_check.passed)} passed, {len(lab_check.failures)} failed")
    return 1 if lab_check.failures else 0


if __name__ == "__main__":
    sys.exit(main())
