"""From ring to store with one failure on the way, for every failure that there can be.

    LD_PRELOAD=failing.so python -m agent.failing KIND DIRECTORY SAMPLES [forgetful]

KIND: "calls" (system calls), "allocations" (SQLite's) or "memory" (Python's).  Ring, tracker,
surroundings and store are the real ones.  Each failure has a process of its own; what it
leaves is taken over by a successor without failures, as after a restart.  Prints what went
wrong: a record lost in silence, or a state that is not right and not in doubt.
"""

from __future__ import annotations

import _testcapi
import contextlib
import ctypes
import errno
import gc
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from agent.records import Producer, lu, pr_out, read_keys, record
from prtrace.agent.counters import Counters, Told
from prtrace.agent.surroundings import Surroundings
from prtrace.agent.tracker import Tracker
from prtrace.agent.watch import Watch
from prtrace.linux.process import start_of
from prtrace.probe.misses import Misses
from prtrace.probe.ring import Ring
from prtrace.state.event import Command
from prtrace.state.unit import LuState
from prtrace.store.database import Store

EPOCH = "0123456789abcdef"
SIZE = 1 << 16
MOST_PUMPS = 100
CALLS, ALLOCATIONS = 1, 2
"""As failing.c has them."""
NOTICED = "noticed;"


def records() -> list[bytes]:
    """Registrations, reservations and readings of two units, one unit that only sysfs knows."""
    me = os.getppid()
    by = {"pid": me, "issuer_start_ns": start_of(me) or 0}
    made = (
        (pr_out(0, 0, 0xA1), {"unit": 1}),
        (pr_out(1, 0xA1, 0, 5), {"unit": 1}),
        (pr_out(0, 0, 0xB1), {"unit": 2, "host": 2}),
        (pr_out(0, 0, 0xC1), {"unit": None, "host": 7}),
        (read_keys(1, 0xB1), {"unit": 2, "host": 2}),
        (pr_out(6, 0, 0xA2), {"unit": 1}),
        (pr_out(3, 0xB1, 0), {"unit": 2, "host": 2}),
        (read_keys(9, *range(1, 900)), {"unit": 3, "host": 3}),
    )
    return [
        record(number, cdb, data, **by, **more)
        for number, ((cdb, data), more) in enumerate(made, 1)
    ]


class Agent:
    """What lies between the ring and the store, put together as the agent does."""

    def __init__(self, ring: Ring, store: Store) -> None:
        surroundings = Surroundings()
        told = Told.from_meta(EPOCH, store.meta())
        self.tracker = Tracker(EPOCH, store.states(), surroundings)
        counters = Counters({}, EPOCH, Misses({}), told, surroundings)
        self.watch = Watch(ring, ring, self.tracker, counters, store, lambda *_: None)

    def take_all(self) -> None:
        """Everything, as far as it goes; a store that takes nothing is tried again."""
        for _ in range(MOST_PUMPS):
            if not self.watch.pump() and not self.watch.stalled:
                return


@contextlib.contextmanager
def put_together(producer: Producer, directory: Path) -> Iterator[tuple[Agent, Store]]:
    with Ring(producer.fd, SIZE) as ring, Store.open(directory / "prtrace.db") as store:
        if sys.argv[4:] == ["forgetful"]:
            ring.rewind = lambda: None  # an agent that loses what it has read
        yield Agent(ring, store), store


def attempt(directory: Path, failing: Failing, at: int) -> str:
    """One failure, its successor, and what became of the records; "" where all is well."""
    producer = Producer(SIZE)
    sent = records()
    for raw in sent:
        producer.put(raw)
    noticed = Noticed()
    logging.getLogger("prtrace").addHandler(noticed)
    with put_together(producer, directory) as (agent, _):
        failing.fail(at)
        try:
            agent.take_all()
        except Exception as error:  # the agent ends; its successor reads what is in the ring
            noticed.said.append(repr(error))
        finally:
            failing.never()
    with put_together(producer, directory) as (agent, store):
        agent.take_all()
        return NOTICED * bool(noticed.said) + problem(agent, store, producer, sent)


