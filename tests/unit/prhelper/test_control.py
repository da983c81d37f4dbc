"""The control socket: holds, watches, and what is no sense."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Iterator

import pytest
from labkit import pace

from prtrace.prhelper import control as control_module
from prtrace.prhelper.control import Control
from prtrace.prhelper.gate import Gate
from prtrace.prhelper.protocol import Response
from prtrace.prhelper.sparing_log import SparingLog

from .test_gate import VM1, passes
from .test_guard import pr_out

gate = Gate()


class Talk:
    def __init__(self, owner: int = os.geteuid()) -> None:
        self.sock, other = socket.socketpair()
        self.sock.settimeout(pace.limit(30))
        self._lines = self.sock.makefile("rb")
        Control(gate, owner, SparingLog(logging.getLogger("test"))).welcome(other)

    def say(self, **what: object) -> None:
        self.sock.sendall(json.dumps(what).encode() + b"\n")

    def hear(self) -> dict[str, object]:
        return json.loads(self._lines.readline())

    def close(self) -> None:
        self._lines.close()
        self.sock.close()


@pytest.fixture
def talk() -> Iterator[Talk]:
    talk = Talk()
    yield talk
    talk.close()


def test_a_held_guest_waits_until_it_is_released(talk: Talk) -> None:
    talk.say(do="hold", guest="vm1", seconds=30)
    assert talk.hear() == {"hold": 1, "held": True, "clients": []}
    assert passes(gate, VM1, 0.1) is None
    talk.say(do="release", hold=1)
    assert talk.hear() == {"hold": 1, "released": True}
    assert passes(gate, VM1, 30) is False
    talk.say(do="release", hold=1)
    assert talk.hear() == {"error": "there is no hold 1"}


def test_who_is_meant_is_told(talk: Talk) -> None:
    """A hold of a name that nobody bears keeps nobody back."""
    for _ in range(2):
        gate.come(VM1)
    for guest, clients in (("vm1", [VM1.pid]), ("tpyo", [])):
        talk.say(do="hold", guest=guest, seconds=1)
        assert talk.hear()["clients"] == clients
        talk.say(do="watch", guest=guest)
        assert talk.hear()["clients"] == clients
    gate.go(VM1)
    talk.say(do="watch", pid=VM1.pid)
    assert talk.hear()["clients"] == [VM1.pid]
    gate.go(VM1)
    talk.say(do="watch", pid=VM1.pid)
    assert talk.hear()["clients"] == []


def test_the_end_of_the_connection_ends_its_holds(talk: Talk) -> None:
    talk.say(do="hold", pid=11, seconds=60)
    assert talk.hear()["held"] is True
    talk.close()
    assert passes(gate, VM1, 30) is not None


def test_a_watch_is_told_before_the_guest(talk: Talk) -> None:
    talk.say(do="watch", guest="vm1")
    assert talk.hear() == {"watch": 1, "clients": []}
    guest = threading.Thread(target=gate.tell, args=(VM1, pr_out(0), Response(0)))
    guest.start()
    heard = talk.hear()
    assert heard == {"watch": 1, "command": 2, "pid": 11, "cdb": pr_out(0).cdb.hex(),
                     "parameter": pr_out(0).parameter.hex(), "status": 0}  # fmt: skip
    guest.join(0.1)
    assert guest.is_alive()
    talk.say(do="answer", command=2)
    guest.join(pace.limit(30))
    assert not guest.is_alive()


def test_who_does_not_answer_delays_the_guest_for_a_while_only(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_module, "ANSWER_SECONDS", 0.1)
    talk.say(do="watch", guest="vm1")
    talk.hear()
    gate.tell(VM1, pr_out(0), Response(0))


def test_who_leaves_delays_nobody(talk: Talk) -> None:
    talk.say(do="watch", guest="vm1")
    talk.hear()
    guest = threading.Thread(target=gate.tell, args=(VM1, pr_out(0), Response(0)))
    guest.start()
    talk.hear()
    talk.close()
    guest.join(pace.limit(30))
    assert not guest.is_alive()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"x", "not JSON"),
        (b"[" * 4000, "not JSON"),
        (b"3", "not a JSON object"),
        (b"{}", "none of hold, release, watch, answer"),
        (b'{"do": "hold"}', 'either "guest"'),
        (b'{"do": "hold", "guest": "a", "pid": 3, "seconds": 1}', 'either "guest"'),
        (b'{"do": "hold", "guest": 3, "seconds": 1}', 'either "guest"'),
        (b'{"do": "hold", "guest": "a"}', '"seconds" must be'),
        (b'{"do": "hold", "guest": "a", "seconds": 61}', '"seconds" must be'),
        (b'{"do": "hold", "guest": "a", "seconds": true}', '"seconds" must be'),
        (b'{"do": "hold", "guest": "a", "seconds": 1e400}', '"seconds" must be'),
        (b'{"do": "release"}', "None is not a number"),
        (b'{"do": "answer", "command": "x"}', "'x' is not a number"),
    ],
)
def test_a_line_that_makes_no_sense_is_answered_and_the_next_is_read(
    talk: Talk, line: bytes, words: str
) -> None:
    talk.sock.sendall(line + b"\n")
    assert words in str(talk.hear()["error"])
    talk.say(do="answer", command=99)
    talk.say(do="watch", guest="x")
    assert "watch" in talk.hear()


def test_a_line_without_end_is_refused(talk: Talk) -> None:
    talk.sock.sendall(b"x" * (1 << 20))
    assert "at most 4096 bytes" in str(talk.hear()["error"])


def test_one_connection_has_at_most_64_holds_and_watches(talk: Talk) -> None:
    for _ in range(64):
        talk.say(do="watch", guest="x")
        talk.hear()
    talk.say(do="watch", guest="x")
    assert "at most 64" in str(talk.hear()["error"])
