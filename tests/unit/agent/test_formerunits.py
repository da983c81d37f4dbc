"""What was counted on an address may be of the unit that it led to a moment ago."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from linux.conftest import Tree, page_83

from agent.records import lu, record
from prtrace.agent.counters import SIGN_UNSEEN, Counters, Told
from prtrace.agent.formerunits import REMEMBERED_NS, FormerUnits
from prtrace.agent.surroundings import Surroundings
from prtrace.linux.units import Inventory, scan
from prtrace.probe.misses import Misses
from prtrace.probe.record import Cause, Counts, Record
from prtrace.state.event import Command

AT = "2:0:0:0"
FIRST, THEN = lu(1), lu(2)


def inventory(tree: Tree, unit: str) -> Inventory:
    tree.device(AT, page=page_83(unit.removeprefix("naa.")), disk="sda", block="8:0")
    return scan(tree.sys, tree.dev)


@pytest.fixture
def places(tmp_path: Path) -> tuple[Inventory, Inventory]:
    return inventory(Tree(tmp_path / "1"), FIRST), inventory(Tree(tmp_path / "2"), THEN)


def test_a_unit_is_remembered_for_a_while(places: tuple[Inventory, Inventory]) -> None:
    first, then = places
    former = FormerUnits()
    former.note(first.directory.nexuses.values(), then, 5)
    former.note(then.directory.nexuses.values(), then, 6)
    assert former.of(AT, 6) == {FIRST}
    assert former.of("3:0:0:0", 6) == frozenset()
    assert former.of(AT, 6 + REMEMBERED_NS) == frozenset()
    former.note(then.directory.nexuses.values(), then, 6 + REMEMBERED_NS)
    assert former.of(AT, 6) == frozenset(), "it takes no room any more"


@pytest.mark.parametrize(
    ("sampled", "grown", "doubtful", "told"),
    [(False, 1, {FIRST, THEN}, 0), (True, 1, set(), 1), (True, 2, {FIRST}, 2)],
    ids=["no sample", "all in a sample", "one in a sample"],
)
def test_what_no_sample_shows_is_of_either(
    places: tuple[Inventory, Inventory], sampled: bool, grown: int, doubtful: set[str], told: int
) -> None:
    first, surroundings = places[0], Surroundings()
    surroundings.inventory = places[1]
    surroundings.scanned_ns = time.monotonic_ns()
    counters = Counters({}, "0123456789abcdef", Misses({}), Told(), surroundings)
    if sampled:
        write = bytes((0x2A, *bytes(9)))
        counters.note(Record.parse(record(1, write, unit=2, host=2, result=0x18)))
    counts = Counts(AT, (grown,) * 12, (1,) * 12, (2,) * 12)
    assert [each.lu for each in counters.counted(counts, Cause.CONFLICT, grown, 0)] == [THEN]
    surroundings.note_former(first.directory.nexuses.values())
    events = list(counters.counted(counts, Cause.CONFLICT, grown, 0))
    lost = {each.lu for each in events if each.problem == SIGN_UNSEEN}
    assert lost == doubtful
    assert [each.count for each in events if each.command is Command.CONFLICT] == (
        [told] if told else []
    )