class Noticed(logging.Handler):
    """What the agent logged: a failure that changed nothing proves nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def problem(agent: Agent, store: Store, producer: Producer, sent: list[bytes]) -> str:
    """What is wrong after all; "" for nothing."""
    events = list(store.events())
    aside = {each.raw for each in store.aside()}
    taken = {event.record for event in events if event.command is not Command.LOST}
    lost = {event.record: event for event in events if event.command is Command.LOST}
    for number, raw in enumerate(sent, 1):
        if number in taken:
            continue
        if number not in lost or raw not in aside:
            return f"record {number} is lost in silence"
    states = store.states()
    doubted = {event.lu for event in events if event.command is Command.LOST}
    for unit, expected in EXPECTED.items():
        if unit in doubted:
            if not states[unit].doubts:
                return f"{unit} is not in doubt"
        elif facts(states[unit]) != facts(expected):
            return f"{unit}: {facts(states[unit])}, expected {facts(expected)}"
    if agent.tracker.states != states:
        return "what the agent knows is not what the store has"
    if producer.given_back != producer.position:
        return "records are left in the ring"
    store.verify()
    return ""


def facts(state: LuState) -> object:
    keys = {nexus: each.key for nexus, each in state.registrations.items()}
    held = state.reservation and (state.reservation.type, state.reservation.holder)
    return keys, held, state.generation, {doubt.what for doubt in state.doubts}


EXPECTED: dict[str, LuState] = {}


class Failing:
    """How one kind of failure is made to happen."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._library = ctypes.CDLL(None)
        self._library.fail_never.restype = ctypes.c_long
        self._of_sqlite = ctypes.CDLL("libsqlite3.so.0").sqlite3_malloc

    def fail(self, at: int) -> None:
        """From now on, the at-th fails."""
        if self._kind == "memory":
            _testcapi.set_nomemory(at, at + 1)
        elif self._kind == "calls":
            code = (errno.EMFILE, errno.EIO, errno.ENOSPC)[at % 3]
            self._library.fail_at(CALLS, at, code, self._of_sqlite)
        else:
            self._library.fail_at(ALLOCATIONS, at, errno.ENOMEM, self._of_sqlite)

    def never(self) -> int:
        """No more failures; how many could have been since fail()."""
        if self._kind == "memory":
            _testcapi.remove_mem_hooks()
            return 0
        return int(self._library.fail_never())


def learn(failing: Failing, base: Path) -> int:
    """Take the states of a run without failures as the right ones; how many there can be."""
    producer = Producer(SIZE)
    for raw in records():
        producer.put(raw)
    with (
        tempfile.TemporaryDirectory(dir=base) as quiet,
        put_together(producer, Path(quiet)) as (agent, store),
    ):
        failing.fail(1 << 30)
        agent.take_all()
        calls = failing.never()
        EXPECTED.update(store.states())
        assert [each.record for each in store.events()] == list(range(1, 9))
        assert not store.aside()
    assert EXPECTED[lu(1)].registrations["1:0:0:0"].key == 0xA2
    return calls or allocations(base)


def allocations(base: Path) -> int:
    """About how often Python asks for memory between ring and store."""
    most = 1024
    while attempt_in_child(base, Failing("memory"), most)[1]:
        most *= 2
    return most


def attempt_in_child(base: Path, failing: Failing, at: int) -> tuple[str, bool]:
    """What is wrong after the at-th failure, and whether the agent noticed it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with tempfile.TemporaryDirectory(dir=base) as directory:
                answer = attempt(Path(directory), failing, at)
        except BaseException:  # the parent is to hear of it, whatever it is
            answer = traceback.format_exc()
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as answers:
        answer = answers.read()
    os.waitpid(child, 0)
    return answer.removeprefix(NOTICED), answer.startswith(NOTICED)


def main(kind: str, base: Path, samples: int) -> int:
    """Every failure, or so many of them in equal distances; returns how many went wrong."""
    logging.getLogger("prtrace").propagate = False
    gc.disable()
    failing = Failing(kind)
    most = learn(failing, base)
    wrong = noticed = 0
    chosen = range(1, most + 1, max(1, most // samples) if samples else 1)
    for at in chosen:
        answer, was_noticed = attempt_in_child(base, failing, at)
        noticed += was_noticed
        if answer:
            wrong += 1
            print(f"{kind} {at}: {answer}")
    print(f"{kind}: {len(chosen)} of {most} failures, {noticed} were noticed, {wrong} wrong")
    return min(wrong, 100) if noticed else 101


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
