"""The resolver on a real event loop, over scripted devices and a sysfs of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations as combinations_of
from itertools import product
from pathlib import Path

import pytest
from labkit import pace

from prtrace.agent.helper import NoPlaceError
from prtrace.agent.resolver import Resolver, reluctance
from prtrace.agent.schedule import ReadingLimits
from prtrace.linux.directory import Directory
from prtrace.linux.pathstate import PathState
from prtrace.linux.sgio import Reply
from prtrace.linux.units import Inventory, scan
from prtrace.linux.users import Use, Users
from prtrace.model import LocalNexus
from prtrace.scsi.codes import InAction, Opcode
from prtrace.scsi.sense import FIXED, ILLEGAL_REQUEST, Sense
from prtrace.state.apply import new_state
from prtrace.state.unit import LuState
from tests.unit.linux.conftest import Tree, page_83
from tests.unit.linux.scripted import ScriptedTarget, check

NAA = "6001405000000001000000000000000a"
LU = f"naa.{NAA}"
QUICK = ReadingLimits(spread_s=0.0, first_pause_s=0.01)
NEXUS = {"sg0": "2:0:0:0", "sg1": "3:0:0:0"}


def powerset(elements: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [part for size in range(len(elements) + 1) for part in combinations_of(elements, size)]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


async def came_true(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the limit is for what never comes true."""
    async with asyncio.timeout(pace.limit(60)):
        while not condition():  # noqa: ASYNC110 - threads make it true, not tasks
            await asyncio.sleep(0.01)


@dataclass
class Bench:
    """A host with scripted devices: by node, what each open of it gives."""

    inventory: Inventory
    devices: dict[str, ScriptedTarget] = field(default_factory=dict)
    states: dict[str, LuState] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)
    look: Callable[[Directory], Users] = lambda _: Users()

    def paths(self, lu: str) -> tuple[LocalNexus, ...]:
        unit = self.inventory.units.get(lu)
        return () if unit is None else unit.nexuses

    @contextlib.contextmanager
    def open(self, node: str) -> Iterator[ScriptedTarget]:
        name = Path(node).name
        self.opened.append(name)
        yield self.devices.setdefault(name, ScriptedTarget(page=page_83(NAA)))

    def resolver(self, limits: ReadingLimits = QUICK) -> Resolver:
        return Resolver(self, self.states.get, limits, self.open, self.look)

    def run(self, until: Callable[[Resolver], bool], *lus: str) -> Resolver:
        """Resolve the units; the deadline is there for what never comes true."""

        async def play() -> Resolver:
            resolver = self.resolver()
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
    every = 3 * QUICK.futile + 1
    resolver = made.run(lambda resolver: resolver.sent >= every)
    assert resolver.sent == every, "REPORT CAPABILITIES goes along once"
    assert set(made.opened) <= {"sg0", "sg1"}


def test_the_other_path_is_asked_when_one_fails(tree: Tree) -> None:
    made = bench(tree)
    made.devices["sg0"] = ScriptedTarget(unknown=frozenset(InAction), page=page_83(NAA))
    made.devices["sg1"] = ScriptedTarget(page=page_83(NAA))
    made.run(lambda _: len(made.devices["sg1"].sent) >= 2)
    assert made.devices["sg1"].sent[:2] == ["INQUIRY", "READ KEYS"]


class Lun(ScriptedTarget):
    """A logical unit that is unmapped at the target for a while."""

    away = True

    def send(self, cdb: bytes, data_out: bytes, room: int, timeout_ms: int) -> Reply:
        if self.away:
            self.sent.append("away")
            return check(Sense(FIXED, ILLEGAL_REQUEST, 0x25, 0))
        return super().send(cdb, data_out, room, timeout_ms)


def test_a_unit_that_is_away_for_a_moment_has_not_refused(tree: Tree) -> None:
    made = bench(tree)
    unit = made.devices["sg0"] = made.devices["sg1"] = Lun(page=page_83(NAA))

    def back_later(_: Resolver) -> bool:
        unit.away = len(unit.sent) < 6
        return "READ KEYS" in unit.sent

    made.run(back_later)
    assert unit.sent[:6] == ["away"] * 6


