"""What was told of a counter, whatever becomes of the counter and of the agent.

With the programs' maps: tests/kernel/test_signs and tests/agent/test_faults.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product

from agent.records import record
from prtrace.agent.counters import Counters, Told
from prtrace.agent.surroundings import Surroundings
from prtrace.probe.misses import Misses
from prtrace.probe.record import Cause, Counts, Record
from prtrace.state.event import Command

AT, EPOCH = "2:0:0:0", "0123456789abcdef"
STEPS = ("conflict", "reset", "tell", "prune", "crash")


class World:
    """An entry of pr_counts, what the store has, and what an agent knows of it.

    remembers: whether the store has when the newest count was counted.
    """

    def __init__(self, *, remembers: bool = True) -> None:
        self.remembers = remembers
        self.now = self.counted = self.events = 0
        self.entry: list[list[int]] = []
        self.meta: dict[str, str] = {}
        self.over: set[str] = set()
        self.told = Told()

    @property
    def counts(self) -> Counts:
        return Counts(AT, *(tuple(each) for each in self.entry))

    def act(self, step: str) -> None:
        match step:
            case "tell":
                self.tell()
            case "prune" if self.entry and self.told.of(self.counts) == self.counts.count[:6]:
                self.entry = []
                self.told.counts.pop(AT, None)
                self.told.last_ns.pop(AT, None)
                self.over.add(f"count/{AT}")
            case "crash":
                self.told, self.over = Told.from_meta(EPOCH, self.meta), set()
            case "conflict" | "reset":
                self.count(Cause.CONFLICT if step == "conflict" else Cause.RESET)

    def count(self, cause: Cause) -> None:
        self.now += 1
        self.counted += 1
        self.entry = self.entry or [[0] * 12, [0] * 12, [0] * 12]
        count, first_ns, last_ns = self.entry
        count[cause] += 1
        first_ns[cause] = first_ns[cause] or self.now
        last_ns[cause] = self.now

    def tell(self) -> None:
        meta = dict.fromkeys(self.over, "")
        if self.entry:
            before, counts = self.told.of(self.counts), self.counts
            self.events += sum(counts.count[:6]) - sum(before)
            value = [*counts.count[:6], *([max(counts.last_ns[:6])] if self.remembers else [])]
            meta[f"count/{AT}"] = json.dumps([EPOCH, value])
        self.meta = {name: text for name, text in {**self.meta, **meta}.items() if text}
        kept = Told.from_meta(EPOCH, meta)
        self.told.counts |= kept.counts
        self.told.last_ns |= kept.last_ns
        self.over.clear()


def is_wrong(steps: Sequence[str], *, remembers: bool) -> bool:
    """Whether something is told twice or lost."""
    world = World(remembers=remembers)
    for step in steps:
        world.act(step)
    world.tell()
    return world.events != world.counted


def test_nothing_is_told_twice_or_lost_whenever_an_entry_goes() -> None:
    """Every seven steps from the first count on: before it nothing can change."""
    counts = [step for step in STEPS if step in ("conflict", "reset")]
    assert not [
        steps for steps in product(counts, *[STEPS] * 6) if is_wrong(steps, remembers=True)
    ]


def test_an_agent_that_forgets_when_it_was_counted_is_found_out() -> None:
    steps = ("conflict", "tell", "prune", "crash", "conflict", "tell", "tell")
    assert is_wrong(steps, remembers=False)


def test_what_a_former_version_told_is_known() -> None:
    told = Told.from_meta(EPOCH, {f"count/{AT}": json.dumps([EPOCH, [1, 0, 0, 0, 2, 0]])})
    counts = Counts(AT, (1, 0, 0, 0, 3, 0, *(0,) * 6), (5, 0, 0, 0, 6, 0, *(0,) * 6), (9,) * 12)
    assert told.of(counts) == (1, 0, 0, 0, 2, 0)


def test_a_sample_that_comes_right_behind_its_count_is_told_with_it(monkeypatch) -> None:
    """The programs count a command before they submit its sample."""
    counters = Counters({}, EPOCH, Misses({}), Told(), Surroundings())
    write = bytes((0x2A, *bytes(9)))
    arrived: list[Record] = []

    def counted(_: bool) -> Sequence[Counts]:
        # The command ends between whatever was done before and this.
        arrived.append(Record.parse(record(1, write, host=2, result=0x18)))
        return [Counts(AT, (1, *(0,) * 11), (1,) * 12, (2,) * 12)]

    def sample() -> None:
        for each in arrived:
            counters.note(each)
        arrived.clear()

    monkeypatch.setattr(counters, "_counts", counted)
    for no_map in ("_losses", "_unseen_signs"):
        monkeypatch.setattr(counters, no_map, lambda *_: ())
    monkeypatch.setattr(counters, "_unfinished", lambda _: {})
    sample()
    (event,) = counters.read(all_nexuses=False, sample=sample).events
    assert (event.command, event.cdb) == (Command.CONFLICT, write)
