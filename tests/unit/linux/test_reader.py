"""The Reader over targets in memory: which commands it sends, and what it concludes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from labkit import pace

from prtrace.agent.child import Child
from prtrace.agent.parser import Parsers, serve
from prtrace.errors import ConflictError, DeviceError, NoSuchDeviceError, UnavailableError
from prtrace.linux.reader import (
    LARGEST_ROOM,
    ByteOrder,
    Disagreement,
    FailureKind,
    PrState,
    Reader,
    ReadFailure,
    Reading,
    ReadPolicy,
    Unread,
)
from prtrace.linux.sgio import Reply
from prtrace.model import LocalNexus, ReservationType
from prtrace.scsi.codes import InAction
from prtrace.scsi.facts import Parser
from prtrace.scsi.reply import FullStatusDescriptor, ReportCapabilities, ReservationDescriptor
from prtrace.scsi.sense import FIXED, ILLEGAL_REQUEST, NOT_READY, UNIT_ATTENTION, Sense
from prtrace.scsi.transportid import IscsiPort
from tests.unit.linux.conftest import page_83
from tests.unit.linux.scripted import NOT_KNOWN, ScriptedTarget, attention, check, registrant

A, B = 0x1122334455667788, 0x0A00000000000000
ROUND = ["READ KEYS", "READ RESERVATION", "READ FULL STATUS"]
NAA = "6001405000000001000000000000000a"


_parsing: list[Parser] = []


@pytest.fixture(scope="module", params=["here", "in another process"], autouse=True)
def parsing(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a Reader concludes is the same, whoever parses."""
    if request.param == "here":
        _parsing[:] = [Parser()]
        yield
        return
    child = Child.start("parser", serve, kept=())
    with Parsers(child.link, pace.limit(20)).of_verb() as parser_of:
        _parsing[:] = [parser_of(LocalNexus("0:0:0:0", "a unit"))]
        yield
    child.end()


def reader(target: ScriptedTarget, **policy: object) -> Reader:
    given = ReadPolicy(**policy)  # type: ignore[arg-type]
    return Reader(target, given, sleep=lambda _: None, parser=_parsing[0])


def whole(reading: Reading) -> PrState:
    assert isinstance(reading, PrState), reading
    return reading


def failure(reading: Reading) -> ReadFailure:
    assert isinstance(reading, Unread), reading
    return reading.failure


def test_what_agrees_is_the_state() -> None:
    target = ScriptedTarget([registrant(1, A), registrant(2, B)])
    target.hold(1, ReservationType.WERO)
    state = whole(reader(target).read())
    assert target.sent == ROUND
    assert (state.generation, state.named, state.byte_order) == (7, True, ByteOrder.STANDARD)
    assert state.reservation == ReservationDescriptor(B, ReservationType.WERO)
    assert [(each.key, each.holder) for each in state.registrations] == [(A, False), (B, True)]
    assert state.registrations[0].transport_id == target.registered[0].transport_id
    assert state.registrations[0].relative_target_port == 1
    assert (state.way.sent, state.way.attentions, state.way.unsupported) == (3, (), frozenset())


def test_nothing_is_registered() -> None:
    state = whole(reader(ScriptedTarget()).read())
    assert (state.registrations, state.reservation, state.named) == ((), None, True)


@pytest.mark.parametrize("kind", ReservationType)
@pytest.mark.parametrize("swapped", [False, True])
def test_every_type_in_either_byte_order(kind: ReservationType, swapped: bool) -> None:
    target = ScriptedTarget([registrant(1, A), registrant(2, B)], swapped=swapped)
    target.hold(0, kind)
    asking = reader(target)
    state = whole(asking.read())
    assert [each.key for each in state.registrations] == [A, B]
    assert [each.relative_target_port for each in state.registrations] == [1, 1]
    assert state.byte_order is (ByteOrder.SWAPPED if swapped else ByteOrder.STANDARD)
    target.sent.clear()
    look = whole(asking.look())
    assert target.sent == ["READ FULL STATUS"]
    assert look.registrations == state.registrations
    assert look.reservation == state.reservation


