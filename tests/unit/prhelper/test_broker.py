"""The order of things on a request's way; what executes is scripted, the rest is real."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from labkit import pace

from prtrace.prhelper.answer import check
from prtrace.prhelper.attribution_log import NAME, AttributionLog
from prtrace.prhelper.broker import Broker
from prtrace.prhelper.client import HelperClient
from prtrace.prhelper.descriptor import Node
from prtrace.prhelper.execution import NotSentError, OutcomeUnknownError
from prtrace.prhelper.gate import Named
from prtrace.prhelper.identity import Vouched
from prtrace.prhelper.policy import Policy
from prtrace.prhelper.protocol import Request, Response
from prtrace.prhelper.sparing_log import SparingLog
from prtrace.prhelper.watch import NexusWatch

from .test_guard import pr_out

DISK = Node("8:0", True, nexuses=("0:0:1:0",), keys=("0:0:1:0#77",))
SG = Node("21:0", False, nexuses=("0:0:1:0",), keys=("0:0:1:0#77",))
MAP = Node("254:0", True, True, ("0:0:1:0", "1:0:1:0"), ("0:0:1:0#77", "1:0:1:0#78"))
OTHER = Node("8:16", True, nexuses=("0:0:1:1",), keys=("0:0:1:1#79",))
READ_KEYS = Request(bytes((0x5E, 0, 0, 0, 0, 0, 0, 0, 8)) + bytes(7), b"", 8)
CAPABILITIES = Request(bytes((0x5E, 2, 0, 0, 0, 0, 0, 0, 8)) + bytes(7), b"", 8)
LIO = bytes.fromhex("00081d90ea010000")


def client(number: int) -> HelperClient:
    name = f"vm{number}"
    return HelperClient(number, 0, number, "", Vouched(f"machine:{name}", "machine", (name,)))


class Scripted:
    """Executes by the bench's function."""

    def __init__(self, bench: Bench, *, own: bool) -> None:
        self.own = own
        self._bench = bench
        self.lost = False

    def prepare(self) -> int:
        if self.lost:
            raise NotSentError("no helper")
        return 7

    def execute(self, request: Request, fd: int, node: Node) -> Response:
        return self._bench.act(request, node)

    def close(self) -> None:
        return


class Bench:
    def __init__(self, folder: Path, policy: str = "", *, own: bool = True) -> None:
        self.act: Callable[[Request, Node], Response] = lambda *_: Response(0)
        self.folder = folder
        sparing = SparingLog(logging.getLogger("test"))
        self.made: list[Scripted] = []

        def connect() -> Scripted:
            self.made.append(Scripted(self, own=own))
            return self.made[-1]

        self.broker = Broker(
            Policy.parse(policy), AttributionLog(folder, sparing),
            NexusWatch(lambda _: True, None, sparing), connect, sparing,
        )  # fmt: skip

    def ask(self, number: int, request: Request, node: Node = DISK) -> Response | None:
        told: list[Response] = []
        requester = self.broker.requester(client(number), lambda: False)
        answered = self.broker.carry_out(requester, request, 0, node, told.append)
        assert answered is bool(told)
        return told[0] if told else None

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self.folder / NAME).read_text().splitlines()]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_read_is_attributed_and_told(bench: Bench) -> None:
    bench.act = lambda *_: Response(0, b"", b"12345678")
    assert bench.ask(1, READ_KEYS) == Response(0, b"", b"12345678")
    begin, end = bench.lines()
    assert (begin["guest"], begin["vouched_by"], begin["issued"]) == ("vm1", "machine", True)
    assert (end["outcome"], end["token"]) == ("00", begin["token"])


def test_capabilities_are_masked_and_both_are_kept(bench: Bench) -> None:
    bench.act = lambda *_: Response(0, b"", LIO)
    told = bench.ask(1, CAPABILITIES)
    assert told is not None
    assert told.data == bytes.fromhex("00081190ea010000")
    assert (bench.lines()[1]["shown"], bench.lines()[1]["answered"]) == (
        told.data.hex(), LIO.hex(),
    )  # fmt: skip


def test_what_is_hidden_is_never_sent(bench: Bench) -> None:
    bench.act = lambda *_: pytest.fail("it was sent")
    told = bench.ask(1, pr_out(7))
    assert told is not None
    assert told.sense[12] == 0x24
    assert bench.lines()[0]["issued"] is False


@pytest.mark.parametrize("node", [SG, MAP, DISK])
def test_another_guest_is_refused_on_every_node_of_the_nexus(tmp_path: Path, node: Node) -> None:
    bench = Bench(tmp_path, 'guard = "refuse"')
    assert bench.ask(1, pr_out(0)) == Response(0)
    told = bench.ask(2, pr_out(0), node)
    assert told is not None
    assert told.sense[12:14] == b"\x55\x04"
    assert bench.ask(2, pr_out(0), OTHER) == Response(0)
    assert bench.ask(2, READ_KEYS, node) == Response(0), "reading changes nothing"