def test_what_refused_is_asked_again_when_it_was_seen_to_have_reservations(tree: Tree) -> None:
    made = bench(tree)
    unknown = frozenset(InAction)
    for node in ("sg0", "sg1"):
        made.devices[node] = ScriptedTarget(unknown=unknown, page=page_83(NAA))

    def told_anew(resolver: Resolver) -> bool:
        asked = sum(each.sent.count("READ KEYS") for each in made.devices.values())
        if asked == len(made.devices):
            resolver.resolve(LU, fresh=True)
        return asked > len(made.devices)

    made.run(told_anew)


def test_a_reading_for_which_there_was_no_thread_is_tried_again(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel gives a user so many, and systemd a unit."""
    start, refused = threading.Thread.start, []

    def scarce(thread: threading.Thread) -> None:
        if thread.name == "prtrace-read" and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", scarce)
    bench(tree).run(lambda resolver: resolver.sent >= 6)
    assert refused


def test_a_reading_for_which_the_helper_had_no_place_is_no_failure_of_the_path(
    tree: Tree,
) -> None:
    made = bench(tree)
    refused, open_ = [], made.open

    @contextlib.contextmanager
    def scarce(node: str) -> Iterator[ScriptedTarget]:
        if not refused:
            refused.append(Path(node).name)
            raise NoPlaceError("the agent's helper has too much to do")
        with open_(node) as device:
            yield device

    made.open = scarce  # type: ignore[method-assign]
    made.run(lambda resolver: resolver.sent >= 3)
    assert made.opened[:1] == refused, "another path was asked instead"


def test_a_look_for_which_there_was_no_thread_is_taken_later(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench(tree)
    start, refused, looks = threading.Thread.start, [], []

    def scarce(thread: threading.Thread) -> None:
        if thread.name == "prtrace-look" and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    def look(_: Directory) -> Users:
        looks.append(1)
        return Users()

    made.look = look
    monkeypatch.setattr(threading.Thread, "start", scarce)
    made.run(lambda resolver: bool(looks) and resolver.sent >= 6)
    assert refused


def test_what_stands_against_reading_is_said_once(
    tree: Tree, caplog: pytest.LogCaptureFixture
) -> None:
    """A dead array's units are asked for ever; its log is not filled."""
    made = bench(tree)
    for node in ("sg0", "sg1"):
        made.devices[node] = ScriptedTarget(unknown=frozenset(InAction), page=page_83(NAA))

    async def play() -> None:
        resolver = made.resolver()
        for _ in range(5):
            before = resolver.sent
            resolver.resolve(LU, fresh=True, wanted=True)
            await came_true(lambda before=before: resolver.sent > before)
        resolver.close()

    asyncio.run(play())
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == len(set(told)) == len(NEXUS), told


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
    made.look = lambda _: Users(frozenset({"3:0:0:0"}))
    made.run(lambda resolver: resolver.sent >= 6)
    assert set(made.opened) == {"sg0"}


@pytest.mark.parametrize("unseen", ["", "not all was looked at"])
@pytest.mark.parametrize("opened", powerset(("2:0:0:0", "3:0:0:0")))
def test_the_path_that_least_is_known_to_use_is_read(
    tree: Tree, opened: tuple[str, ...], unseen: str
) -> None:
    made = bench(tree)
    users = Users(frozenset(opened), unseen)
    made.look = lambda _: users
    made.run(lambda resolver: resolver.sent >= 6)
    least = min(users.of("2:0:0:0"), users.of("3:0:0:0"))
    assert {users.of(NEXUS[node]) for node in made.opened} == {least}


def combinations() -> Iterator[dict[str, object]]:
    """All that can be said of a path."""
    for access, safe, expected, use, registered in product(
        ("active/optimized", "standby", "unavailable"), (False, True), (False, True), Use,
        (False, True),
    ):  # fmt: skip
        yield {
            "path": PathState("running", access), "safe": safe, "expected": expected,
            "use": use, "registered": registered,
        }  # fmt: skip


def disturbs(path: dict[str, object]) -> int:
    """How much reading over a path may take from somebody, in the words of the decision.

    Nothing where an answer just came; then what is certain, what is not known, what waits.
    """
    if path["safe"]:
        return 0
    if path["expected"]:
        return 4
    return {Use.NOT_OPENED: 1, Use.NOT_KNOWN: 2, Use.OPENED: 3}[path["use"]]


def test_every_choice_between_two_paths() -> None:
    """Of two paths that answer the one is read that disturbs less, whatever else is the case."""
    compared = 0
    for one, two in product(combinations(), repeat=2):
        if not one["path"].may_answer or not two["path"].may_answer:
            continue
        less, more = sorted((one, two), key=disturbs)
        if disturbs(less) == disturbs(more):
            continue
        compared += 1
        assert reluctance(**less) < reluctance(**more), (less, more)
    assert compared > 1000


def test_every_choice_where_only_one_thing_differs() -> None:
    for base in combinations():
        for better, worse in (
            ({"safe": True}, {"safe": False}),
            ({"expected": False}, {"expected": True}),
            ({"use": Use.NOT_OPENED}, {"use": Use.NOT_KNOWN}),
            ({"use": Use.NOT_KNOWN}, {"use": Use.OPENED}),
            ({"registered": False}, {"registered": True}),
            ({"path": PathState("running")}, {"path": PathState("running", "standby")}),
            ({"path": PathState("running", "standby")}, {"path": PathState("running", "offline")}),
        ):
            assert reluctance(**base | better) < reluctance(**base | worse)


def test_nothing_is_read_before_it_was_looked_who_uses_what(tree: Tree) -> None:
    """Not the first time, and not after a pause in which somebody may have come."""
    made = bench(tree)
    told: list[str] = []
    users = Users(frozenset({"2:0:0:0"}))

    def look(_: Directory) -> Users:
        told.append("look")
        return users

    made.look = look
    made.opened = told

    async def play() -> None:
        nonlocal users
        resolver = made.resolver(QUICK._replace(look_every_s=0.05))
        resolver.resolve(LU, fresh=True)
        await came_true(lambda: resolver.sent >= 3 * QUICK.futile)
        assert told[0] == "look"
        assert set(told) == {"look", "sg1"}
        told.clear()
        users = Users(frozenset({"3:0:0:0"}))
        await asyncio.sleep(0.1)
        resolver.resolve(LU, fresh=True)
        await came_true(lambda: len(told) >= 2)
        assert told[:2] == ["look", "sg0"]
        resolver.close()

    asyncio.run(play())


def test_a_look_that_takes_too_long(tree: Tree, caplog: pytest.LogCaptureFixture) -> None:
    """Readings wait for it a while; then it is not known, which is not nobody."""
    made = bench(tree)
    go_on = threading.Event()
    hangs: list[tuple[float, int]] = []
    looks = 0

    def look(_: Directory) -> Users:
        nonlocal looks
        looks += 1
        if looks == 2:
            hangs.append((time.monotonic(), len(made.opened)))
            go_on.wait(pace.limit(60))
        return Users(frozenset({"2:0:0:0"}))

    made.look = look

    async def play() -> None:
        resolver = made.resolver(QUICK._replace(look_every_s=0.05, look_takes_s=0.3))
        while not hangs:
            resolver.resolve(LU, fresh=True)
            await asyncio.sleep(0.02)
        since, before = hangs[0]
        resolver.resolve(LU, fresh=True)
        await came_true(lambda: len(made.opened) > before)
        assert time.monotonic() - since >= 0.3
        assert looks == 2, "one look at a time"
        assert set(made.opened) == {"sg1"}, "what was open when it was last looked may still be"
        assert "not known who has which device open: the look takes too long" in caplog.text
        go_on.set()
        await came_true(lambda: resolver._looking_since is None)
        resolver.close()

    asyncio.run(play())


def test_a_look_that_fails(tree: Tree, caplog: pytest.LogCaptureFixture) -> None:
    made = bench(tree)
    looks = 0

    def look(_: Directory) -> Users:
        nonlocal looks
        looks += 1
        if looks > 1:
            raise OSError("no more files")
        return Users(frozenset({"3:0:0:0"}))

    made.look = look

    async def play() -> None:
        resolver = made.resolver(QUICK._replace(look_every_s=0.0))
        resolver.resolve(LU, fresh=True)
        await came_true(lambda: resolver.sent >= 3 * QUICK.futile)
        assert looks > 1
        assert set(made.opened) == {"sg0"}
        assert caplog.text.count("not known who has which device open: OSError") == 1, "told once"
        resolver.close()

    asyncio.run(play())


def test_an_answer_is_not_news_for_long(tree: Tree) -> None:
    """After a time somebody's unit attention may wait again where a command was answered."""
    made = bench(tree)
    made.look = lambda _: Users(frozenset({"2:0:0:0"}))

    async def play(just_s: float) -> str:
        made.opened.clear()
        resolver = made.resolver(QUICK._replace(just_s=just_s))
        resolver.resolve(LU, "2:0:0:0", fresh=True)
        await came_true(lambda: bool(made.opened))
        resolver.close()
        return made.opened[0]

    assert asyncio.run(play(60.0)) == "sg0"
    assert asyncio.run(play(-1.0)) == "sg1"


def test_where_an_answer_just_came_comes_first(tree: Tree) -> None:
    made = bench(tree)

    async def play() -> None:
        for safe, node in (("2:0:0:0", "sg0"), ("3:0:0:0", "sg1")):
            made.opened.clear()
            resolver = made.resolver()
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


@pytest.mark.parametrize("one", [b"\0\x80", b"\0\0", b""])
@pytest.mark.parametrize("two", [b"\0\x80", b"\0\0", b""])
def test_what_may_have_removable_media_is_not_asked(tree: Tree, one: bytes, two: bytes) -> None:
    """b"": the kernel's copy of the INQUIRY data is not there, as of a path that is going."""
    made = bench(tree)
    for nexus, inquiry in (("2:0:0:0", one), ("3:0:0:0", two)):
        tree.write(f"bus/scsi/devices/{nexus}/inquiry", inquiry)
    fixed = b"\0\0" in (one, two) and b"\0\x80" not in (one, two)
    made.run(lambda resolver: not fixed or resolver.sent > 0)
    assert bool(made.opened) is fixed


def test_what_somebody_wants_read_is_read(tree: Tree) -> None:
    made = bench(tree)
    tree.write("bus/scsi/devices/2:0:0:0/inquiry", b"\0\x80\6\2")

    async def play() -> None:
        resolver = made.resolver()
        resolver.resolve(LU, fresh=True, wanted=True)
        await came_true(lambda: resolver.sent >= 3)
        resolver.close()

    asyncio.run(play())


def test_a_unit_that_is_not_in_doubt_any_more_is_left_alone(tree: Tree) -> None:
    made = bench(tree)

    async def play() -> None:
        resolver = made.resolver()
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
    """The other unit gets no PR IN, and the agent is told which unit it is."""
    made = bench(tree)
    tree.write("bus/scsi/devices/3:0:0:0/state", "offline\n")
    other = f"{NAA[:-1]}b"
    target = made.devices["sg0"] = ScriptedTarget(page=page_83(other))
    told: list[tuple[str, str, str]] = []

    async def play() -> None:
        resolver = Resolver(
            made, made.states.get, QUICK, made.open, misled=lambda *what: told.append(what)
        )
        resolver.resolve(LU, fresh=True)
        await came_true(lambda: bool(told))
        resolver.close()

    asyncio.run(play())
    assert told[0] == ("2:0:0:0", LU, f"naa.{other}")
    assert set(target.sent) == {"INQUIRY"}


class RemappedTarget(ScriptedTarget):
    """Another unit is mapped to its address after it has answered; INQUIRY is held up then."""

    held: threading.Event
    other = page_83(f"{NAA[:-1]}b")

    def send(self, cdb: bytes, data_out: bytes, room: int, timeout_ms: int) -> Reply:
        if cdb[0] == Opcode.INQUIRY and InAction.READ_FULL_STATUS.title in self.sent:
            self.sent.append("held up")
            assert self.held.wait(60)
            self.page = self.other
        return super().send(cdb, data_out, room, timeout_ms)


def test_a_reading_teaches_nothing_for_certain_before_the_unit_is_asked_again(tree: Tree) -> None:
    """The unit is unvouched until the last INQUIRY, and misled is called before that ends."""
    made = bench(tree)
    tree.write("bus/scsi/devices/3:0:0:0/state", "offline\n")
    target = made.devices["sg0"] = RemappedTarget(page=page_83(NAA))
    target.held = threading.Event()
    told: list[str] = []

    async def play() -> None:
        def misled(nexus: str, lu: str, found: str) -> None:
            assert resolver.unvouched(lu), "nothing is certain before the doubt is there"
            told.append(f"{nexus} leads to {found}")

        resolver = Resolver(
            *(made, made.states.get, QUICK, made.open),
            misled=misled,
            vouched=lambda: told.append("over"),
        )
        resolver.replied(LU, "2:0:0:0", news=True)
        assert not resolver.unvouched(LU), "nothing was under way"
        resolver.resolve(LU, fresh=True)
        await came_true(lambda: "held up" in target.sent)
        assert not resolver.unvouched(LU), "nothing has been learned yet"
        resolver.replied(LU, "3:0:0:0", news=True)
        assert not resolver.unvouched(LU), "somebody else's reading"
        resolver.replied(LU, "2:0:0:0", news=True)
        assert resolver.unvouched(LU)
        assert not resolver.unvouched("naa.another")
        target.held.set()
        await came_true(lambda: "over" in told)
        assert not resolver.unvouched(LU)
        resolver.close()

    asyncio.run(play())
    assert told[:2] == [f"2:0:0:0 leads to naa.{NAA[:-1]}b", "over"]


class SilentTarget(ScriptedTarget):
    """It answers everything but the INQUIRY at the end, which is held up; then again."""

    held: threading.Event

    def send(self, cdb: bytes, data_out: bytes, room: int, timeout_ms: int) -> Reply:
        asked = cdb[0] == Opcode.INQUIRY and InAction.READ_FULL_STATUS.title in self.sent
        if asked and "held up" not in self.sent:
            self.sent.append("held up")
            assert self.held.wait(60)
            return check(Sense(FIXED, 2, 4, 1))
        return super().send(cdb, data_out, room, timeout_ms)


@pytest.mark.parametrize(
    ("replied", "news"),
    [(True, True), (True, False), (False, False)],
    ids=["news", "confirmation", "nothing came"],
)
def test_a_reading_whose_unit_is_not_known_at_the_end_vouches_for_nothing(
    tree: Tree, *, replied: bool, news: bool
) -> None:
    """The agent is told before the reading is over, and the unit is read again."""
    made = bench(tree)
    tree.write("bus/scsi/devices/3:0:0:0/state", "offline\n")
    target = made.devices["sg0"] = SilentTarget(page=page_83(NAA))
    target.held = threading.Event()
    doubtful = made.states[LU]
    told: list[str] = []

    async def play() -> None:
        def unproven(nexus: str, lu: str) -> None:
            assert resolver.unfinished(lu) is resolver.has_replied(lu, nexus) is replied
            told.append("unproven")
            if replied:
                made.states[LU] = doubtful

        resolver = Resolver(
            *(made, made.states.get, QUICK, made.open),
            unproven=unproven,
            vouched=lambda: told.append("over"),
        )
        resolver.resolve(LU, fresh=True)
        await came_true(lambda: "held up" in target.sent)
        if replied:
            resolver.replied(LU, "2:0:0:0", news=news)
            assert resolver.unvouched(LU) is news
            made.states[LU] = replace(doubtful, doubts=())
            resolver.changed(made.states)
        target.held.set()
        await came_true(lambda: target.sent.count(InAction.READ_KEYS.title) > 1)
        resolver.close()

    asyncio.run(play())
    assert told[:2] == (["unproven", "over"] if replied else ["unproven"])


def test_what_is_verified_is_read_where_nobody_is_disturbed(tree: Tree) -> None:
    made = bench(tree)
    seen = Users(frozenset({"2:0:0:0"}))

    async def play(look: Users, until: Callable[[Resolver], bool]) -> None:
        made.opened.clear()
        resolver = Resolver(made, made.states.get, QUICK, made.open, look=lambda _: look)
        resolver.verify(LU)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(60 if look is seen else 0.5):
                while not until(resolver):  # noqa: ASYNC110 - threads make it true, not tasks
                    await asyncio.sleep(0.01)
        resolver.close()

    asyncio.run(play(seen, lambda resolver: resolver.sent >= 3))
    assert set(made.opened) == {"sg1"}
    for everywhere in (Users(frozenset({"2:0:0:0", "3:0:0:0"})), Users(unseen="not permitted")):
        asyncio.run(play(everywhere, lambda resolver: resolver.sent > 0))
        assert made.opened == []


def test_no_command_is_sent_after_the_end(tree: Tree) -> None:
    """The unit stays in doubt, and would be read again every few milliseconds."""
    made = bench(tree)

    async def play() -> None:
        resolver = made.resolver()
        resolver.resolve(LU, fresh=True)
        await came_true(lambda: resolver.sent > 0)
        resolver.close()
        # The reading under way goes on to its own end.
        await came_true(
            lambda: "prtrace-read" not in [each.name for each in threading.enumerate()]
        )
        begun = len(made.opened)
        resolver.resolve(LU, fresh=True, wanted=True)
        resolver.verify(LU)
        await asyncio.sleep(20 * QUICK.first_pause_s)
        assert len(made.opened) == begun

    asyncio.run(play())


def test_what_is_in_doubt_does_not_wait_for_a_path_that_nobody_uses(tree: Tree) -> None:
    made = bench(tree)
    busy = Users(frozenset({"2:0:0:0", "3:0:0:0"}))

    async def play() -> None:
        resolver = Resolver(made, made.states.get, QUICK, made.open, look=lambda _: busy)
        resolver.verify(LU)
        await asyncio.sleep(0.1)
        resolver.resolve(LU)
        await came_true(lambda: resolver.sent >= 3)
        resolver.close()

    asyncio.run(play())


_HANGS = """
import asyncio, sys, threading, time
from pathlib import Path
from prtrace.agent.resolver import Resolver
from prtrace.agent.schedule import ReadingLimits
from prtrace.linux.units import scan
from prtrace.linux.users import Users
from prtrace.state.apply import new_state
from tests.unit.agent.test_resolver import Bench, LU

root, what = Path(sys.argv[1]), sys.argv[2]
bench = Bench(scan(root / "sys", root / "dev"), states={LU: new_state(LU, "", 0)})
looks = []

class Hangs:
    path = "hangs"
    def send(self, *_):
        time.sleep(600)

def look(_):
    looks.append(1)
    if what == "look":
        time.sleep(600)
    return Users()

bench.devices = {"sg0": Hangs(), "sg1": Hangs()}
bench.look = look

async def main():
    resolver = bench.resolver(ReadingLimits(spread_s=0.0))
    resolver.resolve(LU, fresh=True)
    while not (looks if what == "look" else bench.opened):
        await asyncio.sleep(0.01)
    resolver.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    others = [each for each in threading.enumerate() if each is not threading.main_thread()]
    assert others and all(each.daemon for each in others), others
    print("closed", flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("what", ["device", "look"])
def test_the_agent_does_not_wait_for_what_hangs(tree: Tree, tmp_path: Path, what: str) -> None:
    """The device and the look would take ten minutes.

    What could hold up the end is a task or a thread that Python waits for, and neither is left.
    """
    bench(tree)
    with subprocess.Popen(
        [sys.executable, "-c", _HANGS, str(tmp_path), what],
        env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "closed\n"
        assert process.wait(timeout=pace.limit(20)) == 0