def test_look_proves_the_byte_order_first() -> None:
    target = ScriptedTarget([registrant(1, A)])
    asking = reader(target)
    asking.look()
    asking.look()
    assert target.sent == [*ROUND, "READ FULL STATUS"]


def test_keys_that_read_the_same_both_ways_prove_nothing() -> None:
    target = ScriptedTarget([registrant(1, 0x0102030000030201)])
    asking = reader(target)
    assert whole(asking.read()).byte_order is ByteOrder.UNPROVEN
    asking.look()
    assert target.sent == [*ROUND, *ROUND]


def test_keys_that_are_each_others_mirror_fit_both_ways() -> None:
    mirror = int.from_bytes(A.to_bytes(8, "big"), "little")
    target = ScriptedTarget([registrant(1, A), registrant(2, mirror)], swapped=True)
    found = reader(target).read()
    assert isinstance(found, Disagreement)
    assert "either byte order" in found.reasons[0]
    proven = reader(target)
    target.registered.pop()
    assert whole(proven.read()).byte_order is ByteOrder.SWAPPED
    target.registered.append(registrant(2, mirror))
    assert [each.key for each in whole(proven.read()).registrations] == [A, mirror]


def test_a_registration_that_read_full_status_leaves_out() -> None:
    target = ScriptedTarget([registrant(1, A), registrant(2, B)], hidden=1)
    found = reader(target, rounds=3).read()
    assert isinstance(found, Disagreement)
    assert target.sent == ROUND * 3
    assert found.reasons == (
        "READ KEYS lists 2 registrations, READ FULL STATUS 1; they differ in 0xa00000000000000",
    )
    assert found.replies.keys.keys == (A, B)
    assert found.way.sent == 9


@pytest.mark.parametrize(
    ("reservation", "words"),
    [
        (None, "READ FULL STATUS tells of a reservation, READ RESERVATION of none"),
        (ReservationDescriptor(A, ReservationType.EA), "different types"),
        (
            ReservationDescriptor(B, ReservationType.WE),
            "the holder that READ FULL STATUS names has",
        ),
        (ReservationDescriptor(0xBAD, ReservationType.WE), "0xbad, which READ KEYS does not list"),
    ],
)
def test_reservations_that_contradict_each_other(
    reservation: ReservationDescriptor | None, words: str
) -> None:
    target = ScriptedTarget([registrant(1, A), registrant(2, B)])
    target.hold(0, ReservationType.WE)
    target.reservation = reservation
    found = reader(target).read()
    assert isinstance(found, Disagreement)
    assert words in " ".join(found.reasons)


def test_holders_that_contradict_each_other() -> None:
    target = ScriptedTarget([registrant(1, A), registrant(2, B)])
    target.hold(0, ReservationType.WE)
    target.hold(1, ReservationType.WE)
    found = reader(target).read()
    assert isinstance(found, Disagreement)
    assert "2 holders" in found.reasons[0]
    target.hold(1, ReservationType.EA)
    found = reader(target).read()
    assert isinstance(found, Disagreement)
    assert "different types" in found.reasons[0]


def test_what_changes_meanwhile_is_read_again() -> None:
    target = ScriptedTarget([registrant(1, A)])

    def registers(action: InAction) -> None:
        if action is InAction.READ_FULL_STATUS and len(target.registered) == 1:
            target.registered.append(registrant(2, B))
            target.generation += 1

    target.before = registers
    state = whole(reader(target).read())
    assert target.sent == ROUND * 2
    assert (state.generation, len(state.registrations)) == (8, 2)