def test_two_guests_at_once_are_never_both_let_in(tmp_path: Path) -> None:
    """The first command is still under way when the second comes by another node."""
    bench = Bench(tmp_path, 'guard = "refuse"')
    entered, go = threading.Event(), threading.Event()

    def slow(*_: object) -> Response:
        entered.set()
        go.wait(pace.limit(30))
        return Response(0)

    bench.act = slow
    told: list[Response | None] = []
    first = threading.Thread(target=lambda: told.append(bench.ask(1, pr_out(0))))
    first.start()
    entered.wait(pace.limit(30))
    second = threading.Thread(target=lambda: told.append(bench.ask(2, pr_out(0), SG)))
    second.start()
    second.join(0.1)
    go.set()
    for thread in (first, second):
        thread.join(pace.limit(30))
    assert sorted(each.status for each in told if each) == [0, 2]


@pytest.mark.parametrize("answer", [Response(0x18), check((5, 0x24, 0))])
def test_a_use_that_failed_is_undone(tmp_path: Path, answer: Response) -> None:
    bench = Bench(tmp_path, 'guard = "refuse"')
    bench.act = lambda *_: answer
    assert bench.ask(1, pr_out(0)) == answer
    bench.act = lambda *_: Response(0)
    assert bench.ask(2, pr_out(0)) == Response(0)


def test_an_unknown_outcome_ends_the_connection_and_keeps_the_use(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 'guard = "refuse"', own=False)

    def dies(*_: object) -> Response:
        raise OutcomeUnknownError("the helper died")

    bench.act = dies
    assert bench.ask(1, pr_out(0)) is None
    assert bench.lines()[-1]["outcome"] == "unknown"
    bench.act = lambda *_: Response(0)
    told = bench.ask(2, pr_out(0))
    assert told is not None
    assert told.status == 2


def test_where_the_helper_is_gone_nothing_happened_and_the_guard_knows_no_use(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, 'guard = "refuse"', own=False)
    requester = bench.broker.requester(client(1), lambda: False)
    bench.made[0].lost = True
    assert not bench.broker.carry_out(requester, pr_out(0), 0, DISK, lambda _: None)
    assert bench.lines()[-1]["outcome"] == "not sent"
    assert bench.ask(2, pr_out(0)) == Response(0), "nothing happened, so nothing is used"


def test_a_guest_that_left_while_it_waited_is_not_served(bench: Bench) -> None:
    """Its command may be undone elsewhere by the time the device is free."""
    bench.broker._locks.acquire(DISK.keys)
    gone = bench.broker.requester(client(1), lambda: True)
    done: list[bool] = []
    bench.act = lambda *_: pytest.fail("it was sent")
    thread = threading.Thread(
        target=lambda: done.append(
            bench.broker.carry_out(gone, pr_out(0), 0, DISK, lambda _: None)
        )
    )
    thread.start()
    thread.join(0.1)
    bench.broker._locks.release(DISK.keys)
    thread.join(pace.limit(30))
    assert done == [False]


def test_a_held_guest_is_not_served_and_may_read(bench: Bench) -> None:
    hold, _ = bench.broker.gate.hold(Named("vm1"), 30)
    assert bench.ask(1, READ_KEYS) == Response(0)
    assert bench.ask(2, pr_out(0), OTHER) == Response(0)
    told: list[Response | None] = []
    thread = threading.Thread(target=lambda: told.append(bench.ask(1, pr_out(0))))
    thread.start()
    thread.join(0.1)
    assert not told
    bench.broker.gate.release(hold)
    thread.join(pace.limit(30))
    assert told == [Response(0)]


def test_a_read_does_not_wait_for_a_change_that_hangs(bench: Bench) -> None:
    bench.broker._locks.acquire(DISK.keys)
    assert bench.ask(1, READ_KEYS) == Response(0)
    bench.broker._locks.release(DISK.keys)


def test_a_policy_that_is_replaced_holds_at_once(bench: Bench) -> None:
    requester = bench.broker.requester(client(1), lambda: False)
    told: list[Response] = []
    bench.act = lambda *_: Response(0, b"", LIO)
    for policy in ("", "hide = false"):
        bench.broker.policy = Policy.parse(policy)
        bench.broker.carry_out(requester, CAPABILITIES, 0, DISK, told.append)
    assert [each.data[2] for each in told] == [0x11, 0x1D]


def test_an_answer_that_nobody_takes_is_attributed_all_the_same(bench: Bench) -> None:
    def gone(_: Response) -> None:
        raise BrokenPipeError

    requester = bench.broker.requester(client(1), lambda: False)
    with pytest.raises(BrokenPipeError):
        bench.broker.carry_out(requester, pr_out(0), 0, DISK, gone)
    assert bench.lines()[-1]["outcome"] == "00"


def test_a_command_without_an_answer_is_told_to_the_watch_and_holds_up_a_hold(
    bench: Bench,
) -> None:
    def lost(*_: object) -> Response:
        raise OutcomeUnknownError("no answer in time")

    told: list[Response | None] = []
    bench.act = lost
    bench.broker.gate.watch(Named("vm1"), lambda _, __, response: told.append(response))
    assert bench.ask(1, pr_out(0)) is None
    assert told == [None]
    assert bench.broker.gate.hold(Named("vm1"), 0.05)[1] is False
