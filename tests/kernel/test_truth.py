"""Random walks over nexuses and units: after each step what prtrace shows is held against LIO.

One process, one step after the other; the agent's own readings come in between.  A step is
one command (or one IOC_PR on dm-multipath, which the kernel makes several of).  A round is one
step on every unit, in any order; `show` is asked once a round, which takes four fifths of a step's
time and judges every step all the same: no unit has had more than one since it was judged last.
A passive walk has an agent with --read-in-doubt no: doubt then goes only when somebody happens
to read.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import random
import shutil
import subprocess
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab.agent import STATE_DIR, Agent
from lab.compare import compare
from lab.doors import Doors, PrOutCommand, sg_persist
from lab.load import TEST_UNIT_READY
from labkit import pace
from labkit.kernels import SERIES
from labkit.oracle import OracleState, oracle
from labkit.target import Target, Unit, UnitPath

from prtrace.errors import PrtraceError
from prtrace.model import Action, ReservationType
from prtrace.scsi.cdb import LegacyCdb, PrInCdb
from prtrace.scsi.codes import InAction
from prtrace.scsi.parameter import BasicList, MoveList
from prtrace.scsi.transportid import IscsiPort, SasPort, TransportId

_UNITS = 8
"""Of a machine: the steps of a round."""

pytestmark = pytest.mark.machine(luns=_UNITS, nexuses=2, transport="loop,iscsi", multipath=True)
# Two nexuses over tcm_loop and two over iSCSI, which alone takes PREEMPT AND ABORT.

_STEPS = 600
_SLOW_STEPS = 2500
_SLOW_WALKS = 4
SETTLE_EVERY = 100
_TELL_EVERY = 500
READS = 8
READS_PASSIVE = 100
"""Weight of PR IN: where the agent does not read, somebody else has to, and often."""
DOUBT_SECONDS = 5.0
_NAMES = ("sg_persist", "qemu-pr-helper", "fenced", "pacemaker-fenced", "sanlock")
_KEYS = (0xA1, 0xB2, 0xC3, 0xDEADBEEF_00000001, 0xFFFFFFFF_FFFFFFFF)
_PR_SET_NAME = 15
_BLOCK = 4096

_WEIGHTS: dict[str, int] = {
    "REGISTER": 18,
    "REGISTER_AND_IGNORE": 14,
    "RESERVE": 16,
    "RELEASE": 10,
    "CLEAR": 3,
    "PREEMPT": 14,
    "PREEMPT_AND_ABORT": 5,
    "REGISTER_AND_MOVE": 5,
    "SPEC_I_PT": 3,
    "ALL_TG_PT": 4,
    "read": 8,
    "write": 6,
    "ready": 6,
    "PR IN": READS,
    "legacy": 2,
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command goes: a path of a unit, or (path None) the unit's multipath node."""

    unit: Unit
    path: UnitPath | None

    @property
    def name(self) -> str:
        return str(self.unit.multipath) if self.path is None else self.path.hctl