def test_a_reservation_meanwhile_moves_no_generation() -> None:
    target = ScriptedTarget([registrant(1, A)])

    def reserves(action: InAction) -> None:
        if action is InAction.READ_FULL_STATUS and target.reservation is None:
            target.hold(0, ReservationType.EA)

    target.before = reserves
    state = whole(reader(target).read())
    assert target.sent == ROUND * 2
    assert state.reservation == ReservationDescriptor(A, ReservationType.EA)


def test_a_state_that_never_stands_still() -> None:
    target = ScriptedTarget()

    def moves(_: InAction) -> None:
        target.generation += 1

    target.before = moves
    found = reader(target, rounds=2).read()
    assert isinstance(found, Disagreement)
    assert found.reasons == (
        "the state changes faster than it can be read (PRGENERATION 11, 12, 13)",
    )


def test_a_target_without_read_full_status() -> None:
    unknown = frozenset({InAction.READ_FULL_STATUS})
    target = ScriptedTarget([registrant(1, A), registrant(2, B)], unknown=unknown)
    target.hold(0, ReservationType.WE)
    asking = reader(target)
    state = whole(asking.read())
    assert not state.named
    assert [(each.key, each.holder, each.transport_id) for each in state.registrations] == [
        (A, True, None),
        (B, False, None),
    ]
    assert state.way.unsupported == unknown
    target.sent.clear()
    assert whole(asking.read()).registrations == state.registrations
    assert target.sent == ["READ KEYS", "READ RESERVATION"], "it is not asked again"
    target.registered.append(registrant(3, A))
    assert [each.holder for each in whole(asking.read()).registrations] == [None, False, None]
    target.reservation = ReservationDescriptor(0, ReservationType.EAAR)
    assert [each.holder for each in whole(asking.read()).registrations] == [True] * 3
    target.reservation = None
    assert [each.holder for each in whole(asking.read()).registrations] == [False] * 3


@pytest.mark.parametrize("cuts", [False, True])
@pytest.mark.parametrize("count", [164, 170, 1024])
def test_a_thousand_registrations_are_read_whole(count: int, cuts: bool) -> None:
    target = ScriptedTarget([registrant(n, A + n) for n in range(count)], cuts=cuts)
    target.hold(count - 1, ReservationType.WE)
    state = whole(reader(target).read())
    assert state.named
    assert len(state.registrations) == count
    assert state.registrations[-1].holder
    assert max(target.rooms) == LARGEST_ROOM


@pytest.mark.parametrize("cuts", [False, True])
def test_what_does_not_fit_into_the_longest_reply_is_nameless(cuts: bool) -> None:
    registered = [
        FullStatusDescriptor(A + n, 1, IscsiPort(b"iqn.2001-04.example:host%04d" % n, n))
        for n in range(1024)
    ]
    target = ScriptedTarget(registered, cuts=cuts)
    state = whole(reader(target).read())
    assert not state.named
    assert sorted(each.key for each in state.registrations) == [A + n for n in range(1024)]
    named = [each for each in state.registrations if each.transport_id is not None]
    assert 700 < len(named) < 1024
    target.registered[0] = FullStatusDescriptor(0xBAD, 1, IscsiPort(b"iqn.2001-04.example:x"))
    assert len(whole(reader(target).read()).registrations) == 1024


def test_more_keys_than_any_reply_holds() -> None:
    target = ScriptedTarget([registrant(n, n + 1) for n in range(8200)])
    assert failure(reader(target).read()).kind is FailureKind.TOO_LONG


def test_one_descriptor_for_all_target_ports() -> None:
    all_ports = registrant(1, A, all_tg_pt=True)
    target = ScriptedTarget([all_ports])

    def lists_each_port(action: InAction) -> None:
        target.registered = [all_ports] * (2 if action is InAction.READ_KEYS else 1)

    target.before = lists_each_port
    state = whole(reader(target).read())
    assert len(state.registrations) == 1
    assert state.registrations[0].all_target_ports
    assert state.registrations[0].relative_target_port is None


