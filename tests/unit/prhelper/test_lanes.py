"""Jobs on their device's thread: in order, apart from others, and on after a fault."""

from __future__ import annotations

import queue
import signal
import threading

import pytest

from prtrace.prhelper.lanes import Lanes

SECONDS = 20


def test_one_device_keeps_its_order_and_waits_for_nobody_else() -> None:
    lanes, done = Lanes(2), queue.SimpleQueue[str]()
    stuck = threading.Event()
    assert lanes.submit("a", lambda: done.put("a" if stuck.wait(SECONDS) else ""))
    assert lanes.submit("a", lambda: done.put("b"))
    assert lanes.submit("c", lambda: done.put("c"))
    assert done.get(timeout=SECONDS) == "c"
    assert not lanes.submit("d", lambda: None), "two devices at a time"
    stuck.set()
    assert [done.get(timeout=SECONDS) for _ in range(2)] == ["a", "b"]


def test_no_signal_ends_a_command() -> None:
    lanes, done = Lanes(1), queue.SimpleQueue[set[signal.Signals]]()
    lanes.submit("a", lambda: done.put(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    wanted = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    assert done.get(timeout=SECONDS) == wanted


def test_a_fault_does_not_end_the_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes, done = Lanes(1), queue.SimpleQueue[str]()
    told = queue.SimpleQueue[threading.ExceptHookArgs]()
    monkeypatch.setattr(threading, "excepthook", told.put)
    assert lanes.submit("a", lambda: done.put(str(1 // 0)))
    assert lanes.submit("a", lambda: done.put("next"))
    assert done.get(timeout=SECONDS) == "next"
    assert told.get(timeout=SECONDS).exc_type is ZeroDivisionError