class Walk:
    """One walk; steps counts what was sent, sent how often each kind through each door."""

    def __init__(self, target: Target, doors: Doors, rng: random.Random, reads: int) -> None:
        self.units = target.units
        self.weights = _WEIGHTS | {"PR IN": reads}
        self.doors = doors
        self.rng = rng
        self.sent: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.legacy: dict[str, Place] = {}
        self.truth: dict[str, OracleState] = {}
        self.look()
        self._libc = ctypes.CDLL(None)
        self._buffer = mmap.mmap(-1, _BLOCK)

    def step(self, unit: Unit) -> str:
        """Send one command to unit; what was sent in words."""
        what = self.rng.choices(list(self.weights), list(self.weights.values()))[0]
        if unit.lu in self.legacy and self.rng.random() < 0.3:
            return self._legacy(self.legacy.pop(unit.lu), release=True)
        self._libc.prctl(_PR_SET_NAME, self.rng.choice(_NAMES).encode(), 0, 0, 0)
        place = self._place(unit, what)
        match what:
            case "read" | "write":
                text = self._transfer(place, write=what == "write")
            case "ready":
                reply = self.doors.device(place.path.sg).send(TEST_UNIT_READY)
                text = f"TEST UNIT READY {reply.text}"
            case "PR IN":
                text = self._pr_in(place)
            case "legacy":
                text = self._legacy(place, release=self.rng.random() < 0.4)
            case _:
                text = self._pr_out(place, what)
        return f"{place.name} {text}"

    def look(self) -> None:
        """Ask LIO for its view of every unit."""
        self.truth = {unit.lu: oracle(unit.directory) for unit in self.units}

    def finish_legacy(self) -> None:
        """Give an SPC-2 reservation back: while it stands nobody can read what is reserved."""
        while self.legacy:
            _, place = self.legacy.popitem()
            self._legacy(place, release=True)

    def _place(self, unit: Unit, what: str) -> Place:
        paths = [
            path for path in unit.paths if what != "PREEMPT_AND_ABORT" or path.transport == "iscsi"
        ]
        single = ("ready", "legacy", "SPEC_I_PT", "ALL_TG_PT", "PREEMPT_AND_ABORT")
        if unit.multipath and what not in single and self.rng.random() < 0.15:
            return Place(unit, None)
        return Place(unit, self.rng.choice(paths))

    def _state(self, place: Place) -> OracleState:
        return self.truth[place.unit.lu]

    def _own_key(self, place: Place) -> int:
        """The key that is right there, or 0."""
        ports = [p.initiator for p in place.unit.paths[:2]]
        if place.path is not None:
            ports = [place.path.initiator]
        keys = self._state(place).keys()
        return next((keys[port] for port in ports if port in keys), 0)

    def _some_key(self, place: Place) -> int:
        """A key that means something somewhere, or nothing at all, or 0."""
        registered = [each.key for each in self._state(place).registrations]
        return self.rng.choice([*registered, *registered, *_KEYS, 0])

    def _new_key(self) -> int:
        return 0 if self.rng.random() < 0.2 else self.rng.choice(_KEYS)

    def _pr_out(self, place: Place, what: str) -> str:
        rng = self.rng
        right = rng.random() < 0.8
        key = self._own_key(place) if right else self._some_key(place)
        truth = self._state(place)
        kind: ReservationType | None = None
        sa_key, flags, parameter = 0, {}, b""
        match what:
            case "REGISTER" | "REGISTER_AND_IGNORE" | "SPEC_I_PT" | "ALL_TG_PT":
                sa_key = self._new_key()
                flags = {"aptpl": rng.random() < 0.1, "all_tg_pt": what == "ALL_TG_PT"}
                if what == "SPEC_I_PT":
                    # Never the sender itself: LIO registers it twice (test_deviations.py).
                    others = [
                        path
                        for path in place.unit.paths
                        if path.transport == place.path.transport and path != place.path
                    ]
                    ids = tuple(map(transport_id, rng.sample(others, rng.randint(1, len(others)))))
                    flags |= {"spec_i_pt": True, "transport_ids": ids}
                what = "REGISTER" if what in ("SPEC_I_PT", "ALL_TG_PT") else what
                if flags["all_tg_pt"] and rng.random() < 0.3:
                    what = "REGISTER_AND_IGNORE"
            case "RESERVE" | "RELEASE" | "PREEMPT" | "PREEMPT_AND_ABORT":
                kind = rng.choice(list(ReservationType))
                if what != "RESERVE" and truth.type_code is not None and rng.random() < 0.7:
                    kind = ReservationType(truth.type_code)
                if what.startswith("PREEMPT"):
                    sa_key = self._some_key(place)
                    kind = None if rng.random() < 0.1 else kind
            case "REGISTER_AND_MOVE":
                kind = rng.choice([None, *ReservationType])
                sa_key = self._new_key()
                other = rng.choice(place.unit.paths)
                parameter = MoveList(
                    key,
                    sa_key,
                    other.rtpi if rng.random() < 0.9 else 99,
                    transport_id(other),
                    unreg=rng.random() < 0.4,
                    aptpl=rng.random() < 0.1,
                ).build()
        action = Action[what]
        if not parameter:
            parameter = BasicList(key, sa_key, **flags).build()
        command = PrOutCommand(action, key, sa_key, kind, parameter)
        plain = len(parameter) == 24 and not any(flags.values()) and action.name in _WEIGHTS
        door, text = self._through(place, command, plain=plain and what != "REGISTER_AND_MOVE")
        self.sent[f"{action.value}/{door}"] += 1
        self.answers[text] += 1
        return f"{door} {command}: {text}"

    def _through(self, place: Place, command: PrOutCommand, *, plain: bool) -> tuple[str, str]:
        """Send command through a door that takes it; the door's name, and the answer."""
        doors: list[tuple[str, Callable[[], str]]]
        if place.path is None:
            node = str(place.unit.multipath)
            doors = [("dm SG_IO", lambda: self.doors.sg_io(node, command))]
            if plain:
                doors.append(("dm IOC_PR", lambda: self.doors.ioc_pr(node, command)))
            answer = self._chosen(doors)
            self._reinstate(place.unit, answer[1])
            return answer
        path = place.path
        doors = [
            ("sg", lambda: self.doors.sg_io(path.sg, command)),
            ("block", lambda: self.doors.sg_io(path.block, command)),
            ("bsg", lambda: self.doors.bsg(path.bsg, command.cdb, command.parameter)),
        ]
        if plain:
            doors.append(("IOC_PR", lambda: self.doors.ioc_pr(path.block, command)))
            if self.rng.random() < 0.02 and command.action is not Action.PREEMPT_AND_ABORT:
                doors = [("sg_persist", lambda: sg_persist(path.sg, command))]
        return self._chosen(doors)

    def _chosen(self, doors: list[tuple[str, Callable[[], str]]]) -> tuple[str, str]:
        name, send = self.rng.choice(doors)
        return name, send()

    def _reinstate(self, unit: Unit, answer: str) -> None:
        """dm-multipath fails a path over some answers; there is no multipathd to bring it back."""
        if answer.startswith(("status", "ioctl")):
            return
        for path in unit.paths[:2]:
            number = os.stat(path.block).st_rdev
            message = f"reinstate_path {os.major(number)}:{os.minor(number)}"
            name = Path(str(unit.multipath)).name
            subprocess.run(["dmsetup", "message", name, "0", message], check=True, timeout=60)

    def _pr_in(self, place: Place) -> str:
        action = self.rng.choice(list(InAction))
        room = self.rng.choice([8, 24, 40, 8192, 8192, 8192])
        cdb = PrInCdb(action, room).build()
        self.sent[f"{action.title}"] += 1
        if place.path is None or self.rng.random() < 0.2:
            node = str(place.unit.multipath) if place.path is None else place.path.block
            if self.rng.random() < 0.5:
                keys = self.rng.random() < 0.5
                return f"IOC_PR_READ {keys=}: {self.doors.ioc_pr_read(node, keys=keys)}"
            try:
                return f"{action.title}: {self.doors.device(node).send(cdb, room=room).text}"
            except PrtraceError as error:
                return f"{action.title}: {error.message}"
        if self.rng.random() < 0.3:
            return f"{action.title} bsg: {self.doors.bsg(place.path.bsg, cdb, room=room)}"
        return f"{action.title}: {self.doors.device(place.path.sg).send(cdb, room=room).text}"

    def _legacy(self, place: Place, *, release: bool) -> str:
        cdb = LegacyCdb(release, self.rng.choice([6, 10])).build()
        reply = self.doors.device(place.path.sg).send(cdb, b"")
        self.sent["RELEASE/legacy" if release else "RESERVE/legacy"] += 1
        if release and reply.attention:
            self.legacy[place.unit.lu] = place
        if not release and reply.status == 0 and oracle(place.unit.directory).spc2_holder:
            self.legacy[place.unit.lu] = place
        return f"{place.name} SPC-2 {'RELEASE' if release else 'RESERVE'}: {reply.text}"

    def _transfer(self, place: Place, *, write: bool) -> str:
        node = str(place.unit.multipath) if place.path is None else place.path.block
        fd = self.doors.fd(node, os.O_RDWR | os.O_DIRECT)
        offset = self.rng.randrange(16) * _BLOCK
        self.sent["write" if write else "read"] += 1
        try:
            if write:
                os.pwritev(fd, [self._buffer], offset)
            else:
                os.preadv(fd, [self._buffer], offset)
        except OSError as error:
            return f"{'write' if write else 'read'}: {error.strerror}"
        return f"{'write' if write else 'read'}: done"