def test_unit_attentions_are_taken_as_far_as_the_policy_goes() -> None:
    both = [attention(0x2A, 0x03), attention(0x29, 0x00)]
    target = ScriptedTarget(answers=deque(both))
    state = whole(reader(target, attentions=2).read())
    assert [sense.text for sense in state.way.attentions] == [
        "UNIT ATTENTION 2A/03 RESERVATIONS PREEMPTED",
        "UNIT ATTENTION 29/00 POWER ON, RESET, OR BUS DEVICE RESET OCCURRED",
    ]
    assert target.sent == ["READ KEYS"] * 2 + ROUND
    for taken in (0, 1):
        target = ScriptedTarget(answers=deque(both))
        found = reader(target, attentions=taken).read()
        assert failure(found).kind is FailureKind.UNIT_ATTENTION
        assert len(found.way.attentions) == taken
        assert len(target.sent) == taken + 1


def test_a_busy_device_is_asked_again_after_a_pause() -> None:
    busy, full = Reply(0x08, 0, 0, b"", b"", 1), Reply(0x28, 0, 0, b"", b"", 1)
    pauses: list[float] = []
    target = ScriptedTarget(answers=deque([busy, full]))
    whole(Reader(target, ReadPolicy(busy=2, busy_wait_s=0.5), sleep=pauses.append).read())
    assert pauses == [0.5, 0.5]
    target = ScriptedTarget(answers=deque([busy] * 9))
    found = failure(reader(target, busy=2).read())
    assert (found.kind, found.text) == (FailureKind.BUSY, "READ KEYS: BUSY")
    assert len(target.sent) == 3


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (Reply(0x18, 0, 0, b"", b"", 1), FailureKind.CONFLICT, "RESERVATION CONFLICT"),
        (
            check(Sense(FIXED, ILLEGAL_REQUEST, 0x20, 0)),
            FailureKind.UNSUPPORTED,
            "20/00 INVALID COMMAND",
        ),
        (
            check(Sense(FIXED, ILLEGAL_REQUEST, 0x24, 0)),
            FailureKind.UNSUPPORTED,
            "24/00 INVALID FIELD",
        ),
        (check(Sense(FIXED, ILLEGAL_REQUEST, 0x25, 0)), FailureKind.REFUSED, "25/00"),
        (check(Sense(FIXED, NOT_READY, 0x04, 0x0C)), FailureKind.REFUSED, "UNAVAILABLE STATE"),
        (check(Sense(FIXED + 1, ILLEGAL_REQUEST, 0x20, 0)), FailureKind.REFUSED, "(deferred)"),
        (check(Sense(FIXED + 1, UNIT_ATTENTION, 0x2A, 3)), FailureKind.REFUSED, "(deferred)"),
        (Reply(0x02, 0, 8, b"", b"", 1), FailureKind.REFUSED, "CHECK CONDITION"),
        (Reply(0x30, 0, 0, b"", b"", 1), FailureKind.REFUSED, "status 0x30"),
        (Reply(0x00, 3, 0, b"", b"", 1), FailureKind.TIMEOUT, "host byte 0x03"),
        (Reply(0x00, 0, 6, b"", b"", 1), FailureKind.TIMEOUT, "driver byte 0x06"),
        (Reply(0x00, 1, 0, b"", b"", 1), FailureKind.TRANSPORT, "host byte 0x01"),
        (Reply(0x00, 0, 0, b"", b"", 1), FailureKind.MALFORMED, "needs 8 bytes, has 0"),
        (
            Reply(0x00, 0, 0, b"", bytes(7) + b"\x09" + bytes(9), 1),
            FailureKind.MALFORMED,
            "multiple of 8",
        ),
    ],
)
def test_failures_say_how(answer: Reply, kind: FailureKind, words: str) -> None:
    target = ScriptedTarget(answers=deque([answer]))
    found = failure(reader(target).read())
    assert found.kind is kind
    assert found.text.startswith("READ KEYS: ")
    assert words in found.text
    assert found.error("/dev/sda").message.startswith("/dev/sda: READ KEYS: ")
    assert target.sent == ["READ KEYS"]


