"""Nothing is lost between ring and store, whatever fails there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from examples import share

from agent.records import Producer, lu, pr_out, read_keys, record
from prtrace.agent.counters import SIGN_UNSEEN, Counters, Told
from prtrace.agent.surroundings import Surroundings
from prtrace.agent.tracker import Proposal, Tracker
from prtrace.agent.watch import WAITS_FOR_DISK, Watch
from prtrace.cli.rebuild import Rebuilt
from prtrace.errors import DeviceError, StoreError
from prtrace.probe.misses import Misses
from prtrace.probe.record import Stat
from prtrace.probe.ring import Ring
from prtrace.state.decode import UNPROVEN
from prtrace.state.event import Command, Event
from prtrace.state.unit import Fact
from prtrace.store.database import Store

HERE = Path(__file__).parent
EPOCH = "0123456789abcdef"
SIZE = 1 << 16


class Agent:
    """Ring, tracker and store as the agent has them, without a kernel's programs."""

    def __init__(self, path: Path) -> None:
        self.producer = Producer(SIZE)
        self.path = path
        self.published: list[Event] = []
        self.start()

    def start(self) -> None:
        self.ring = Ring(self.producer.fd, SIZE)
        self.store = Store.open(self.path)
        self.surroundings = Surroundings()
        told = Told.from_meta(EPOCH, self.store.meta())
        self.tracker = Tracker(EPOCH, self.store.states(), self.surroundings)
        self.counters = Counters({}, EPOCH, Misses({}), told, self.surroundings)
        self.well: list[int] = []
        self.watch = Watch(
            self.ring,
            self.ring,
            self.tracker,
            self.counters,
            self.store,
            self._publish,
            lambda: self.well.append(self.ring.position),
        )

    def _publish(self, stored: list[Event], _: Proposal) -> None:
        self.published += stored

    def close(self) -> None:
        self.ring.close()
        self.store.close()

    def restart(self) -> None:
        self.close()
        self.start()

    def put(self, *raws: bytes) -> None:
        for raw in raws:
            self.producer.put(raw)

    def pump(self) -> None:
        while self.watch.pump():
            pass

    def keys(self, unit: int) -> dict[str, int]:
        registered = self.tracker.states[lu(unit)].registrations
        return {nexus: each.key for nexus, each in registered.items()}


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path / "prtrace.db")
    yield made
    made.close()
    os.close(made.producer.fd)


def register(seq: int, key: int, unit: int = 1, **fields: object) -> bytes:
    return record(seq, *pr_out(6, 0, key), unit=unit, host=unit, **fields)


def failing(what: Callable[..., object], error: BaseException, when: int) -> Callable[..., object]:
    """what, which raises error at the when-th call and at no other."""
    calls = 0

    def called(*args: object, **more: object) -> object:
        nonlocal calls
        calls += 1
        if calls == when:
            raise error
        return what(*args, **more)

    return called


def test_a_long_drain_says_that_it_is_well(agent: Agent, monkeypatch) -> None:
    """In the middle of it: a service manager ends what is silent for too long."""
    monkeypatch.setattr(agent.watch, "_portion", 10)
    monkeypatch.setattr(agent.watch, "count", lambda: None)  # there is no kernel here
    agent.put(*(register(n, 0x700 + n) for n in range(1, 41)))
    agent.watch.drain_all()
    assert [event.record for event in agent.store.events()][-1] == 40
    assert len(set(agent.well)) >= 2


