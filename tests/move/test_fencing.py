"""A peer fences at a random moment of moves in which everything is killed at random.

Whatever happens: after a fence that said success no verb says that the guest may run, and its key
is on no nexus in the end; until somebody begins to fence it is on some nexus at every moment
(configfs, sampled by a process of its own as fast as it goes).

The peer is fence_scsi as Debian has it, every now and then, because it takes seconds here; else it
does the same by itself: PREEMPT where the key is shown, "off" where it is not.  The registrations
are over iSCSI: tcm_loop does not survive the PREEMPT AND ABORT of fence_scsi.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from labkit.foreign import fence_scsi

from move.bed import THIRD, Bed, K, dies_at
from prtrace.model import Action, Outcome, ReservationType
from prtrace.move.savefile import SaveFile
from prtrace.move.verbs import Moves, Report

MOVES = 1000
BUDGET_S = 900
"""Of one run: a machine is not for one test alone.  What was done is printed."""
LEAST = 20
FENCE_SCSI_EACH = 20
"""One fence of so many is fence_scsi's."""
HOST_KEY = 0x9999
KINDS = [*ReservationType, None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.machine(nexuses=5, transport="iscsi", cpus=2, needs=("fence_scsi",)),
    pytest.mark.timeout(BUDGET_S * 4),
]


@dataclass
class Fence:
    """begun, ended: CLOCK_MONOTONIC in seconds; success: what it says of itself."""

    bed: Bed
    real: bool
    kind: ReservationType | None
    delay: float
    begun: float = 0.0
    ended: float = 0.0
    success: bool = False
    said: str = ""

    def __call__(self) -> None:
        time.sleep(self.delay)
        self.begun = time.monotonic()
        self.success = self._fence_scsi() if self.real else self._preempt()
        self.ended = time.monotonic()

    def _preempt(self) -> bool:
        for _ in range(5):
            if K not in self.bed.lio().keys().values():
                self.said = "already off"
                return True
            kind = self.kind or ReservationType.WERO
            if self.bed.send(THIRD, Action.PREEMPT, HOST_KEY, K, kind) is Outcome.DONE:
                return True
        return False

    def _fence_scsi(self) -> bool:
        node = self.bed.paths[THIRD].block
        agent = fence_scsi()
        # The node's own key, as fence_scsi's "on" leaves it there.
        agent.key_file.parent.mkdir(parents=True, exist_ok=True)
        agent.key_file.write_text(f"{HOST_KEY:x}\n")
        command = f"{agent.command} --action=off --devices={node} --key={K:x}"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=120)
        self.said = done.stdout + done.stderr
        return done.returncode == 0


class Sampler:
    """A process that reads the registrations all the time; absent: when the key was nowhere."""

    def __init__(self, bed: Bed) -> None:
        self._path = Path(bed.unit.directory, "pr/res_pr_registered_i_pts")
        self._told = bed.state_dir / "samples"
        self.samples = 0
        self.absent: list[float] = []

    def __enter__(self) -> Sampler:
        self._pid = os.fork()
        if self._pid == 0:
            self._sample()
        return self

    def _sample(self) -> None:
        ended: list[int] = []
        signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
        # It takes what the moves leave: it is to look, not to slow them down.
        os.nice(10)
        wanted, samples, absent = f"Key: {K:#018x}".encode(), 0, []
        fd = os.open(self._path, os.O_RDONLY)
        while not ended:
            # A read at 0 makes configfs ask LIO again only for a file that is opened anew.
            os.close(fd)
            fd = os.open(self._path, os.O_RDONLY)
            moment = time.monotonic()
            samples += 1
            if wanted not in os.read(fd, 4096):
                absent.append(moment)
        self._told.write_text(json.dumps([samples, absent[:1000]]))
        os._exit(0)

    def __exit__(self, *_: object) -> None:
        os.kill(self._pid, signal.SIGTERM)
        os.waitpid(self._pid, 0)
        self.samples, self.absent = json.loads(self._told.read_text())


