"""A peer fences at a random moment of moves in which everything is killed at random.

Whatever happens: after a fence that said success no verb says that the guest may run, and its key
is on no nexus in the end; until somebody begins to fence it is on some nexus at every moment.
configfs is read by a process of its own as fast as it goes, and by the verb before and after each
of its looks and commands: between two of those nobody but the peer changes anything.

The peer is fence_scsi as Debian has it, every now and then, because it takes seconds here; else it
does the same by itself: PREEMPT where the key is shown, "off" where it is not; or it sends PREEMPT
without looking, until one is done.  Two units are moved side by side, each with its own peer: the
machine has two processors.  The registrations are over iSCSI: tcm_loop does not survive the
PREEMPT AND ABORT of fence_scsi.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from labkit.foreign import fence_scsi

from move.bed import THIRD, Bed, K, dies_at
from prtrace.model import Action, Outcome, ReservationType
from prtrace.move.savefile import SaveFile
from prtrace.move.verbs import Moves, Report

MOVES = 1000
BUDGET_S = 2700
"""Of one run: a machine is not for one test alone.  Beside other work two processors did 915 moves
in it.  What was done is printed."""
LEAST = 20
LANES = 2
FENCE_SCSI_EACH = 20
"""One fence of so many is fence_scsi's."""
HOST_KEY = 0x9999
KINDS = [*ReservationType, None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.machine(nexuses=5, transport="iscsi", luns=LANES, cpus=2, needs=("fence_scsi",)),
    pytest.mark.timeout(BUDGET_S * 4),
]


class Child:
    """work() in a process of its own; killed: by SIGKILL."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.killed = False
        self._reader, writer = os.pipe()
        sys.stdout.flush()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(self._reader)
                text = json.dumps(work())
                with os.fdopen(writer, "w") as pipe:
                    pipe.write(text)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(0)
        os.close(writer)

    def result(self) -> Any:
        """What it returned; None where it did not come to its end."""
        with os.fdopen(self._reader) as pipe:
            text = pipe.read()
        status = os.waitpid(self._pid, 0)[1]
        self.killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        return json.loads(text) if text else None


class Watch:
    """The device's own list of registrations, and the moments at which the key was nowhere."""

    def __init__(self, bed: Bed) -> None:
        self._path = Path(bed.unit.directory, "pr/res_pr_registered_i_pts")
        self._absent = bed.state_dir / "absent"
        self._absent.touch()
        self._wanted = f"Key: {K:#018x}".encode()
        self.samples = 0

    def look(self) -> None:
        # A read at 0 makes configfs ask LIO again only for a file that is opened anew.
        fd = os.open(self._path, os.O_RDONLY)
        there = self._wanted in os.read(fd, 4096)
        os.close(fd)
        if not there:
            # Behind the read: one that the processor was taken from before it is not of before.
            with self._absent.open("a") as file:
                file.write(f"{time.monotonic()}\n")
        self.samples += 1

    @property
    def absent(self) -> list[float]:
        return [float(line) for line in self._absent.read_text().split()]

    @contextmanager
    def all_the_time(self) -> Iterator[None]:
        """A process looks until the with statement ends."""
        over = mmap.mmap(-1, mmap.PAGESIZE)

        def work() -> int:
            # It takes what the moves leave: it is to look, not to slow them down.
            os.nice(19)
            while not over[0]:
                self.look()
            return self.samples

        child = Child(work)
        try:
            yield
        finally:
            over[0] = 1
            self.samples = child.result()


@dataclass
class Fence:
    """begun, ended: CLOCK_MONOTONIC in seconds; success: what it says of itself."""

    real: bool
    blind: bool
    delay: float
    begun: float = 0.0
    ended: float = 0.0
    success: bool = False
    said: str = ""
    commands: int = 0

    def carried_out(self, bed: Bed, kind: ReservationType | None) -> dict[str, Any]:
        """Fence after the delay; what became of it, as values of the fields."""
        time.sleep(self.delay)
        self.begun = time.monotonic()
        if self.real:
            self.success = self._fence_scsi(bed)
        else:
            self.success = self._preempt(bed, kind or ReservationType.WERO)
        self.ended = time.monotonic()
        return asdict(self)

    def _preempt(self, bed: Bed, kind: ReservationType) -> bool:
        for _ in range(20):
            if not self.blind and K not in bed.lio().keys().values():
                self.said = "already off"
                return True
            self.commands += 1
            if bed.send(THIRD, Action.PREEMPT, HOST_KEY, K, kind) is Outcome.DONE:
                return True
        return False

    def _fence_scsi(self, bed: Bed) -> bool:
        node = bed.paths[THIRD].block
        agent = fence_scsi()
        # The node's own key, as fence_scsi's "on" leaves it there.
        agent.key_file.parent.mkdir(parents=True, exist_ok=True)
        agent.key_file.write_text(f"{HOST_KEY:x}\n")
        command = f"{agent.command} --action=off --devices={node} --key={K:x}"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=120)
        self.said = done.stdout + done.stderr
        return done.returncode == 0


