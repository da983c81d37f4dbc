"""The processes that parse for the mover: real ones, honest and taken over."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from labkit import pace
from labkit.waiting import await_that

from prtrace.agent import parser
from prtrace.agent.child import Child
from prtrace.agent.parser import Parsers
from prtrace.errors import DeviceError, MalformedError
from prtrace.model import LocalNexus
from prtrace.scsi import facts
from prtrace.scsi.designator import (
    Association,
    Designator,
    IdentificationPage,
    Kind,
    PageNames,
    page_names,
)
from prtrace.scsi.facts import HEADER
from prtrace.scsi.reply import FullStatusDescriptor, ReadFullStatus, ReadKeys
from prtrace.scsi.sense import Sense
from prtrace.scsi.transportid import IscsiPort, SasPort

KEYS = ReadKeys.of(7, 0x4B4B, 0x9999)
PATIENCE = pace.limit(20)

ON = tuple(LocalNexus(f"{unit}:0:0:0", f"unit {unit}") for unit in range(40))
"""A path of each of many units."""
OTHER = LocalNexus("99:0:0:0", ON[0].lu)
"""Another path of the first one."""

Answering = Callable[[int, bytes], bytes]


_MADE: list[Parsers] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Close the sockets of parsers that wait for another verb: the warning that one was left open
    comes when the garbage is collected, in some other test."""
    yield
    while _MADE:
        for each in _MADE.pop()._believed.values():
            each.end()


def asking(link: socket.socket, patience: float) -> Parsers:
    """The mover's side of the process that forks parsers."""
    _MADE.append(Parsers(link, patience))
    return _MADE[-1]


@contextmanager
def parsers(patience: float = PATIENCE) -> Iterator[Parsers]:
    """The process that forks, as the agent starts it, with what is patched now."""
    child = Child.start("parser", parser.serve, kept=())
    try:
        yield asking(child.link, patience)
    finally:
        child.end()


@pytest.fixture
def taken_over(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answering], None]:
    """Have what a parser does, once it is confined and asked, replaced."""
    return lambda instead: monkeypatch.setattr(facts, "answer_to", instead)


def children_of(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children()]


def test_what_the_bytes_say() -> None:
    with parsers() as given, given.of_verb() as parser_of:
        for path in (ON[1], ON[2], ON[1]):
            assert parser_of(path).keys(KEYS.build()) == KEYS
        assert parser_of(ON[1]).sense(Sense(0x70, 6, 0x2A, 3).build()).attention
        with pytest.raises(MalformedError, match="ADDITIONAL LENGTH 9"):
            parser_of(ON[2]).keys(bytes(7) + b"\x09")
        # What is malformed is an answer: the next question is answered, too.
        assert parser_of(ON[2]).keys(KEYS.build()) == KEYS