@dataclass
class Move:
    """One move with its accidents, and who was told that the guest may run."""

    bed: Bed
    chance: random.Random
    file: SaveFile
    there: dict[str, str]
    told: list[tuple[str, float]] = field(default_factory=list)
    kills: int = 0
    verbs: int = 0
    ends: Counter[str] = field(default_factory=Counter)

    def verb(self, name: str, call: Callable[[Moves], Report], *, deadly: bool = True) -> str:
        """Run a verb in a process that may die; its first unit's word, "" where it was killed."""
        number = self.chance.randrange(1, 12) if deadly and self.chance.random() < 0.4 else 0
        options = {"checkpoint": dies_at(number)} if number else {}
        self.verbs += 1
        begun = time.monotonic()
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            try:
                report = call(self.bed.moves(**options))
                words = [report.may_run, [unit.word.value for unit in report.units]]
                os.write(writer, json.dumps(words).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            text = pipe.read()
        os.waitpid(pid, 0)
        if not text:
            self.kills += 1
            return ""
        may_run, words = json.loads(text)
        if may_run:
            self.told.append((name, begun))
        self.ends[f"{name}: {words[0]}"] += 1
        return words[0]

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


def test_fenced_stays_fenced_at_any_moment(seed):
    bed, chance = Bed(), random.Random(seed)
    second = {bed.unit.lu: bed.paths[2].block}
    fences: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    samples = kills = done = verbs = 0
    usual, waited = 1.0, 0.0
    started = time.monotonic()
    end = time.monotonic() + BUDGET_S
    for number in range(MOVES):
        if time.monotonic() > end:
            break
        kind = chance.choice(KINDS)
        bed.reset()
        follows = kind is not None and chance.random() < 0.4
        bed.guest((0,), None if follows else kind, peer=True)
        if follows:
            assert bed.send(THIRD, Action.RESERVE, HOST_KEY, 0, kind) is Outcome.DONE
        file = bed.save(bed.paths[0].block)
        real = number % FENCE_SCSI_EACH == FENCE_SCSI_EACH - 1
        fence = Fence(bed, real, kind, chance.random() * usual)
        move = Move(bed, chance, file, second)
        thread = threading.Thread(target=fence)
        begun = time.monotonic()
        with Sampler(bed) as sampler:
            thread.start()
            move.go()
            over = time.monotonic()
            usual = 0.8 * usual + 0.2 * (over - begun)
            thread.join()
            waited += time.monotonic() - over
        what = f"move {number}, {kind}, follows {follows}, {move.ends}, {fence}"
        if fence.success:
            after = [name for name, at in move.told if at > fence.ended]
            assert not after, f"{after} after the fence: {what}"
            assert K not in bed.lio().keys().values(), what
        early = [at for at in sampler.absent if at < fence.begun]
        assert not early, f"the key was nowhere {len(early)} times: {what}"
        assert bed.lio().keys().get(bed.paths[THIRD].initiator) == HOST_KEY, what
        fences["fence_scsi" if real else "PREEMPT"] += fence.success
        fences["fence_scsi says no"] += real and not fence.success
        if real:
            print(f"move {number}, {kind}, follows {follows}: {fence.success}, {fence.said}")
        fences["already off"] += "off" in fence.said.casefold() and not real
        samples += sampler.samples
        kills += move.kills
        verbs += move.verbs
        ends += move.ends
        done += 1
    took = time.monotonic() - started
    print(f"{done} moves, {kills} kills, fences {dict(fences)}, {samples} samples")
    print(f"{took:.0f} s, of it {waited:.0f} s until the fence was over; {verbs} verbs")
    print(*(f"{count:5} {name}" for name, count in sorted(ends.items())), sep="\n")
    assert done >= LEAST
    assert fences["PREEMPT"]


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
    there = {bed.unit.lu: bed.paths[2].block}
    move = Move(bed, random.Random(0), bed.save(bed.paths[0].block), there)
    verbs = list(move.forward.items())
    for name, call in verbs[:done]:
        assert move.verb(name, call, deadly=False)
    fence = Fence(bed, True, ReservationType.WERO, 0.0)
    fence()
    assert fence.success, fence.said
    assert K not in bed.lio().keys().values()
    for name, call in verbs:
        move.verb(name, call, deadly=False)
    move.abort()
    assert not [name for name, at in move.told if at > fence.ended]
    assert bed.lio().keys() == {bed.paths[THIRD].initiator: HOST_KEY}
