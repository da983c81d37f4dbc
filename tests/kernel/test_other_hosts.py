"""Other hosts act unseen, and paths come, go and log in anew: what is stated is right as of then.

The other host is an iSCSI initiator in user space (tests/lab/stranger.py): its commands pass no
program.  LIO's own view says what is true.  A fact is stated as of the time in "confirmed": it has
to be true unless a stranger acted after that; and once a sign of the stranger has reached a nexus
of this host, it has to be true, or in doubt, however old, and without doubt within seconds.

A round is one step on every unit, in any order, or a change of the paths; everything is judged
after it, so no unit has had more than one step since it was judged last.
"""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from lab.agent import Agent, cli
from lab.load import TEST_UNIT_READY, drain
from lab.stranger import Stranger
from labkit.failure import LabError
from labkit.iscsi import iscsiadm
from labkit.lio import IQN, ISCSI
from labkit.oracle import OracleState, oracle
from labkit.sysfs import SESSIONS, addresses, disk, host_of_session
from labkit.target import Target, Unit, UnitPath
from labkit.waiting import await_that

from prtrace.errors import PrtraceError
from prtrace.linux.sgio import SgDevice
from prtrace.model import Action, ReservationType
from prtrace.scsi.cdb import PrInCdb, PrOutCdb
from prtrace.scsi.codes import InAction
from prtrace.scsi.parameter import BasicList
from prtrace.state.event import nanoseconds

pytestmark = [
    pytest.mark.machine(luns=6, nexuses=2, transport="loop,iscsi"),
    pytest.mark.timeout(600),
]

_PORTAL = "127.0.0.1:3260"
_NAME = "iqn.2026-11.lab.prtrace:elsewhere"
_KEYS = (0xA1, 0xB2, 0xC3)
_SETTLE_EVERY = 48
_STEPS, _PARTS = 10_000, 8
"""Of the long walk on each kernel."""
_TELL_EVERY = 252
_SECONDS = 5.0
"""From a sign on a local nexus to certainty."""
_ACTIONS = (
    *(Action.REGISTER,) * 3, *(Action.REGISTER_AND_IGNORE,) * 2, *(Action.RESERVE,) * 3,
    Action.RELEASE, *(Action.PREEMPT,) * 2, Action.CLEAR,
)  # fmt: skip


@pytest.fixture
def agent() -> Iterator[Agent]:
    with Agent() as running:
        running.settled(_SECONDS)
        yield running


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    session = Stranger(_PORTAL, IQN, _NAME)
    yield session
    session.close()


def paths_now(units: Iterable[Unit]) -> dict[str, tuple[UnitPath, ...]]:
    """The paths of each unit that are there, and their ports as LIO names them."""
    loops = {path.hctl: path for unit in units for path in unit.paths if path.transport == "loop"}
    sessions = {}
    for entry in SESSIONS.iterdir():
        name = (entry / "initiatorname").read_text().strip()
        told = (ISCSI / "acls" / name / "info").read_text()
        isid = re.findall(r"ISID: 0x((?:[0-9a-f]{2} ){5}[0-9a-f]{2})", told)[-1].replace(" ", "")
        sessions[host_of_session(entry)] = f"{name},i,0x{isid}"
    found: dict[str, list[UnitPath]] = {unit.lu: [] for unit in units}
    for hctl in addresses():
        here = disk(hctl)
        if here is None or here.lu not in found:
            continue
        if hctl in loops:
            path = replace(loops[hctl], block=here.block, sg=here.sg, bsg=here.bsg)
        elif (host := hctl.partition(":")[0]) in sessions:
            path = UnitPath(
                hctl, here.block, here.sg, here.bsg, "iscsi", sessions[host], here.rtpi, ""
            )
        else:
            continue
        found[here.lu].append(path)
    return {lu: tuple(paths) for lu, paths in found.items()}


def wrong(
    shown: dict[str, Any], truth: OracleState, paths: tuple[UnitPath, ...], stated: set[str]
) -> list[str]:
    """Every fact of stated that is not as LIO has it, in words."""
    port = {path.hctl: path.initiator.lower() for path in paths}

    def name(nexus: str) -> str:
        return port.get(nexus) or nexus.rpartition(",")[0].lower() or nexus

    found = []
    if "generation" in stated and shown["generation"] != truth.generation:
        found.append(f"generation {shown['generation']}, LIO {truth.generation}")
    if "registrations" in stated:
        ours = Counter((name(e["nexus"]), int(e["key"], 16)) for e in shown["registrations"])
        theirs = Counter((each.initiator.lower(), each.key) for each in truth.registrations)
        if ours != theirs:
            found.append(f"registrations {ours}, LIO {theirs}")
        found += [
            f"{each['nexus']} is called local and is not here"
            for each in shown["registrations"]
            if each["local"] and each["nexus"] not in port
        ]
    if "reservation" in stated:
        held = shown["reservation"]
        ours = None if held is None else (held["type_code"], *map(name, held["holders"]))
        theirs = None
        if truth.type_code is not None:
            assert truth.holder is not None
            theirs = truth.type_code, truth.holder.lower()
        if ours is not None and theirs is not None and theirs[0] >= 7:
            ours, theirs = ours[:1], theirs[:1]
        if ours != theirs:
            found.append(f"reservation {ours}, LIO {theirs}")
    return found