@dataclass
class Move:
    """One move with its accidents, and who was told that the guest may run."""

    bed: Bed
    chance: random.Random
    file: SaveFile
    there: dict[str, str]
    watch: Watch
    told: list[tuple[str, float]] = field(default_factory=list)
    kills: int = 0
    verbs: int = 0
    ends: Counter[str] = field(default_factory=Counter)

    def verb(self, name: str, call: Callable[[Moves], Report], *, deadly: bool = True) -> str:
        """Run a verb in a process that may die; its first unit's word, "" where it was killed."""
        number = self.chance.randrange(1, 12) if deadly and self.chance.random() < 0.4 else 0
        dies = dies_at(number)

        def checkpoint(point: str) -> None:
            self.watch.look()
            dies(point)

        def work() -> list[object]:
            report = call(self.bed.moves(checkpoint=checkpoint))
            return [report.may_run, report.units[0].word.value]

        self.verbs += 1
        begun = time.monotonic()
        child = Child(work)
        found = child.result()
        if found is None:
            assert child.killed, f"{name} did not come to its end: its traceback is above"
            self.kills += 1
            return ""
        may_run, word = found
        if may_run:
            self.told.append((name, begun))
        self.ends[f"{name}: {word}"] += 1
        return str(word)

    @property
    def forward(self) -> dict[str, Callable[[Moves], Report]]:
        """The verbs of a move that goes well, in their order."""
        return {
            "prepare": lambda moves: moves.prepare(self.file, self.there),
            "load": lambda moves: moves.load(self.file, self.there),
            "finish": lambda moves: moves.finish(self.file),
        }

    def go(self) -> None:
        verbs = self.forward
        if self._until("prepare", verbs["prepare"]) == "prepared" and (
            self._until("load", verbs["load"]) == "may run on the destination"
        ):
            self._until("finish", verbs["finish"])
        else:
            self.abort()
        # What comes late.
        late = [
            name
            for name in ("load", "prepare", "finish")
            if self.chance.random() < 0.3 and not (name == "finish" and not self.on_d)
        ]
        for name in late:
            self.verb(f"late {name}", verbs[name])
        self.bed.moves().settle()
        if late and not self.on_d:
            self.abort(deadly=False)

    @property
    def on_d(self) -> bool:
        return any(name.endswith("load") for name, _ in self.told)

    def _until(self, name: str, call: Callable[[Moves], Report]) -> str:
        for _ in range(4):
            word = self.verb(name, call)
            if word or self.chance.random() < 0.3:
                return word
        return self.verb(name, call, deadly=False)

    def abort(self, *, deadly: bool = True) -> None:
        """Both parts to their ends; the destination's again, which may have to come second."""
        kills = self.kills
        for side in ("destination", "source", "destination"):
            name = f"rollback, {side}"
            rollback = lambda moves, side=side: moves.rollback(self.file, side=side)  # noqa: E731
            if deadly:
                self._until(name, rollback)
            else:
                self.verb(name, rollback, deadly=False)
        if self.kills > kills:
            self.abort(deadly=False)


