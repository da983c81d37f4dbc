"""The resolver on a real event loop, over scripted devices and a sysfs of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from prtrace.agent.resolver import Resolver
from prtrace.agent.schedule import Limits
from prtrace.linux.units import Inventory, scan
from prtrace.model import LocalNexus
from prtrace.scsi.codes import InAction
from prtrace.state.apply import new_state
from prtrace.state.unit import LuState
from tests.unit.linux.conftest import Tree, page_83
from tests.unit.linux.scripted import ScriptedTarget, attention

NAA = "6001405000000001000000000000000a"
LU = f"naa.{NAA}"
QUICK = Limits(spread_s=0.0, first_pause_s=0.01)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


async def came_true(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the limit is for what never comes true."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - threads make it true, not tasks
            await asyncio.sleep(0.01)


@dataclass
class Bench:
    """A host with scripted devices: by node, what each open of it gives."""

    inventory: Inventory
    devices: dict[str, ScriptedTarget] = field(default_factory=dict)
    states: dict[str, LuState] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)

    def paths(self, lu: str) -> tuple[LocalNexus, ...]:
        unit = self.inventory.units.get(lu)
        return () if unit is None else unit.nexuses

    @contextlib.contextmanager
    def open(self, node: str) -> Iterator[ScriptedTarget]:
        name = Path(node).name
        self.opened.append(name)
        yield self.devices.setdefault(name, ScriptedTarget())

    def run(self, until: Callable[[Resolver], bool], *lus: str) -> Resolver:
        """Resolve the units; the deadline is there for what never comes true."""

        async def play() -> Resolver:
            resolver = Resolver(self, self.states.get, QUICK, self.open)
            for lu in lus or (LU,):
                resolver.resolve(lu, fresh=True)
            await came_true(lambda: until(resolver))
            resolver.close()
            return resolver

        return asyncio.run(play())


def bench(tree: Tree) -> Bench:
    """One unit over two paths, sg0 and sg1; all of it in doubt."""
    page = page_83(NAA)
    tree.device("2:0:0:0", page=page, disk="sda", block="8:0", sg="sg0", char="21:0")
    tree.device("3:0:0:0", page=page, disk="sdb", block="8:16", sg="sg1", char="21:1")
    return Bench(scan(tree.sys, tree.dev), states={LU: new_state(LU, "", 0)})


def test_a_unit_in_doubt_is_read_and_then_left_alone(tree: Tree) -> None:
    made = bench(tree)
    resolver = made.run(lambda resolver: resolver.sent >= 3 * QUICK.futile)
    assert resolver.sent == 3 * QUICK.futile
    assert set(made.opened) <= {"sg0", "sg1"}


def test_the_other_path_is_asked_when_one_fails(tree: Tree) -> None:
    made = bench(tree)
    made.devices["sg0"] = ScriptedTarget(unknown=frozenset(InAction))
    made.devices["sg1"] = ScriptedTarget()
    made.run(lambda _: bool(made.devices["sg1"].sent))
    assert made.devices["sg1"].sent[:1] == ["READ KEYS"]


def test_paths_that_do_not_run_are_not_asked(tree: Tree) -> None:
    made = bench(tree)
    tree.write("bus/scsi/devices/2:0:0:0/state", "offline\n")
    made.run(lambda resolver: resolver.sent >= 6)
    assert set(made.opened) == {"sg1"}


def test_a_path_in_a_good_access_state_comes_first(tree: Tree) -> None:
    made = bench(tree)
    tree.write("bus/scsi/devices/2:0:0:0/access_state", "unavailable\n")
    tree.write("bus/scsi/devices/3:0:0:0/access_state", "standby\n")
    made.run(lambda resolver: resolver.sent >= 6)
    assert set(made.opened) == {"sg1"}


def test_a_path_that_somebody_has_open_comes_last(tree: Tree) -> None:
    made = bench(tree)
    (tree.sys / "block/sdb/holders/dm-0").mkdir(parents=True)
    made.run(lambda resolver: resolver.sent >= 6)
    assert set(made.opened) == {"sg0"}


def test_where_an_answer_just_came_comes_first(tree: Tree) -> None:
    made = bench(tree)

    async def play() -> None:
        for safe, node in (("2:0:0:0", "sg0"), ("3:0:0:0", "sg1")):
            made.opened.clear()
            resolver = Resolver(made, made.states.get, QUICK, made.open)
            resolver.resolve(LU, safe, fresh=True)
            await came_true(lambda: bool(made.opened))
            assert made.opened[0] == node
            resolver.close()

    asyncio.run(play())


@pytest.mark.parametrize("kind", ["1", "5", "8", "13"])
def test_tapes_and_the_like_are_not_asked(tree: Tree, kind: str) -> None:
    tree.device("2:0:0:0", page=page_83(NAA), sg="sg0", char="21:0", type_=kind)
    made = Bench(scan(tree.sys, tree.dev), states={LU: new_state(LU, "", 0)})
    made.run(lambda _: True)
    assert made.opened == []


def test_removable_media_are_not_asked(tree: Tree) -> None:
    made = bench(tree)
    tree.write("class/block/sda/removable", "1\n")
    made.run(lambda _: True)
    assert made.opened == []


def test_what_somebody_wants_read_is_read(tree: Tree) -> None:
    made = bench(tree)
    tree.write("class/block/sda/removable", "1\n")

    async def play() -> None:
        resolver = Resolver(made, made.states.get, QUICK, made.open)
        resolver.resolve(LU, fresh=True, wanted=True)
        await came_true(lambda: resolver.sent >= 3)
        resolver.close()

    asyncio.run(play())


def test_a_unit_that_is_not_in_doubt_any_more_is_left_alone(tree: Tree) -> None:
    made = bench(tree)

    async def play() -> None:
        resolver = Resolver(made, made.states.get, QUICK, made.open)
        resolver.resolve(LU, fresh=True)
        await came_true(lambda: resolver.sent >= 3)
        sure = made.states[LU] = replace(made.states[LU], doubts=())
        resolver.changed({LU: sure})
        before = resolver.sent
        await asyncio.sleep(0.2)
        assert resolver.sent <= before + 3, "one may have been under way"
        resolver.close()

    asyncio.run(play())


def test_another_unit_behind_the_address_is_not_read(tree: Tree) -> None:
    made = bench(tree)
    tree.write("bus/scsi/devices/3:0:0:0/state", "offline\n")
    other = page_83(NAA[:-1] + "b")
    target = made.devices["sg0"] = ScriptedTarget(
        answers=deque([attention(0x3F, 0x0E)]), page=other
    )
    made.run(lambda resolver: resolver.sent >= 1)
    assert target.sent[:2] == ["READ KEYS", "INQUIRY"]


_HANGS = """
import asyncio, sys, time
from pathlib import Path
from prtrace.agent.resolver import Resolver
from prtrace.linux.units import scan
from prtrace.scsi.codes import InAction
from prtrace.state.apply import new_state
from tests.unit.agent.test_resolver import Bench, QUICK, LU

root = Path(sys.argv[1])
bench = Bench(scan(root / "sys", root / "dev"), states={LU: new_state(LU, "", 0)})

class Hangs:
    path = "hangs"
    def send(self, *_):
        time.sleep(600)

bench.devices = {"sg0": Hangs(), "sg1": Hangs()}

async def main():
    resolver = Resolver(bench, bench.states.get, QUICK, bench.open)
    resolver.resolve(LU, fresh=True)
    while not bench.opened:
        await asyncio.sleep(0.01)
    resolver.close()

asyncio.run(main())
"""


def test_the_agent_does_not_wait_for_a_device_that_hangs(tree: Tree, tmp_path: Path) -> None:
    bench(tree)
    subprocess.run(
        [sys.executable, "-c", _HANGS, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
        check=True,
        timeout=120,
    )