_moment = lru_cache(nanoseconds)
"""One reading confirms several facts, and each look shows them again."""


def concerned(before: OracleState, after: OracleState) -> set[str]:
    """The initiator ports that a command has told, by a unit attention, what it did: those that
    are registered no more, and the registered ones where the reservation changed."""
    registered = {each.initiator.lower() for each in before.registrations}
    if (before.type_code, before.holder) == (after.type_code, after.holder):
        registered -= {each.initiator.lower() for each in after.registrations}
    return registered


class World:
    """The units, who acts on them, and the judge."""

    def __init__(self, target: Target, agent: Agent, stranger: Stranger, seed: int) -> None:
        self.units = target.units
        self.agent = agent
        self.stranger = stranger
        self.random = random.Random(seed)
        # Strangers of earlier tests have acted on them, too.
        self.touched = dict.fromkeys((unit.lu for unit in self.units), time.time_ns())
        self.history: list[str] = []
        self.stated: Counter[str] = Counter()
        self.paths = paths_now(self.units)
        self.truth = {unit.lu: oracle(unit.directory) for unit in self.units}
        """By unit, what LIO had when it was judged last: before the one step that a round has."""
        self.before: dict[str, OracleState] = {}
        """By unit on which the stranger acted in this round, what LIO had before."""
        self.signs: dict[str, set[str]] = {}
        """By unit, the initiator ports here that the stranger's last command concerned."""

    def round(self) -> int:
        """Returns how many steps it was."""
        if self.random.random() < 0.12:
            self._change_paths(self.random.choice(self.units))
            return 1
        for unit in self.random.sample(self.units, len(self.units)):
            chance = self.random.random()
            if chance < 0.2:
                self._strange(unit)
            elif chance < 0.28:
                self._read(unit)
            else:
                self._command(unit)
        return len(self.units)

    def judge(self, *, told: frozenset[str] = frozenset()) -> None:
        """told: units of which a sign has come and everything was settled since."""
        shown = {each["lu"]: each for each in self.agent.show()}
        for unit in self.units:
            each = shown[unit.lu]
            doubted = {doubt["what"] for doubt in each["doubt"]}
            stated = {
                fact
                for fact, by in each["confirmed"].items()
                if by is not None
                and fact not in doubted
                and (unit.lu in told or _moment(by["at"]) > self.touched[unit.lu])
            }
            self.stated.update(stated)
            truth = self.truth[unit.lu] = oracle(unit.directory)
            if (before := self.before.pop(unit.lu, None)) is not None:
                self.signs[unit.lu] = concerned(before, truth)
            found = wrong(each, truth, self.paths[unit.lu], stated)
            assert not found, "\n".join(
                [*found, *self.history[-60:], str(each), str(truth), *self._events(unit)]
            )

    def settle(self) -> None:
        """Take the attentions that wait, and see that what they tell is known in time.

        One that a command of this host has raised tells nothing of what the stranger did since.
        """
        told = set()
        for unit in self.units:
            for path in self.paths[unit.lu]:
                reply = self._reply(path, lambda device: device.send(TEST_UNIT_READY))
                if "2A/" in reply:
                    if path.initiator.lower() in self.signs.get(unit.lu, ()):
                        told.add(unit.lu)
                    self.history.append(f"{unit.lu[-4:]} {path.hctl} {reply}")
        self.agent.settled(_SECONDS)
        self.judge(told=frozenset(told))

    def _events(self, unit: Unit) -> list[str]:
        keep = ("seq", "time", "nexus", "command", "action", "status", "sa_key", "comm", "effect")
        return [
            " ".join(str(event[name]) for name in keep)
            for event in self.agent.events(devices=[unit.lu], last=16)
        ]

    def _reply(self, path: UnitPath, send: Any) -> str:
        try:
            with SgDevice(path.sg) as device:
                return str(send(device).text)
        except PrtraceError as error:
            return error.message

    def _choose(self, unit: Unit, initiator: str) -> tuple[Action, int, int, ReservationType]:
        pick = self.random.choice
        truth = self.truth[unit.lu]
        action = pick(_ACTIONS)
        right = self.random.random() < 0.85
        keys = {each.initiator.lower(): each.key for each in truth.registrations}
        key = keys.get(initiator.lower(), 0) if right else pick((0, *_KEYS))
        kind = pick(list(ReservationType))
        if truth.type_code is not None and self.random.random() < 0.5:
            kind = ReservationType(truth.type_code)
        victims = [each.key for each in truth.registrations]
        return action, key, pick((0, *_KEYS, *_KEYS, *victims)), kind

    def _command(self, unit: Unit) -> None:
        if not self.paths[unit.lu]:
            return
        path = self.random.choice(self.paths[unit.lu])
        action, key, sa_key, kind = self._choose(unit, path.initiator)
        cdb = PrOutCdb(action, type=kind, parameter_length=24).build()
        parameter = BasicList(key, sa_key).build()
        reply = self._reply(path, lambda device: device.send(cdb, parameter))
        self.history.append(
            f"{unit.lu[-4:]} {path.hctl} {action.value} {key:x} {sa_key:x} {kind.name}: {reply}"
        )

    def _read(self, unit: Unit) -> None:
        if not self.paths[unit.lu]:
            return
        path = self.random.choice(self.paths[unit.lu])
        action = self.random.choice(list(InAction))
        cdb = PrInCdb(action, 8128).build()
        reply = self._reply(path, lambda device: device.send(cdb, room=8128))
        self.history.append(f"{unit.lu[-4:]} {path.hctl} {action.title}: {reply}")

    def _strange(self, unit: Unit) -> None:
        action, key, sa_key, kind = self._choose(unit, self.stranger.port)
        self.before[unit.lu] = self.truth[unit.lu]
        answer = self.stranger.pr_out(self.units.index(unit), action.name, key, sa_key, int(kind))
        self.touched[unit.lu] = time.time_ns()
        self.history.append(
            f"{unit.lu[-4:]} stranger {action.value} {key:x} {sa_key:x} {kind.name}: "
            f"{answer.status:#x}"
        )

    def _change_paths(self, unit: Unit) -> None:
        way = self.random.choice((self._log_in_anew, self._delete, self._return))
        way(unit)
        # Attentions end with their sessions.
        self.signs.clear()
        self.paths = paths_now(self.units)

    def _log_in_anew(self, _: Unit) -> None:
        """End one session or both, and begin them in any order: addresses are given anew."""
        names = self.random.sample(("lab1", "lab2"), self.random.randint(1, 2))
        before = len(addresses())
        for name in names:
            self._iscsiadm(name, "--logout")
        self.random.shuffle(names)
        for name in names:
            self._iscsiadm(name, "--login")
        await_that("the disks come back", lambda: self._complete(names))
        self.history.append(f"logged in anew: {names}, {before} devices before")

    def _iscsiadm(self, name: str, what: str) -> None:
        node = ("-m", "node", "-T", IQN, "-p", "127.0.0.1", "-I", name)
        try:
            if what == "--login":
                # A record of another interface replaces that of the first.
                iscsiadm(*node, "-o", "new")
            iscsiadm(*node, what)
        except LabError as error:
            error.message += "\n" + "\n".join(self.history[-20:])
            raise

    def _complete(self, names: list[str]) -> bool:
        hosts = {
            host_of_session(entry)
            for entry in SESSIONS.iterdir()
            if (entry / "ifacename").read_text().strip() in names
        }
        here = [hctl for hctl in addresses() if hctl.partition(":")[0] in hosts]
        if len(hosts) != len(names) or len(here) != len(hosts) * len(self.units):
            return False
        return all(disk(hctl) for hctl in here)

    def _delete(self, unit: Unit) -> None:
        if len(self.paths[unit.lu]) < 2:
            return
        path = self.random.choice(self.paths[unit.lu])
        Path(f"/sys/class/scsi_device/{path.hctl}/device/delete").write_text("1")
        await_that("it is gone", lambda: path.hctl not in addresses())
        self.history.append(f"{unit.lu[-4:]} deleted {path.hctl}")

    def _return(self, _: Unit) -> None:
        """Every host is scanned: what was deleted is there again, with another life."""
        for host in Path("/sys/class/scsi_host").iterdir():
            (host / "scan").write_text("- - -")
        await_that("the nodes are there", lambda: all(disk(hctl) for hctl in addresses()))
        self.history.append("scanned")