def test_what_a_caller_raises() -> None:
    conflict = ReadFailure(FailureKind.CONFLICT, "READ KEYS", "RESERVATION CONFLICT").error(
        "/dev/sda"
    )
    assert isinstance(conflict, ConflictError)
    assert "SPC-2 RESERVE" in conflict.hint
    for kind in FailureKind:
        assert ReadFailure(kind, "READ KEYS", "x").error("/dev/sda").message


@dataclass
class NoDevice:
    error: Exception
    path: str = "/dev/gone"

    def send(self, cdb: bytes, data_out: bytes, room: int, timeout_ms: int) -> Reply:
        raise self.error


def test_what_the_device_raises() -> None:
    gone = Reader(NoDevice(NoSuchDeviceError("it is gone"))).read()
    assert failure(gone).kind is FailureKind.GONE
    assert gone.way.sent == 0
    failed = failure(Reader(NoDevice(DeviceError("no answer"))).read())
    assert (failed.kind, failed.text) == (FailureKind.TRANSPORT, "READ KEYS: no answer")
    with pytest.raises(UnavailableError):
        Reader(NoDevice(UnavailableError("not permitted"))).read()


@pytest.mark.parametrize("code", [(0x3F, 0x0E), (0x3F, 0x03)])
def test_another_unit_behind_the_address_is_not_believed(code: tuple[int, int]) -> None:
    target = ScriptedTarget(answers=deque([attention(*code)]), page=page_83(NAA))
    state = whole(reader(target, lu=f"naa.{NAA}").read())
    assert target.sent == ["INQUIRY", "READ KEYS", "INQUIRY", *ROUND, "INQUIRY"]
    assert state.way.sent == 4
    other = NAA[:-1] + "b"
    target = ScriptedTarget(answers=deque([attention(*code)]), page=page_83(NAA))
    target.before = lambda _: setattr(target, "page", page_83(other))
    found = failure(reader(target, lu=f"naa.{NAA}").read())
    assert (found.kind, found.found) == (FailureKind.OTHER_UNIT, f"naa.{other}")
    assert found.text == f"INQUIRY: this is naa.{other} now, and no longer naa.{NAA}"
    assert target.sent == ["INQUIRY", "READ KEYS", "INQUIRY"]
    target = ScriptedTarget(answers=deque([attention(*code)]))
    assert failure(reader(target, lu=f"naa.{NAA}").read()).kind is FailureKind.MALFORMED


def test_other_unit_attentions_cause_no_inquiry() -> None:
    target = ScriptedTarget(answers=deque([attention(0x2A, 0x05)]), page=page_83(NAA))
    whole(reader(target, lu=f"naa.{NAA}").read())
    assert target.sent == ["INQUIRY", "READ KEYS", *ROUND, "INQUIRY"]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_another_unit_without_a_unit_attention_is_not_believed(when: str) -> None:
    """An array maps another unit to the address, and raises no unit attention."""
    other = page_83(NAA[:-1] + "b")
    target = ScriptedTarget([registrant(1, A)], page=page_83(NAA))
    if when == "before":
        target.page = other
    else:
        target.before = lambda _: setattr(target, "page", other)
    found = failure(reader(target, lu=f"naa.{NAA}").read())
    assert found.found == f"naa.{NAA[:-1]}b"
    assert ("READ KEYS" in target.sent) is (when == "meanwhile")


