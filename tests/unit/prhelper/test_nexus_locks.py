"""Whoever has a key in common waits; whoever has none does not; nothing is kept."""

from __future__ import annotations

import random
import threading

from prtrace.prhelper.nexus_locks import NexusLocks


def test_alone_nobody_waits() -> None:
    locks = NexusLocks()
    assert not locks.acquire(("a", "b"))
    assert not locks.acquire(("c",))
    locks.release(("c",))
    locks.release(("a", "b"))
    assert len(locks) == 0


def test_a_common_key_excludes() -> None:
    locks, order = NexusLocks(), []
    locks.acquire(("b", "c"))

    def other() -> None:
        assert locks.acquire(("a", "b"))
        order.append("other")
        locks.release(("a", "b"))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    order.append("first")
    locks.release(("b", "c"))
    thread.join(30)
    assert order == ["first", "other"]
    assert len(locks) == 0


def test_many_threads_and_no_deadlock() -> None:
    """Never two inside with a key in common, and all come through."""
    locks, inside, guard = NexusLocks(), set(), threading.Lock()
    faults = []

    def work(seed: int) -> None:
        r = random.Random(seed)
        for _ in range(200):
            keys = tuple(sorted(r.sample("abcdef", r.randrange(1, 4))))
            locks.acquire(keys)
            with guard:
                faults.extend(inside & set(keys))
                inside.update(keys)
            with guard:
                inside.difference_update(keys)
            locks.release(keys)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not faults
    assert len(locks) == 0