def test_another_host_s_session_works(unit: Unit, stranger: Stranger) -> None:
    """The instrument itself: what it sends is carried out."""
    before = oracle(unit.directory).generation
    assert stranger.pr_out(0, "REGISTER", 0, 0x77).status == 0
    truth = oracle(unit.directory)
    assert truth.keys() == {stranger.port: 0x77}
    assert truth.generation == before + 1
    assert stranger.pr_out(0, "CLEAR", 0x77).status == 0
    assert oracle(unit.directory).registrations == ()


def test_what_another_host_did_is_not_stated(unit: Unit, agent: Agent, stranger: Stranger) -> None:
    """REGISTER only: no sign comes here.  show says as of when, and nothing of since."""
    (before,) = agent.show(unit.lu)
    assert stranger.pr_out(0, "REGISTER", 0, 0x77).status == 0
    after = time.time_ns()
    (shown,) = agent.show(unit.lu)
    assert nanoseconds(shown["as_of"]) < after
    assert shown["as_of"] == before["as_of"]
    told = " ".join(cli("show", unit.lu).stdout.split())
    assert "what other hosts did since is not seen" in told
    assert stranger.pr_out(0, "CLEAR", 0x77).status == 0


def test_a_holder_elsewhere_whose_key_is_registered_here_too(
    unit: Unit, agent: Agent, stranger: Stranger
) -> None:
    """READ RESERVATION tells a key alone: the agent's own reading must leave no doubt whose."""
    path = unit.paths[0]
    with SgDevice(path.sg) as device:
        drain(device)
        cdb = PrOutCdb(Action.REGISTER, parameter_length=24).build()
        assert device.send(cdb, BasicList(0, 0xA1).build()).status == 0
    assert stranger.pr_out(0, "REGISTER", 0, 0xA1).status == 0
    assert stranger.pr_out(0, "RESERVE", 0xA1, 0, int(ReservationType.WERO)).status == 0
    read = cli("show", unit.lu, "--max-age", "0")
    assert read.returncode == 0, read
    agent.settled(_SECONDS)
    (shown,) = agent.show(unit.lu)
    assert not shown["doubt"], shown["doubt"]
    (holder,) = shown["reservation"]["holders"]
    assert holder.rpartition(",")[0] == stranger.port, holder
    assert stranger.pr_out(0, "CLEAR", 0xA1).status == 0