def test_capabilities() -> None:
    target = ScriptedTarget(answers=deque([attention(0x2A, 0x05)]))
    asking = reader(target)
    assert asking.capabilities() == ReportCapabilities(ptpl_c=True, ptpl_a=True)
    assert len(asking.way.attentions) == 1
    target.unknown = frozenset({InAction.REPORT_CAPABILITIES})
    found = asking.capabilities()
    assert isinstance(found, ReadFailure)
    assert found.kind is FailureKind.UNSUPPORTED
    assert asking.way.attentions == ()


def test_capabilities_of_another_unit_are_refused() -> None:
    target = ScriptedTarget(page=page_83(NAA[:-1] + "b"))
    found = reader(target, lu=f"naa.{NAA}").capabilities()
    assert isinstance(found, ReadFailure)
    assert found.kind is FailureKind.OTHER_UNIT


@pytest.mark.parametrize(
    ("answer", "proven", "asked"),
    [
        (check(NOT_KNOWN), True, 2),
        (Reply(0x18, 0, 0, b"", b"", 1), True, 2),
        (Reply(0, 1, 0, b"", b"", 1), False, 1),
    ],
    ids=["unsupported", "conflict", "transport"],
)
@pytest.mark.parametrize("moved", [False, True], ids=["same unit", "another unit"])
def test_a_reading_that_fails_says_whose_its_replies_were(
    answer: Reply, asked: int, *, proven: bool, moved: bool
) -> None:
    """A device that answers is asked once more which unit it is, whatever it answered."""
    other = page_83(NAA[:-1] + "b")
    target = ScriptedTarget(answers=deque([answer]), page=page_83(NAA))
    if moved:
        target.before = lambda _: setattr(target, "page", other)
    found = reader(target, lu=f"naa.{NAA}").read()
    assert isinstance(found, Unread)
    assert target.sent.count("INQUIRY") == asked
    assert found.proven is (proven and not moved)
    assert (found.failure.kind is FailureKind.OTHER_UNIT) is (proven and moved)
    unnamed = reader(ScriptedTarget(answers=deque([answer]))).read()
    assert isinstance(unnamed, Unread)
    assert unnamed.proven, "there is nothing to be proven"


def test_a_reading_can_ask_for_capabilities_too() -> None:
    target = ScriptedTarget(page=page_83(NAA))
    whole(reader(target, lu=f"naa.{NAA}").read(capabilities=True))
    assert target.sent == ["INQUIRY", *ROUND, "REPORT CAPABILITIES", "INQUIRY"]
    target = ScriptedTarget(page=page_83(NAA), unknown=frozenset({InAction.REPORT_CAPABILITIES}))
    whole(reader(target, lu=f"naa.{NAA}").read(capabilities=True))
    assert target.sent[-1] == "INQUIRY"


def test_which_unit_a_command_would_meet() -> None:
    target = ScriptedTarget(page=page_83(NAA))
    asking = reader(target, lu=f"naa.{NAA}")
    assert asking.other_unit() is None
    assert (target.sent, asking.way.sent) == (["INQUIRY"], 0)
    target.page = page_83(NAA[:-1] + "b")
    found = asking.other_unit()
    assert found is not None
    assert found.kind is FailureKind.OTHER_UNIT
    gone = Reader(NoDevice(NoSuchDeviceError("it is gone")), ReadPolicy(lu=f"naa.{NAA}"))
    found = gone.other_unit()
    assert found is not None
    assert found.kind is FailureKind.GONE


@given(st.lists(st.binary(max_size=80), min_size=1, max_size=24), st.booleans())
def test_whatever_a_device_answers_is_a_reading(replies: list[bytes], full: bool) -> None:
    given_back = deque(Reply(0, 0, 0, b"", raw, 1) for raw in replies)
    unknown = frozenset() if full else frozenset({InAction.READ_FULL_STATUS})
    target = ScriptedTarget([registrant(1, A)], answers=given_back, unknown=unknown)
    asking = reader(target)
    assert isinstance(asking.read(), PrState | Disagreement | Unread)
    assert isinstance(asking.look(), PrState | Disagreement | Unread)