@dataclass
class Lane:
    """Moves of one unit, one after the other.

    usual: how long a move takes, in seconds.  counts: of what was done, by name; ends: of verbs;
    seconds: by what took them.
    """

    bed: Bed
    chance: random.Random
    usual: float = 1.0
    counts: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.seconds[name] += time.monotonic() - begun

    def until(self, end: float, moves: int) -> list[dict[str, float]]:
        """Move until then; the three counters."""
        while self.counts["moves"] < moves and time.monotonic() < end:
            self._round()
        return [dict(each) for each in (self.counts, self.ends, self.seconds)]

    def _round(self) -> None:
        bed, chance, number = self.bed, self.chance, self.counts["moves"]
        kind = chance.choice(KINDS)
        follows = kind is not None and chance.random() < 0.4
        with self._timed("setting up"):
            bed.reset()
            bed.guest((0,), None if follows else kind, peer=True)
            if follows:
                assert bed.send(THIRD, Action.RESERVE, HOST_KEY, 0, kind) is Outcome.DONE
        with self._timed("save"):
            file = bed.save(bed.paths[0].block)
        real = number % FENCE_SCSI_EACH == FENCE_SCSI_EACH - 1
        fence = Fence(real, chance.random() < 0.5, chance.random() * self.usual)
        watch = Watch(bed)
        move = Move(bed, chance, file, bed.to(bed.paths[2].block), watch)
        with watch.all_the_time():
            peer = Child(lambda: fence.carried_out(bed, kind))
            begun = time.monotonic()
            with self._timed("verbs"):
                move.go()
            self.usual = 0.8 * self.usual + 0.2 * (time.monotonic() - begun)
            with self._timed("until the fence is over"):
                fence = Fence(**peer.result())
        self._judge(f"move {number}, {kind}, follows {follows}, {move.ends}", move, fence)
        self._count(move, fence)

    def _judge(self, what: str, move: Move, fence: Fence) -> None:
        what = f"{what}, {fence}"
        keys = self.bed.lio().keys()
        if fence.success:
            after = [name for name, at in move.told if at > fence.ended]
            assert not after, f"{after} after the fence: {what}"
            assert K not in keys.values(), what
        early = [at for at in move.watch.absent if at < fence.begun]
        assert not early, f"the key was nowhere {len(early)} times: {what}"
        assert keys.get(self.bed.paths[THIRD].initiator) == HOST_KEY, what
        if fence.real:
            print(f"{what}")

    def _count(self, move: Move, fence: Fence) -> None:
        name = "fence_scsi" if fence.real else "blind PREEMPT" if fence.blind else "PREEMPT"
        self.counts[f"fenced by {name}"] += fence.success
        self.counts[f"not fenced by {name}"] += not fence.success
        self.counts["already off"] += "off" in fence.said.casefold() and not fence.real
        self.counts["PREEMPTs"] += fence.commands
        self.counts["samples"] += move.watch.samples
        self.counts["kills"] += move.kills
        self.counts["verbs"] += move.verbs
        self.counts["moves"] += 1
        self.ends += move.ends


def test_fenced_stays_fenced_at_any_moment(seed):
    end = time.monotonic() + BUDGET_S
    lanes = [
        Child(
            lambda number=number: Lane(Bed(number), random.Random(seed + number)).until(
                end, MOVES // LANES
            )
        )
        for number in range(LANES)
    ]
    found = [lane.result() for lane in lanes]
    counts, ends, seconds = (
        sum((Counter(each[place]) for each in found if each is not None), Counter())
        for place in range(3)
    )
    for counter in (counts, seconds, ends):
        print(*(f"{count:10.0f} {name}" for name, count in sorted(counter.items())), sep="\n")
    assert None not in found, "a lane has ended before its time: its traceback is above"
    assert counts["moves"] >= LEAST
    assert counts["fenced by PREEMPT"]
    assert counts["fenced by blind PREEMPT"]


@pytest.mark.parametrize("follows", [False, True], ids=["holder", "follower"])
@pytest.mark.parametrize("done", range(4), ids=["saved", "prepared", "loaded", "finished"])
def test_fence_scsi_says_success_and_the_guest_runs_nowhere(done, follows):
    """Between any two verbs: it finds the key, takes it everywhere, and nothing brings it back."""
    bed = Bed()
    bed.reset()
    bed.guest((0,), None if follows else ReservationType.WERO, peer=True)
    if follows:
        outcome = bed.send(THIRD, Action.RESERVE, HOST_KEY, 0, ReservationType.WERO)
        assert outcome is Outcome.DONE
    there = bed.to(bed.paths[2].block)
    file = bed.save(bed.paths[0].block)
    move = Move(bed, random.Random(0), file, there, Watch(bed))
    verbs = list(move.forward.items())
    for name, call in verbs[:done]:
        assert move.verb(name, call, deadly=False)
    fence = Fence(real=True, blind=False, delay=0.0)
    fence.carried_out(bed, ReservationType.WERO)
    assert fence.success, fence.said
    assert K not in bed.lio().keys().values()
    for name, call in verbs:
        move.verb(name, call, deadly=False)
    move.abort()
    assert not [name for name, at in move.told if at > fence.ended]
    assert bed.lio().keys() == {bed.paths[THIRD].initiator: HOST_KEY}