def transport_id(path: UnitPath) -> TransportId:
    if path.transport == "loop":
        return SasPort(int(path.initiator.removeprefix("naa."), 16))
    name, _, isid = path.initiator.partition(",i,0x")
    return IscsiPort(name.encode(), int(isid, 16))


class Judge:
    """Compares after every round, and counts how much could be said without doubt."""

    def __init__(self, agent: Agent, walk: Walk) -> None:
        self.agent = agent
        self.walk = walk
        self.certain: Counter[str] = Counter()
        self.checks = 0
        self.slowest = 0.0
        self.seconds: Counter[str] = Counter()

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Count what the time goes into."""
        begun = time.monotonic()
        yield
        self.seconds[what] += time.monotonic() - begun

    def check(self) -> list[str]:
        """All units: each has had one command at most since it was looked at last."""
        with self.timed("show"):
            shown = {each["lu"]: each for each in self.agent.show()}
        with self.timed("oracle"):
            self.walk.look()
        wrong = []
        for unit in self.walk.units:
            truth = self.walk.truth[unit.lu]
            self.checks += 1
            doubted = {each["what"] for each in shown[unit.lu]["doubt"]}
            self.certain.update({"registrations", "reservation", "generation"} - doubted)
            seen = f"shown {shown[unit.lu]}\n  LIO {truth}"
            wrong += (
                f"{unit.lu}: {each}\n  {seen}" for each in compare(unit, shown[unit.lu], truth)
            )
        return wrong

    def settle(self) -> list[str]:
        """Wait until nothing is in doubt; what still is after DOUBT_SECONDS is wrong."""
        self.walk.finish_legacy()
        began = time.monotonic()
        while doubtful := [each for each in self.agent.show() if each["doubt"]]:
            if time.monotonic() - began > pace.limit(DOUBT_SECONDS):
                return [f"still in doubt: {doubtful}\n  LIO {self.walk.truth}"]
            time.sleep(0.02)
        self.slowest = max(self.slowest, time.monotonic() - began)
        return self.check()


def walked(target: Target, seed: int, steps: int, *, passive: bool = False) -> None:
    """One walk; nothing that is shown without doubt may be wrong after any step of it.

    steps: rounded up to whole rounds.
    """
    print(f"seed {seed}", flush=True)
    shutil.rmtree(STATE_DIR, ignore_errors=True)
    options = ("--read-in-doubt", "no") if passive else ()
    history: deque[str] = deque(maxlen=8 * _UNITS)
    with Doors() as doors, Agent(*options) as agent:
        walk = Walk(target, doors, random.Random(seed), READS_PASSIVE if passive else READS)
        judge = Judge(agent, walk)
        began = time.monotonic()
        if not passive:
            assert not judge.settle(), agent.log
        number = settled = told = 0
        while number < steps:
            for unit in walk.rng.sample(walk.units, len(walk.units)):
                number += 1
                with judge.timed("step"):
                    text = walk.step(unit)
                history.append(f"{number} {unit.lu[-4:]} {text}")
            wrong = judge.check()
            settles = number - settled >= SETTLE_EVERY or number >= steps
            if settles and not passive and not wrong:
                settled = number
                with judge.timed("settle"):
                    wrong = judge.settle()
            if number - told >= _TELL_EVERY:
                told = number
                print(f"{number} steps of {steps}", flush=True)
            if wrong:
                report(history, agent)
            assert not wrong, "\n".join(wrong)
        print(f"{number} steps, {number / (time.monotonic() - began):.1f} a second")
        print("  seconds:", {what: round(spent, 1) for what, spent in judge.seconds.items()})
        for fact, count in sorted(judge.certain.items()):
            print(f"  {fact} without doubt: {count / judge.checks:.1%} of {judge.checks} looks")
        print(f"  doubt gone after at most {judge.slowest:.2f} s")
        print("  sent:", ", ".join(f"{name} {count}" for name, count in sorted(walk.sent.items())))
        print("  answers:", walk.answers.most_common(12))
        status = agent.status()["status"]
        print("  loss:", status["loss"], "reads:", status["counters"]["reads_sent"])
        # More doubt than knowledge would be no knowledge.
        assert passive or judge.certain["registrations"] >= judge.checks / 2


def report(history: deque[str], agent: Agent) -> None:
    print("the last steps:", *history, sep="\n  ")
    print("the last events:")
    for event in agent.events(last=24):
        print(
            " ",
            *(event["seq"], event["lu"][-4:], event["nexus"], event["command"], event["action"]),
            *(event["status"], event["key"], event["sa_key"], event["type"], event["sense"]),
            *(event["comm"], event["effect"]),
            sep=" | ",
        )
    print(agent.log[-2000:])


@pytest.mark.timeout(420)
@pytest.mark.machine(kernels=SERIES)
def test_walk(target: Target, seed: int) -> None:
    walked(target, seed, _STEPS)


@pytest.mark.timeout(420)
def test_walk_without_reading(target: Target, seed: int) -> None:
    """The agent never asks: then nothing may be wrong either, only in doubt for longer."""
    walked(target, seed, _STEPS // 2, passive=True)


@pytest.mark.slow
@pytest.mark.timeout(1700)
@pytest.mark.machine(kernels=SERIES)
@pytest.mark.parametrize("number", range(_SLOW_WALKS))
def test_long_walks(target: Target, seed: int, number: int) -> None:
    """Together the 10,000 steps of a kernel; the number makes seeds of their own."""
    walked(target, seed, _SLOW_STEPS)
