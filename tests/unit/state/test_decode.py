"""Bytes to meaning: what each outcome tells the state, and that no bytes can break it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.model import (
    Action,
    Attention,
    AttentionSeen,
    CapabilitiesRead,
    ConflictSeen,
    FullStatusRead,
    IssuePath,
    Issuer,
    KeysRead,
    LegacyReserve,
    LocalNexus,
    NotWatched,
    Outcome,
    PrOut,
    ReadFailed,
    RecordsLost,
    ReservationRead,
    ReservationType,
    UnreadablePrOut,
    Unsupported,
)
from prtrace.scsi.sense import FIXED, UNIT_ATTENTION, Sense
from prtrace.state.decode import END_LOST, NOT_WATCHED, decode
from prtrace.state.event import Command, Event, nanoseconds, rfc3339

LIST = bytes.fromhex("0000000000123abc 0000000000000def 00000000 00000000")
REGISTER = bytes.fromhex("5f000000000000001800")
PREEMPT_WERO = bytes.fromhex("5f040500000000001800")
READ_KEYS = bytes.fromhex("5e000000000000200000")
UA_2A05 = bytes.fromhex("70000600000000 0a 00000000 2a05 00000000")
ILLEGAL_OPCODE = bytes.fromhex("70000500000000 0a 00000000 2000 00000000")
INVALID_FIELD = bytes.fromhex("700005000000000a00000000240000000000")
NOT_READY = bytes.fromhex("70000200000000 0a 00000000 0408 00000000")


def event(cdb: bytes, **fields: object) -> Event:
    command = {0x5F: Command.PR_OUT, 0x5E: Command.PR_IN}.get(cdb[0], Command.RESERVE)
    given_fields: dict[str, object] = {"status": "GOOD", "lu": "naa.1", "nexus": "1:0:0:0"}
    return Event(command=command, cdb=cdb, record=7, **(given_fields | fields))  # type: ignore[arg-type]


def told(cdb: bytes, **fields: object) -> object:
    (seen,) = decode(event(cdb, **fields))[1]
    return seen


ISSUER = Issuer(4711, "sg_persist")


def test_a_list_that_was_not_read_at_submission_is_not_taken_at_its_word() -> None:
    """Its sender may have changed it under way: the device has what nobody can compare."""
    seen = told(REGISTER, data=LIST, issuer=ISSUER)
    assert isinstance(seen, PrOut)
    assert seen.outcome is Outcome.UNKNOWN
    assert "could not be compared" in seen.problem


def test_a_pr_out_without_a_readable_cdb_is_in_doubt() -> None:
    seen = told(REGISTER[:1], data=LIST, head=LIST, issuer=ISSUER)
    assert isinstance(seen, PrOut | UnreadablePrOut)
    seen = told(b"\x5f\x1f" + REGISTER[2:], data=LIST, head=LIST, issuer=ISSUER)
    assert isinstance(seen, UnreadablePrOut)


def test_a_register_that_went_well() -> None:
    described, (seen,) = decode(event(REGISTER, data=LIST, head=LIST))
    assert isinstance(seen, PrOut)
    assert (seen.action, seen.outcome) == (Action.REGISTER, Outcome.DONE)
    assert (seen.key, seen.sa_key, seen.seq) == (0x123ABC, 0xDEF, 7)
    assert (described.action, described.key, described.type) == ("REGISTER", 0x123ABC, None)


@pytest.mark.parametrize("sent", [6, 7, 8, 9])
def test_a_pr_out_that_was_sent_short_is_read_as_the_device_reads_it(sent: int) -> None:
    """Events of older recordings have the CDB as long as its sender named it."""
    seen = told(PREEMPT_WERO[:sent], data=LIST, head=LIST)
    assert isinstance(seen, PrOut)
    assert (seen.action, seen.outcome, seen.key) == (Action.PREEMPT, Outcome.DONE, 0x123ABC)
    assert seen.type is ReservationType.WERO


@pytest.mark.parametrize("sent", [6, 7, 8, 9])
@pytest.mark.parametrize(("opcode", "release"), [(0x56, False), (0x57, True)])
def test_reserve_and_release_10_that_were_sent_short(
    opcode: int, release: bool, sent: int
) -> None:
    command = Command.RELEASE if release else Command.RESERVE
    cdb = bytes((opcode,)).ljust(sent, b"\0")
    described, (seen,) = decode(Event(command=command, cdb=cdb, status="GOOD", record=7))
    assert isinstance(seen, LegacyReserve)
    assert (seen.release, seen.outcome) == (release, Outcome.DONE)
    assert described.action == ("RELEASE(10)" if release else "RESERVE(10)")


@pytest.mark.parametrize("cdb", [b"", b"\x12\0\0\0\0\0"])
@pytest.mark.parametrize(
    ("status", "outcome"),
    [("GOOD", Outcome.DONE), ("TIMEOUT", Outcome.UNKNOWN), ("BUSY", Outcome.NOT_EXECUTED)],
)
def test_a_command_whose_cdb_cannot_be_read_is_never_nothing(
    cdb: bytes, status: str, outcome: Outcome
) -> None:
    for command, kind in [
        (Command.PR_OUT, UnreadablePrOut),
        (Command.PR_IN, ReadFailed),
        (Command.RESERVE, LegacyReserve),
        (Command.RELEASE, LegacyReserve),
    ]:
        described, (seen,) = decode(Event(command=command, cdb=cdb, status=status, record=7))
        assert isinstance(seen, kind)
        assert seen.outcome is outcome
        assert described.problem


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"status": "RESERVATION CONFLICT"}, Outcome.CONFLICT),
        ({"status": "BUSY"}, Outcome.NOT_EXECUTED),
        ({"status": "TASK SET FULL"}, Outcome.NOT_EXECUTED),
        ({"status": "NOT QUEUED"}, Outcome.NOT_EXECUTED),
        ({"status": "TIMEOUT"}, Outcome.UNKNOWN),
        ({"status": "TASK ABORTED"}, Outcome.UNKNOWN),
        ({"host_byte": "DID_TRANSPORT_DISRUPTED"}, Outcome.UNKNOWN),
        ({"status": "CHECK CONDITION", "sense_bytes": NOT_READY}, Outcome.UNKNOWN),
        ({"status": "CHECK CONDITION"}, Outcome.UNKNOWN),
    ],
    ids=str,
)
def test_an_answer_tells_what_became_of_a_command(
    fields: dict[str, object], outcome: Outcome
) -> None:
    seen = told(PREEMPT_WERO, data=LIST, **fields)
    assert isinstance(seen, PrOut)
    assert seen.outcome is outcome
    assert seen.type is ReservationType.WERO


def test_a_unit_attention_in_place_of_an_answer() -> None:
    _, seen = decode(event(REGISTER, data=LIST, status="CHECK CONDITION", sense_bytes=UA_2A05))
    out, attention = seen
    assert isinstance(out, PrOut)
    assert out.outcome is Outcome.NOT_EXECUTED
    assert isinstance(attention, AttentionSeen)
    assert attention.attention is Attention.REGISTRATIONS_PREEMPTED


@pytest.mark.parametrize("ascq", [0x0A, 0x0B, 0x0C], ids=["transition", "standby", "unavailable"])
def test_a_target_port_group_that_refuses_may_have_done_it_all_the_same(ascq: int) -> None:
    """Of the sense data nobody can tell whether the target looked at the state first."""
    sense = Sense(FIXED, 0x2, 0x04, ascq).build()
    seen = told(REGISTER, data=LIST, status="CHECK CONDITION", sense_bytes=sense)
    assert isinstance(seen, PrOut)
    assert seen.outcome is Outcome.UNKNOWN


def test_a_changed_access_state_tells_nothing_of_reservations() -> None:
    """2A/06 comes in place of an answer: the command was not executed, and nothing is news."""
    sense = Sense(FIXED, UNIT_ATTENTION, 0x2A, 0x06).build()
    _, seen = decode(event(REGISTER, data=LIST, status="CHECK CONDITION", sense_bytes=sense))
    (out,) = seen
    assert isinstance(out, PrOut)
    assert out.outcome is Outcome.NOT_EXECUTED


def test_a_unit_attention_without_its_qualifier_may_have_told_of_reservations() -> None:
    cut = Sense(FIXED, UNIT_ATTENTION, 0x2A, None).build()
    own = Event(command=Command.UNIT_ATTENTION, lu="naa.1", nexus="1:0:0:0", sense_bytes=cut)
    in_place = event(REGISTER, data=LIST, status="CHECK CONDITION", sense_bytes=cut)
    for each in (own, in_place):
        *_, lost = decode(each)[1]
        assert isinstance(lost, RecordsLost)
        assert "2A/??" in lost.cause
    other = Sense(FIXED, UNIT_ATTENTION, 0x28, None).build()
    assert decode(own._replace(sense_bytes=other))[1] == ()


def test_a_list_that_changed_under_way_is_not_believed() -> None:
    changed = b"\1" + LIST[1:]
    described, (seen,) = decode(event(REGISTER, data=LIST, head=changed))
    assert isinstance(seen, PrOut)
    assert seen.outcome is Outcome.UNKNOWN
    assert "changed while" in described.problem


@pytest.mark.parametrize(
    ("cdb", "data"),
    [(REGISTER, LIST[:23]), (bytes.fromhex("5f1f0000000000001800"), LIST)],
    ids=["short list", "reserved service action"],
)
def test_what_cannot_be_read_says_so(cdb: bytes, data: bytes) -> None:
    seen = told(cdb, data=data)
    assert isinstance(seen, UnreadablePrOut)
    assert seen.outcome is Outcome.DONE
    assert seen.problem


def test_a_reserved_type_is_not_guessed_at() -> None:
    seen = told(bytes.fromhex("5f010200000000001800"), data=LIST)
    assert isinstance(seen, PrOut)
    assert (seen.outcome, seen.type) == (Outcome.UNKNOWN, None)


def test_each_reply_tells_what_it_lists() -> None:
    keys = told(READ_KEYS, data=bytes.fromhex("00000003 00000008 0000000000123abc"))
    assert isinstance(keys, KeysRead)
    assert (keys.generation, keys.keys, keys.truncated) == (3, (0x123ABC,), False)
    none = told(bytes.fromhex("5e010000000000200000"), data=bytes.fromhex("0000000300000000"))
    assert isinstance(none, ReservationRead)
    assert none.type is None
    path = LocalNexus(nexus="1:0:0:0", lu="naa.1", initiator_port="naa.2", relative_target_port=1)
    full = told(
        bytes.fromhex("5e030000000000200000"),
        data=bytes.fromhex("0000000300000000"),
        paths=(path,),
    )
    assert isinstance(full, FullStatusRead)
    assert (full.registrations, full.paths) == ((), (path,))


def test_a_short_reply_proves_nothing() -> None:
    seen = told(bytes.fromhex("5e010000000000200000"), data=bytes.fromhex("0000000300000010"))
    assert isinstance(seen, ReadFailed)


def test_a_cut_reply_is_marked() -> None:
    reply = bytes.fromhex("00000003 00000010 0000000000123abc")
    seen = told(READ_KEYS, data=reply, truncated=True)
    assert isinstance(seen, KeysRead)
    assert seen.truncated


def test_a_device_without_reservations() -> None:
    seen = told(READ_KEYS, status="CHECK CONDITION", sense_bytes=ILLEGAL_OPCODE)
    assert isinstance(seen, Unsupported)


@pytest.mark.parametrize(
    ("cdb", "unknown"),
    [
        ("5e000000000000200000", True),
        ("5e030000000000200000", True),
        ("5e000000000000000400", False),
        ("5e000000000000200004", False),
        ("5e000001000000200000", False),
        ("5e200000000000200000", False),
    ],
    ids=["plain", "full status", "short", "CONTROL", "reserved byte", "reserved bits"],
)
def test_an_invalid_field_may_be_another_one_than_the_service_action(
    cdb: str, unknown: bool
) -> None:
    """5/24/00: LIO answers so to an ALLOCATION LENGTH of 4, and knows reservations well."""
    seen = told(bytes.fromhex(cdb), status="CHECK CONDITION", sense_bytes=INVALID_FIELD)
    assert isinstance(seen, Unsupported if unknown else ReadFailed)


def test_a_reply_to_report_capabilities_tells_its_bits_and_types() -> None:
    reply = bytes.fromhex("00081d91ea010000")
    (seen,) = decode(event(bytes.fromhex("5e020000000000000800"), data=reply))[1]
    assert isinstance(seen, CapabilitiesRead)
    assert seen.capabilities.ptpl_a
    assert seen.capabilities.types == tuple(ReservationType)


@pytest.mark.parametrize(
    ("cdb", "action", "release"),
    [
        ("160000000000", "RESERVE(6)", False),
        ("170000000000", "RELEASE(6)", True),
        ("56000000000000000000", "RESERVE(10)", False),
        ("57000000000000000000", "RELEASE(10)", True),
    ],
)
def test_reserve_and_release_of_spc2_are_told_apart(cdb: str, action: str, release: bool) -> None:
    described, (seen,) = decode(event(bytes.fromhex(cdb)))
    assert described.action == action
    assert isinstance(seen, LegacyReserve)
    assert seen.release is release


def test_a_counted_event_tells_its_cause_and_its_number() -> None:
    base = {"lu": "naa.1", "nexus": "1:0:0:0", "count": 5}
    (conflict,) = decode(Event(command=Command.CONFLICT, **base))[1]
    assert isinstance(conflict, ConflictSeen)
    (lost,) = decode(Event(command=Command.LOST, problem="the ring was full", **base))[1]
    assert isinstance(lost, RecordsLost)
    assert (lost.cause, lost.count) == ("the ring was full", 5)
    assert not lost.over
    (lost,) = decode(Event(command=Command.LOST, problem=END_LOST, **base))[1]
    assert isinstance(lost, RecordsLost)
    assert lost.over
    (gap,) = decode(Event(command=Command.LOST, problem=NOT_WATCHED, **base))[1]
    assert isinstance(gap, NotWatched)
    (attention,) = decode(Event(command=Command.UNIT_ATTENTION, sense_bytes=UA_2A05, **base))[1]
    assert isinstance(attention, AttentionSeen)
    assert attention.count == 5


events = st.builds(
    Event(command=Command.LOST)._replace,  # st.builds(Event) would fill what is not named
    command=st.sampled_from(Command),
    status=st.sampled_from(["GOOD", "CHECK CONDITION", "RESERVATION CONFLICT", "TIMEOUT", "x"]),
    host_byte=st.sampled_from(["", "DID_ERROR"]),
    cdb=st.one_of(
        st.binary(max_size=16),
        st.builds(
            lambda opcode, rest: bytes((opcode,)) + rest,
            st.sampled_from([0x16, 0x17, 0x56, 0x57, 0x5E, 0x5F]),
            st.binary(min_size=9, max_size=15),
        ),
    ),
    data=st.binary(max_size=120),
    head=st.binary(max_size=24),
    sense_bytes=st.binary(max_size=40),
    truncated=st.booleans(),
    time=st.integers(0, 2**62),
    issuer=st.none() | st.builds(Issuer, pid=st.integers(1, 2**22), comm=st.text(max_size=16),
                                 path=st.sampled_from(IssuePath)),
)  # fmt: skip


@given(events)
def test_no_bytes_break_it_and_json_keeps_everything(seen: Event) -> None:
    described, _ = decode(seen)
    again = Event.from_json(json.loads(json.dumps(described.to_json())))
    assert again == described
    assert decode(again) == decode(described)


@given(st.integers(0, 253402300799 * 10**9))
def test_time_survives_its_text(time: int) -> None:
    assert nanoseconds(rfc3339(time)) == time