def test_a_process_that_cannot_be_looked_up_costs_no_record(agent: Agent, monkeypatch) -> None:
    """Every descriptor in use: who asked is not known then, what was done is."""

    def no_descriptor(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(agent.surroundings._processes, "identify", no_descriptor)
    agent.put(register(1, 0x700), register(2, 0x701))
    agent.pump()
    assert agent.keys(1) == {"1:0:0:0": 0x701}
    assert [event.record for event in agent.store.events()] == [1, 2]
    assert all(event.issuer.comm == "sg_persist" for event in agent.store.events())


@pytest.mark.parametrize(
    "error", [OSError(24, "EMFILE"), RecursionError(), KeyError("x")], ids=repr
)
def test_a_poisoned_record_is_put_aside_and_the_rest_goes_on(
    agent: Agent, monkeypatch, error: Exception
) -> None:
    whole = agent.tracker._event

    def poisoned(seen: object, *more: object) -> Event:
        if seen.header.seq == 3:
            raise error
        return whole(seen, *more)

    monkeypatch.setattr(agent.tracker, "_event", poisoned)
    raws = [register(n, 0x700 + n, unit=1 + n % 2) for n in range(1, 7)]
    agent.put(*raws)
    agent.pump()
    assert agent.keys(1) == {"1:0:0:0": 0x706}
    assert agent.keys(2) == {"2:0:0:0": 0x705}
    assert agent.tracker.states[lu(2)].doubts
    assert not any(
        each.reason for each in agent.tracker.states[lu(1)].doubts if "digest" in each.reason
    )
    told = [event for event in agent.store.events() if event.command is Command.LOST]
    assert [(event.record, event.lu, event.nexus) for event in told] == [(3, lu(2), "2:0:0:0")]
    assert type(error).__name__ in told[0].problem
    assert [each.raw for each in agent.store.aside()] == [raws[2]]
    assert agent.watch.aside == 1
    assert agent.producer.given_back == agent.producer.position
    assert [event.record for event in agent.published] == [1, 2, 3, 4, 5, 6]


def test_a_record_of_another_form_puts_everybody_in_doubt(agent: Agent) -> None:
    agent.put(register(1, 0x700), register(2, 0x701, unit=2), register(3, 0x702, abi=99))
    agent.put(b"short")
    agent.pump()
    for unit in (1, 2):
        assert {each.what for each in agent.tracker.states[lu(unit)].doubts}
    told = [event for event in agent.store.events() if event.command is Command.LOST]
    assert {event.lu for event in told} == {lu(1), lu(2)}
    assert len(agent.store.aside()) == 2


def test_a_record_whose_unit_cannot_be_found_puts_everybody_in_doubt(
    agent: Agent, monkeypatch
) -> None:
    def no_sysfs(*_: object) -> str:
        raise DeviceError("sysfs cannot be read")

    agent.put(register(1, 0x700))
    agent.pump()
    monkeypatch.setattr(agent.surroundings, "unit", no_sysfs)
    agent.put(record(2, *pr_out(0, 0, 0x701), unit=None, host=9))
    agent.pump()
    assert agent.tracker.states[lu(1)].doubts
    assert len(agent.store.aside()) == 1


def test_an_event_that_the_database_cannot_hold_is_put_aside(agent: Agent, monkeypatch) -> None:
    """Numbers beyond 64 bits: no error of SQLite's."""
    agent.put(register(1, 0x700), register(2, 0x701, done_ns=(1 << 64) - 1), register(3, 0x702))
    agent.pump()
    assert agent.keys(1) == {"1:0:0:0": 0x702}
    assert [each.problem for each in agent.store.aside()] != []
    assert [event.record for event in agent.store.events()] == [1, 2, 3]


def test_a_failure_behind_the_commit_repeats_nothing(agent: Agent, monkeypatch) -> None:
    monkeypatch.setattr(agent.tracker, "accept", failing(agent.tracker.accept, KeyError(), 1))
    agent.put(*(register(n, 0x700 + n) for n in range(1, 4)))
    agent.pump()
    assert [event.record for event in agent.store.events()] == [1, 2, 3]
    assert not agent.store.aside()
    assert agent.keys(1) == {"1:0:0:0": 0x703}
    assert agent.tracker.states == agent.store.states()


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_what_no_record_is_to_blame_for_ends_the_agent(
    agent: Agent, monkeypatch, error: BaseException
) -> None:
    monkeypatch.setattr(agent.tracker, "propose", failing(agent.tracker.propose, error, 1))
    agent.put(register(1, 0x700))
    with pytest.raises(type(error)):
        agent.watch.pump()
    assert agent.producer.given_back == 0
    agent.restart()
    agent.pump()
    assert agent.keys(1) == {"1:0:0:0": 0x700}


def test_counters_that_cannot_be_read_hold_everything_up(agent: Agent, monkeypatch) -> None:
    def unreadable(**_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    read = agent.counters.read
    monkeypatch.setattr(agent.counters, "read", unreadable)
    agent.put(register(1, 0x700, lost=5))
    assert not agent.watch.pump()
    assert "counters" in agent.watch.stalled
    assert not list(agent.store.events())
    del read


def test_what_is_owed_is_told_with_whatever_the_store_takes_next(
    agent: Agent, monkeypatch
) -> None:
    """No state that a doubt is about is stored without it, or shown."""
    agent.put(register(1, 0x700))
    agent.pump()
    agent.put(register(2, 0x701))
    full = failing(Store.commit, StoreError("the disk is full"), 1)
    monkeypatch.setattr(Store, "commit", full)
    agent.watch.owe((Event(Command.LOST, lu=lu(1), nexus="1:0:0:0", problem=UNPROVEN),))
    assert agent.watch.stalled
    assert not any(event.command is Command.LOST for event in agent.published)
    assert agent.watch.pump()
    assert [event.command for event in agent.published[-2:]] == [Command.PR_OUT, Command.LOST]
    reasons = {each.reason for each in agent.tracker.states[lu(1)].doubts}
    assert any("which unit answered over 1:0:0:0" in reason for reason in reasons), reasons
    told = len(agent.published)
    agent.put(register(3, 0x702))
    agent.pump()
    assert len(agent.published) == told + 1, "it is told once"


def test_nothing_is_written_to_a_disk_that_does_not_answer(agent: Agent) -> None:
    """Whoever writes to it may have to wait in the kernel, and nobody is answered meanwhile."""
    agent.put(register(1, 5))
    agent.pump()
    agent.watch.wait_for_disk(0)
    assert agent.watch.stalled == f"{WAITS_FOR_DISK} since 1970-01-01T00:00:00.000000000Z"
    before = agent.store.changes
    agent.put(register(2, 6))
    agent.pump()
    agent.watch.owe((Event(Command.LOST, time=1, done_ns=1, start_ns=1, lu=lu(1), count=1),))
    agent.watch.meet()
    assert (agent.store.changes, agent.keys(1)) == (before, {"1:0:0:0": 5})
    agent.watch.wait_for_disk(None)
    assert not agent.watch.stalled
    agent.pump()
    assert agent.keys(1) == {"1:0:0:0": 6}
    told = [event.command for event in agent.published]
    assert told == [Command.PR_OUT, Command.PR_OUT, Command.LOST]


def test_a_kernel_that_cannot_forget_counters_is_told_once(
    agent: Agent, monkeypatch, caplog
) -> None:
    """Hashes know no lookup and delete before Linux 5.14; here there is no map at all."""
    monkeypatch.setattr(agent.counters, "_maps", {"pr_counts": -1})
    for _ in range(3):
        agent.watch.prune_counters()
    (told,) = [each.getMessage() for each in caplog.records]
    assert told.startswith("counters of nexuses that are gone stay: ")


def test_an_event_of_nobody_is_of_everybody(agent: Agent) -> None:
    """Of units that are gone too, and of those that the same batch makes known."""
    agent.put(register(1, 0x700))
    agent.pump()
    proposal = agent.tracker.propose([register(2, 0x701, unit=2)], frozenset())
    agent.tracker.add_told(proposal, Event(Command.LOST, problem=SIGN_UNSEEN))
    assert all(proposal.states[lu(unit)].doubted(Fact.GENERATION) for unit in (1, 2))


class TestGaps:
    """Records that never come: their numbers are missing."""

    @pytest.fixture(autouse=True)
    def no_losses_in_the_kernel(self, agent: Agent, monkeypatch) -> None:
        self.full = self.made = 0
        monkeypatch.setattr(agent.counters, "stat", self.stat)

    def stat(self, stat: Stat) -> int:
        return {Stat.RING_FULL: self.full, Stat.SEEN: self.made}[stat]

    def test_a_gap_puts_everybody_in_doubt(self, agent: Agent) -> None:
        agent.put(register(1, 0x700), register(5, 0x701, unit=2))
        agent.pump()
        agent.watch.look_for_gaps()
        assert not self.told(agent), "they may still come"
        agent.watch.look_for_gaps()
        assert [(event.lu, event.count) for event in self.told(agent)] == [(lu(1), 3), (lu(2), 3)]
        agent.watch.look_for_gaps()
        agent.watch.look_for_gaps()
        assert len(self.told(agent)) == 2

    def test_late_records_are_no_gap(self, agent: Agent) -> None:
        agent.put(register(1, 0x700), register(4, 0x703), register(2, 0x701))
        agent.pump()
        agent.watch.look_for_gaps()
        agent.put(register(3, 0x702))
        agent.pump()
        agent.watch.look_for_gaps()
        agent.watch.look_for_gaps()
        assert not self.told(agent)

    def test_what_found_no_room_is_no_gap(self, agent: Agent) -> None:
        agent.put(register(1, 0x700), register(5, 0x701))
        agent.pump()
        self.full = 3
        agent.watch.look_for_gaps()
        agent.watch.look_for_gaps()
        assert not self.told(agent)

    def test_a_restart_forgets_no_gap(self, agent: Agent, monkeypatch) -> None:
        agent.put(register(1, 0x700))
        agent.pump()
        agent.restart()
        monkeypatch.setattr(agent.counters, "stat", self.stat)
        agent.put(register(3, 0x701))
        agent.pump()
        agent.watch.look_for_gaps()
        agent.watch.look_for_gaps()
        assert [event.count for event in self.told(agent)] == [1]

    def test_a_store_that_is_older_than_the_ring(self, agent: Agent, monkeypatch) -> None:
        """Put back from a copy: what was stored since is gone, and nothing may come behind it."""
        agent.put(register(1, 0x700))
        agent.pump()
        agent.restart()
        monkeypatch.setattr(agent.counters, "stat", self.stat)
        self.made = 4
        agent.put(register(5, 0x701))  # not read yet: what is numbered may be in the ring
        agent.watch.look_for_gaps()
        agent.watch.look_for_gaps()
        assert not self.told(agent)
        agent.pump()
        self.made = 7
        agent.watch.look_for_gaps()
        agent.watch.look_for_gaps()
        assert [event.count for event in self.told(agent)] == [5]
        assert agent.tracker.states[lu(1)].doubts

    def told(self, agent: Agent) -> list[Event]:
        return [event for event in agent.store.events() if event.command is Command.LOST]


class TestTheFile:
    """A database that somebody takes away or overwrites while the agent has it open."""

    def test_deleted_or_replaced_ends_the_agent(self, agent: Agent, tmp_path: Path) -> None:
        agent.watch.look_at_store()
        agent.path.rename(tmp_path / "away")
        with pytest.raises(StoreError, match="deleted"):
            agent.watch.look_at_store()
        agent.path.write_bytes((tmp_path / "away").read_bytes())
        with pytest.raises(StoreError, match="replaced"):
            agent.watch.look_at_store()

    def test_overwritten_takes_nothing_more(self, agent: Agent) -> None:
        agent.put(register(1, 0x700))
        agent.pump()
        with open(agent.path, "r+b") as file:
            file.write(os.urandom(8192))
        agent.watch.look_at_store()
        assert "damaged" in agent.watch.stalled
        agent.put(register(2, 0x701))
        assert not agent.watch.pump()
        assert agent.producer.given_back < agent.producer.position
        agent.watch.look_at_store()
        assert "damaged" in agent.watch.stalled

    def test_a_page_behind_the_header_that_was_overwritten_is_found(self, agent: Agent) -> None:
        """The connection that writes has the page in its memory, and goes on."""
        for number in range(1, 200):
            agent.put(register(number, 0x700 + number))
            agent.pump()
        agent.store.close()
        agent.store = agent.watch._store = Store.open(agent.path)
        assert Store.damage(agent.path) is None
        size = agent.path.stat().st_size
        with open(agent.path, "r+b") as file:
            for page in range(4096, size, 4096):
                file.seek(page)
                file.write(os.urandom(64))
        agent.watch.look_at_store()
        assert not agent.watch.stalled, "the header is as it was"
        found = Store.damage(agent.path)
        assert found is not None
        agent.watch.damaged(found)
        assert "damaged" in agent.watch.stalled
        agent.put(register(200, 0x900))
        assert not agent.watch.pump()
        assert agent.producer.given_back < agent.producer.position


class TestUnitsThatAreGone:
    """After a month a unit without a path is forgotten; the history says when."""

    def test_they_are_forgotten_and_a_replay_agrees(self, agent: Agent, monkeypatch) -> None:
        agent.put(register(1, 0x700), register(2, 0x701, unit=2))
        agent.pump()
        agent.surroundings.rescan()
        agent.watch.meet()
        assert agent.tracker.states[lu(1)].gone_since is not None
        agent.watch.forget()
        assert lu(1) in agent.tracker.states
        monkeypatch.setattr("prtrace.agent.tracker.FORGET_AFTER_NS", -1)
        agent.watch.forget()
        assert agent.tracker.states == {} == agent.store.states()
        told = [event for event in agent.store.events() if event.command is Command.FORGOTTEN]
        assert [event.lu for event in told] == [lu(1), lu(2)]
        rebuilt = Rebuilt()
        for event in agent.store.events():
            rebuilt.add(event)
        assert rebuilt.states == {}
        agent.put(register(3, 0x702))
        agent.pump()
        assert agent.tracker.states[lu(1)].doubts, "as if it had never been seen"
        agent.restart()
        assert set(agent.tracker.states) == {lu(1)}


class TestIdleReadings:
    """Readings of the agent's own that told nothing new: counted."""

    @staticmethod
    def reading(seq: int, pid: int, unit: int = 1) -> bytes:
        return record(seq, *read_keys(1, 0x701), unit=unit, host=unit, pid=pid)

    def test_our_own_are_counted(self, agent: Agent) -> None:
        agent.put(register(1, 0x701))
        agent.put(*(self.reading(n, os.getpid()) for n in range(2, 40)))
        agent.pump()
        agent.put(*(self.reading(n, os.getpid()) for n in range(40, 60)))
        agent.pump()
        events = list(agent.store.events())
        assert len(events) <= 4
        assert sum(event.count for event in events) == 59
        assert events[-1].record == 59
        assert agent.store.size().events == len(events)

    def test_those_of_others_are_kept(self, agent: Agent) -> None:
        agent.put(register(1, 0x701), *(self.reading(n, 4711) for n in range(2, 12)))
        agent.pump()
        assert [event.record for event in agent.store.events()] == list(range(1, 12))

    def test_what_happens_in_between_ends_the_count(self, agent: Agent) -> None:
        me = os.getpid()
        agent.put(register(1, 0x701), self.reading(2, me), self.reading(3, me))
        agent.pump()
        before = len(list(agent.store.events()))
        agent.put(register(4, 0x701), self.reading(5, me), self.reading(6, me))
        agent.pump()
        assert len(list(agent.store.events())) >= before + 2


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("shim") / "failing.so"
    subprocess.run(
        ["clang", "-shared", "-fPIC", "-O1", "-o", made, HERE / "failing.c", "-ldl"], check=True
    )
    return made


def injected(shim: Path, tmp_path: Path, kind: str, samples: int, *more: str) -> int:
    """How many failures went wrong."""
    path = ":".join([str(HERE.parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", "agent.failing", kind, str(tmp_path), str(samples), *more],
        env=os.environ | {"LD_PRELOAD": str(shim), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout[-4000:], done.stderr[-4000:])
    return done.returncode


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["calls", "allocations", "memory"])
def test_some_failures_between_ring_and_store(shim: Path, tmp_path: Path, kind: str) -> None:
    assert injected(shim, tmp_path, kind, share(80)) == 0


@pytest.mark.timeout(300)
def test_an_agent_that_forgets_is_found_out(shim: Path, tmp_path: Path) -> None:
    assert 0 < injected(shim, tmp_path, "calls", share(80), "forgetful") <= 100
