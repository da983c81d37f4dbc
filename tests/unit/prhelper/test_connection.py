"""A conversation over a real socket: pieces, deadlines, faults, and that nothing stays open."""

from __future__ import annotations

import array
import contextlib
import logging
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from labkit import pace

from prtrace.prhelper import connection as module
from prtrace.prhelper.broker import Broker
from prtrace.prhelper.client import HelperClient
from prtrace.prhelper.connection import HelperConnection, Stop
from prtrace.prhelper.execution import DirectExecution
from prtrace.prhelper.identity import Vouched
from prtrace.prhelper.policy import Policy
from prtrace.prhelper.sparing_log import SparingLog
from prtrace.prhelper.watch import NexusWatch

CLIENT = HelperClient(1, 0, 1, "", Vouched("process:1@1", "process"))
READ_KEYS = bytes((0x5E, 0, 0, 0, 0, 0, 0, 0, 255)) + bytes(7)
REGISTER = bytes((0x5F, 0, 0, 0, 0, 0, 0, 0, 24)) + bytes(7)
NULL = os.open("/dev/null", os.O_RDWR)
IO_ERROR = bytes((0, 0, 0, 2, 0, 0, 0, 0, 0x70, 0, 0xB))


def broker() -> Broker:
    sparing = SparingLog(logging.getLogger("test"))
    watch = NexusWatch(lambda _: True, None, sparing)
    return Broker(Policy(), None, watch, DirectExecution, sparing)


class Served:
    """A connection on its thread, and the client's end of it."""

    def __init__(self, with_: Broker | None = None, stop: Stop | None = None) -> None:
        self.sock, other = socket.socketpair()
        self.sock.settimeout(pace.limit(30))
        self.before = len(os.listdir("/proc/self/fd"))
        made = HelperConnection(
            with_ or broker(), other, CLIENT, stop or Stop(),
            SparingLog(logging.getLogger("test")),
        )  # fmt: skip
        self.thread = threading.Thread(target=made.serve, daemon=True)
        self.thread.start()
        assert self.sock.recv(4) == bytes((0, 0, 0, 1))

    def send_late(self, data: bytes, *fds: int) -> None:
        """Send to who may have closed the connection by now."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send(data, *fds)

    def send(self, data: bytes, *fds: int) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([data], rights)

    def reply(self) -> bytes:
        return self.sock.recv(104, socket.MSG_WAITALL)

    def ended(self) -> bool:
        """Whether the connection is closed and all of it released."""
        try:
            closed = self.sock.recv(1) == b""
        except ConnectionResetError:  # what was sent last was not read
            closed = True
        self.thread.join(pace.limit(30))
        self.sock.close()
        # Both ends were open when they were counted.
        return closed and len(os.listdir("/proc/self/fd")) <= self.before - 2


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.sock.close()
    served.thread.join(pace.limit(30))


def test_a_request_in_many_pieces_is_answered_as_in_one(served: Served) -> None:
    served.send(bytes(4))
    served.send(READ_KEYS, NULL)
    assert served.reply()[: len(IO_ERROR)] == IO_ERROR
    for place in range(15):
        served.send(READ_KEYS[place : place + 1])
    served.send(READ_KEYS[15:], NULL)
    assert served.reply()[: len(IO_ERROR)] == IO_ERROR
    served.send(REGISTER, NULL)
    for _ in range(24):
        served.send(b"\0", NULL)
    assert served.reply()[: len(IO_ERROR)] == IO_ERROR


@pytest.mark.parametrize(
    "parts",
    [
        [(bytes(4), ()), (READ_KEYS, ())],
        [(bytes(4), ()), (READ_KEYS, (NULL, NULL))],
        [(bytes(4), ()), (READ_KEYS, (NULL,) * 9)],
        [(bytes(4), ()), (READ_KEYS[:8], (NULL,)), (READ_KEYS[8:], (NULL,))],
        [(bytes(4), ()), (b"\x12" + READ_KEYS[1:], (NULL,))],
        [(bytes(4), ()), (READ_KEYS[:7] + b"\xff\xff" + READ_KEYS[9:], (NULL,))],
        [(b"\xff\xff\xff\xff", ())],
    ],
)
def test_what_ends_a_connection(served: Served, parts: list[Any]) -> None:
    for data, fds in parts:
        served.send(data, *fds)
    assert served.ended()


def test_a_client_that_leaves_ends_the_connection(served: Served) -> None:
    served.send(bytes(4))
    served.send(READ_KEYS[:5], NULL)
    served.sock.shutdown(socket.SHUT_WR)
    assert served.ended()


def test_a_greeting_and_a_request_have_a_deadline_and_an_idle_client_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as brief:
        brief.setattr(module, "GREETING_SECONDS", 0.05)
        assert Served().ended()
    monkeypatch.setattr(module, "MESSAGE_SECONDS", 0.05)
    for parts in ([READ_KEYS[:15]], [REGISTER], [REGISTER, bytes(23)]):
        late = Served()
        late.send(bytes(4))
        for part in parts:
            late.send_late(part, NULL)
        assert late.ended()
    idle = Served()
    idle.send(bytes(4))
    idle.thread.join(0.2)
    idle.send(READ_KEYS, NULL)
    assert idle.reply()
    idle.sock.close()


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, IndexError, RecursionError])
def test_a_fault_of_the_proxy_ends_the_connection(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The client must not wait for ever for an answer that nobody will give."""

    def fault(*_: object) -> None:
        raise error("of the test")

    monkeypatch.setattr(module.Inspector, "node_of", fault)
    served = Served()
    served.send(bytes(4))
    served.send(READ_KEYS, NULL)
    assert served.ended()
    assert "by a fault of prtrace" in caplog.text
    served.sock.close()


def test_no_command_begins_when_the_proxy_stops() -> None:
    stop = Stop()
    served = Served(stop=stop)
    served.send(bytes(4))
    stop.stopping = True
    disk = os.open(f"/dev/{min(os.listdir('/sys/block'))}", os.O_RDONLY | os.O_NONBLOCK)
    served.send(READ_KEYS, disk)
    os.close(disk)
    assert served.ended()