def test_the_longest_replies_have_room() -> None:
    name = IscsiPort(b"iqn.2026-11.example:" + b"x" * 20, 0x23D000001)
    some = FullStatusDescriptor(7, 1, name)
    many = ReadFullStatus.of(9, *[some] * (65_000 // len(some.build())))
    few = ReadFullStatus.of(9, *[FullStatusDescriptor(7, 1, SasPort(5))] * 1350)
    with parsers() as given, given.of_verb() as parser_of:
        for number in range(3):
            for reply in (many, few):
                assert parser_of(ON[number]).full_status(reply.build()) == reply


def test_each_unit_has_one_and_they_end_with_the_verb() -> None:
    child = Child.start("parser", parser.serve, kept=())
    given = asking(child.link, PATIENCE)
    with given.of_verb() as parser_of:
        for path in (*ON[:3], OTHER):
            assert parser_of(path).keys(KEYS.build()) == KEYS
        begun = children_of(child.pid)
        assert len(begun) == 3
    await_that("they are over", lambda: not children_of(child.pid))
    with given.of_verb() as parser_of:
        parser_of(ON[0])
        child.end()
    assert not any(Path(f"/proc/{pid}").exists() for pid in begun)


def asked(given: Parsers, paths: Iterable[LocalNexus], kept: bool | None) -> None:
    with given.of_verb(kept) as parser_of:
        for path in paths:
            assert parser_of(path).keys(KEYS.build()) == KEYS


def test_the_next_verb_of_a_move_finds_its_parsers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest is paused while Load runs: it forks nothing."""
    child = Child.start("parser", parser.serve, kept=())
    given = asking(child.link, PATIENCE)
    asked(given, ON[:3], True)
    begun = sorted(children_of(child.pid))
    assert len(begun) == 3
    # A Check of one of the units says nothing of how long they are wanted.
    asked(given, (ON[0], ON[3]), None)
    await_that("that of the Check alone is over", lambda: sorted(children_of(child.pid)) == begun)
    with monkeypatch.context() as no_forks:
        no_forks.setattr(given, "begun", None)
        asked(given, ON[:3], False)
    await_that("they are over", lambda: not children_of(child.pid))
    # A move that goes no further.
    asked(given, ON[:3], True)
    monkeypatch.setattr(parser, "_KEPT_S", 0)
    asked(given, (), None)
    await_that("they are over", lambda: not children_of(child.pid))
    child.end()


def test_one_that_ended_while_it_waited_is_replaced() -> None:
    child = Child.start("parser", parser.serve, kept=())
    given = asking(child.link, PATIENCE)
    asked(given, ON[:1], True)
    (pid,) = children_of(child.pid)
    os.kill(pid, signal.SIGKILL)
    await_that("it is over", lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    asked(given, ON[:1], False)
    await_that("both are over", lambda: not children_of(child.pid))
    child.end()


def test_units_of_which_there_are_more_than_parsers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has nothing to do makes room, whatever it waits for."""
    monkeypatch.setattr(parser, "_MOST", 3)
    child = Child.start("parser", parser.serve, kept=())
    given = asking(child.link, PATIENCE)
    asked(given, ON[:3], True)
    with given.of_verb() as parser_of:

        def ask(path: LocalNexus) -> ReadKeys:
            return parser_of(path).keys(KEYS.build())

        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(ask, ON * 2)) == [KEYS] * len(ON) * 2
        assert len(children_of(child.pid)) <= 3
    child.end()


def test_one_that_nobody_had_ended_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its socket is closed, and it ends by itself."""
    monkeypatch.setattr(parser, "_MOST", 2)
    with parsers() as given:
        monkeypatch.setattr(given, "end", lambda process: process.close())
        for _ in range(3):
            asked(given, ON[:2], False)


def test_more_of_them_than_there_may_be(
    monkeypatch: pytest.MonkeyPatch, taken_over: Callable[[Answering], None]
) -> None:
    monkeypatch.setattr(parser, "_MOST", 1)
    taken_over(never)
    with parsers(patience=pace.limit(2)) as given, given.of_verb() as parser_of:

        def ask(path: LocalNexus) -> str:
            with pytest.raises(DeviceError) as told:
                parser_of(path).keys(KEYS.build())
            return told.value.message

        def busy() -> bool:
            asked_for = given._believed.get(ON[0].lu)
            return asked_for is not None and asked_for._process is not None

        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(ask, ON[0])
            await_that("it is busy", busy)
            # One of them has a place, and the other one waits for it.
            second = ask(ON[1])
            assert "has not answered within" in first.result()
        # Which of the two limits is over first depends on how long a fork takes.
        ends = ("to look after already", "has not answered within", "does not answer")
        assert any(each in second for each in ends), second


PAGE = IdentificationPage(
    (
        Designator(Association.LOGICAL_UNIT, Kind.T10, 2, b"LIO unit"),
        Designator(Association.TARGET_PORT, Kind.RELATIVE_TARGET_PORT, 1, b"\0\0\0\x03"),
    )
).build()


def names(given: Parsers, *pages: bytes, nexus: str = "1:0:0:0") -> list[PageNames]:
    with given.of_scan() as names_in:
        return [names_in(nexus, page) for page in pages]


def test_each_page_is_parsed_once_by_a_process_of_its_target() -> None:
    child = Child.start("parser", parser.serve, kept=())
    given = asking(child.link, PATIENCE)
    pages = (PAGE, PAGE[:9], b"", PAGE)
    with given.of_scan() as names_in:
        for nexus in ("1:0:0:0", "1:0:0:7", "2:0:1:0"):
            assert [names_in(nexus, page) for page in pages] == [*map(page_names, pages)]
        assert len(children_of(child.pid)) == 2
    await_that("they are over", lambda: not children_of(child.pid))
    child.end()
    # What is known needs nobody.
    assert names(given, *pages) == [*map(page_names, pages)]
    # Of one target: another one's process might have lied about it.
    for nexus, page in (("1:0:0:0", PAGE + b"\0"), ("3:0:0:0", PAGE)):
        with pytest.raises(DeviceError, match="nobody reads replies"):
            names(given, page, nexus=nexus)


def test_a_page_that_does_harm_has_no_names(
    taken_over: Callable[[Answering], None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = facts.answer_to
    taken_over(lambda number, raw: b"\xff" * 99 if raw == PAGE else honest(number, raw))
    other = PAGE + b"\0"
    with parsers() as given:
        for _ in range(4):
            assert names(given, PAGE, other) == [PageNames()] * 2
        assert caplog.text.count("have no name") == 1
        assert names(given, other, nexus="2:0:0:0") == [page_names(other)]
        monkeypatch.setattr(parser, "_SUSPECT_S", 0)
        given._suspect.clear()
        assert names(given, PAGE) == [PageNames()]
        # The process that did not answer is over, and what it might have done, too.
        assert names(given, other) == [page_names(other)]


def test_where_nobody_forks() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    for _ in range(2):
        with (
            Parsers(ours, PATIENCE).of_verb() as parser_of,
            pytest.raises(DeviceError, match="nobody reads replies of devices"),
        ):
            parser_of(ON[0]).keys(KEYS.build())
    ours.close()


def test_who_forks_too_late_is_not_taken_for_who_is_asked_next() -> None:
    """A process that was stopped for a while, with the machine perhaps, goes on after it."""
    child = Child.start("parser", parser.serve, kept=())
    given = asking(child.link, 0.3)
    os.kill(child.pid, signal.SIGSTOP)
    try:
        for path in ON[:2]:
            with (
                given.of_verb() as parser_of,
                pytest.raises(DeviceError, match=r"nobody reads .* does not answer"),
            ):
                parser_of(path).keys(KEYS.build())
    finally:
        os.kill(child.pid, signal.SIGCONT)
    given._patience = PATIENCE
    with given.of_verb() as parser_of:
        assert parser_of(ON[2]).keys(KEYS.build()) == KEYS
        await_that("those are over", lambda: len(children_of(child.pid)) == 1)
    child.end()


# ---- What one can do that was taken over ----


libc = ctypes.CDLL(None, use_errno=True)
X86_64 = {
    "open": 2, "openat": 257, "socket": 41, "connect": 42, "fork": 57, "clone": 56, "execve": 59,
    "kill": 62, "tgkill": 234, "ptrace": 101, "process_vm_readv": 310, "ioctl": 16, "write": 1,
    "sendmsg": 46, "recvmsg": 47, "prctl": 157, "seccomp": 317, "bpf": 321, "unshare": 272,
    "setresuid": 117, "io_uring_setup": 425, "pidfd_getfd": 438, "prlimit64": 302, "dup": 32,
    "memfd_create": 319, "shmget": 29, "mknod": 133, "unlink": 87, "rt_sigaction": 13,
    "fcntl": 72, "accept": 43, "userfaultfd": 323, "clone3": 435, "kcmp": 312,
}  # fmt: skip


def tried(_number: int, _raw: bytes) -> bytes:
    """An answer with the names of the calls that did not fail with EPERM."""
    made = []
    for name, number in X86_64.items():
        # An address that is none: a call that may be made fails, and with another error.
        result = libc.syscall(number, -1, -1, -1, -1, -1)
        if result >= 0 or ctypes.get_errno() != errno.EPERM:
            made.append(name)
    return HEADER.pack(1, 100) + f"made\n{' '.join(made)}".encode().ljust(100)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86-64")
def test_what_it_may_call(taken_over: Callable[[Answering], None]) -> None:
    taken_over(tried)
    with (
        parsers() as given,
        given.of_verb() as parser_of,
        pytest.raises(MalformedError) as told,
    ):
        parser_of(ON[0]).keys(b"")
    assert told.value.problem.strip() == ""


def held(_number: int, _raw: bytes) -> bytes:
    """An answer that says whether there is memory without end."""
    try:
        bytearray(64 << 20)
    except MemoryError:
        return HEADER.pack(1, 6) + b"no\nend"
    return HEADER.pack(1, 7) + b"has\nend"


def test_it_has_no_memory_without_limit(taken_over: Callable[[Answering], None]) -> None:
    taken_over(held)
    with (
        parsers() as given,
        given.of_verb() as parser_of,
        pytest.raises(MalformedError, match="no: end"),
    ):
        parser_of(ON[0]).keys(b"")


def test_it_has_no_descriptor_and_no_new_privileges() -> None:
    child = Child.start("parser", parser.serve, kept=())
    given = asking(child.link, PATIENCE)
    with given.of_verb() as parser_of:
        assert parser_of(ON[0]).keys(KEYS.build()) == KEYS
        (pid,) = children_of(child.pid)
        assert len(os.listdir(f"/proc/{pid}/fd")) == 1
        told = Path(f"/proc/{pid}/status").read_text().splitlines()
        named = dict(line.split(":\t", 1) for line in told if ":\t" in line)
        assert (named["NoNewPrivs"], named["Seccomp"]) == ("1", "2")
        assert int(named["CapEff"], 16) == int(named["CapPrm"], 16) == 0
    child.end()


def lies(header: bytes, body: bytes = b"") -> Answering:
    return lambda _number, _raw: header + body


def ends(_number: int, _raw: bytes) -> bytes:
    os._exit(0)


def never(_number: int, _raw: bytes) -> bytes:
    """Waits for a lock that nobody releases, which takes no processor from the other tests."""
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()
    raise AssertionError


HOSTILE = {
    "garbage": lies(b"\xff" * 40),
    "an answer of another kind": lies(HEADER.pack(2, 0)),
    "no facts": lies(HEADER.pack(0, 0)),
    "facts of another question": lies(facts.answer_to(5, Sense(0x70, 6, 0x2A, 3).build())),
    "an answer that is too long": lies(HEADER.pack(0, facts.LONGEST_ANSWER + 1)),
    "an end": ends,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_no_answer_is_a_device_that_does_not_answer(
    taken_over: Callable[[Answering], None], what: str
) -> None:
    taken_over(HOSTILE[what])
    with parsers() as given, given.of_verb() as parser_of:
        for _ in range(2):
            with pytest.raises(DeviceError, match="gave no answer"):
                parser_of(ON[0]).keys(KEYS.build())


@pytest.mark.parametrize(
    "instead",
    [never, lies(HEADER.pack(0, 100), b"never whole"), lies(b"\0")],
    ids=["never", "half", "a byte"],
)
def test_it_is_waited_for_once(
    taken_over: Callable[[Answering], None], instead: Answering
) -> None:
    taken_over(instead)
    child = Child.start("parser", parser.serve, kept=())
    given = asking(child.link, 0.3)
    with given.of_verb() as parser_of:
        for _ in range(3):
            with pytest.raises(DeviceError, match="has not answered within"):
                parser_of(ON[0]).keys(KEYS.build())
        await_that("it is over", lambda: not children_of(child.pid))
    child.end()


def test_an_answer_before_the_question_is_none(
    taken_over: Callable[[Answering], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever speaks unasked is replaced before it is asked: the question is not to blame."""
    honest = facts.answer_to
    early = facts.answer_to(facts.KEYS.number, ReadKeys.of(666).build())
    taken_over(lambda number, raw: honest(number, raw) + early)
    with parsers() as given, given.of_verb() as parser_of:
        for _ in range(3):
            assert parser_of(ON[0]).keys(KEYS.build()) == KEYS
            process = given._believed[ON[0].lu]._process
            assert process is not None
            # Whatever comes of it is there to be read.
            assert select.select([process._connection], [], [], PATIENCE)[0]
    assert caplog.text.count("says what it was not asked") == 2


def test_what_comes_over_another_path_has_another_process(
    taken_over: Callable[[Answering], None],
) -> None:
    honest = facts.answer_to
    harm = bytes(7) + b"\x09"
    taken_over(lambda number, raw: ends(number, raw) if raw == harm else honest(number, raw))
    with parsers() as given, given.of_verb() as parser_of:
        for _ in range(2):
            with pytest.raises(DeviceError, match="gave no answer"):
                parser_of(ON[0]).keys(harm)
            assert parser_of(OTHER).keys(KEYS.build()) == KEYS
        # Of the path itself nothing is asked in this verb any more.
        with pytest.raises(DeviceError, match="gave no answer"):
            parser_of(ON[0]).keys(KEYS.build())


def test_one_that_is_killed(taken_over: Callable[[Answering], None]) -> None:
    taken_over(never)
    child = Child.start("parser", parser.serve, kept=())
    with (
        asking(child.link, PATIENCE).of_verb() as parser_of,
        ThreadPoolExecutor(1) as pool,
    ):
        answer = pool.submit(parser_of(ON[0]).keys, KEYS.build())
        await_that("it is there", lambda: children_of(child.pid))
        os.kill(children_of(child.pid)[0], signal.SIGKILL)
        with pytest.raises(DeviceError, match="gave no answer"):
            answer.result()
    child.end()