def test_an_address_that_another_session_gets(
    target: Target, unit: Unit, agent: Agent, stranger: Stranger
) -> None:
    """Both sessions log out and in; the registration stays with the ports that made it."""
    world = World(target, agent, stranger, 1)
    path = next(each for each in world.paths[unit.lu] if each.transport == "iscsi")
    with SgDevice(path.sg) as device:
        device.send(TEST_UNIT_READY)
        cdb = PrOutCdb(Action.REGISTER, parameter_length=24).build()
        assert device.send(cdb, BasicList(0, 0xA1).build()).status == 0
        cdb = PrOutCdb(Action.RESERVE, type=ReservationType.WERO, parameter_length=24).build()
        assert device.send(cdb, BasicList(0xA1, 0).build()).status == 0
    assert agent.show(unit.lu)[0]["reservation"]["holders"] == [path.hctl]
    for name in ("lab1", "lab2"):
        world._iscsiadm(name, "--logout")
    for name in ("lab2", "lab1"):
        world._iscsiadm(name, "--login")
    await_that("they are back", lambda: world._complete(["lab1", "lab2"]))
    world.paths = paths_now(world.units)
    (shown,) = agent.show(unit.lu)
    (holder,) = shown["reservation"]["holders"]
    assert holder.rpartition(",")[0] == path.initiator
    assert not any(each["registered"] for each in shown["nexuses"])
    told = [event["effect"] for event in agent.events(devices=[unit.lu]) if event["paths"]]
    assert any(f"vanished: {path.hctl}" in effect for effect in told), told
    world.judge()
    assert stranger.pr_out(0, "REGISTER", 0, 0x77).status == 0
    assert stranger.pr_out(0, "CLEAR", 0x77).status == 0


def _walk(target: Target, agent: Agent, stranger: Stranger, seed: int, steps: int) -> World:
    world = World(target, agent, stranger, seed)
    number = settled = told = looks = 0
    while number < steps:
        number += world.round()
        world.judge()
        looks += len(world.units)
        if number - settled >= _SETTLE_EVERY:
            settled = number
            world.settle()
        if number - told >= _TELL_EVERY:
            told = number
            print(f"{number} steps of {steps}", flush=True)
    print(f"{number} steps, {looks} looks, stated {dict(world.stated)}")
    assert world.stated["registrations"] > looks / 8, world.stated
    return world


def test_walk(target: Target, agent: Agent, stranger: Stranger, seed: int) -> None:
    _walk(target, agent, stranger, seed, 150)


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.machine(kernels=("6.1", "6.12", "7"))
@pytest.mark.parametrize("part", range(_PARTS))
def test_long_walk(target: Target, agent: Agent, stranger: Stranger, seed: int, part: int) -> None:
    """Each part has a seed of its own, and finds the history of those before it."""
    _walk(target, agent, stranger, seed, _STEPS // _PARTS)
