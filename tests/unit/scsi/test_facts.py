"""Facts about a device's bytes: what an honest parser says arrives, and nothing else is taken."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scsi_forms import capabilities, full_statuses, read_keys, read_reservations, senses

from prtrace.errors import MalformedError
from prtrace.scsi import facts
from prtrace.scsi.designator import (
    Association,
    Designator,
    IdentificationPage,
    Kind,
    page_names,
)
from prtrace.scsi.facts import HEADER, Question, answer_to, facts_in
from prtrace.scsi.reply import ReadFullStatus, ReadKeys, ReadReservation, ReportCapabilities

QUESTIONS = facts._ALL_QUESTIONS
BY_REPLY: dict[type, Question] = {
    ReadKeys: facts.KEYS,
    ReadReservation: facts.RESERVATION,
    ReportCapabilities: facts.CAPABILITIES,
    ReadFullStatus: facts.FULL_STATUS,
}


def asked(question: Question, raw: bytes) -> object:
    """What comes of question about raw, by way of an answer."""
    number, size = HEADER.unpack_from(question.message(raw))
    assert size == len(raw)
    answer = answer_to(number, raw)
    kind, size = HEADER.unpack_from(answer)
    body = answer[HEADER.size :]
    assert len(body) == size <= facts.LONGEST_ANSWER
    return facts_in(question, kind, body)


def result(of: Callable[[], object]) -> object:
    """What it returns, or what it finds malformed."""
    try:
        return of()
    except MalformedError as malformed:
        return malformed.what, malformed.problem


def same_as_parsed(question: Question, raw: bytes) -> None:
    assert result(lambda: asked(question, raw)) == result(lambda: question.parse(raw))


@given(read_keys | read_reservations | capabilities | full_statuses, st.integers(0, 400))
def test_facts_are_what_the_reply_says(reply, cut: int) -> None:
    question = BY_REPLY[type(reply)]
    assert asked(question, reply.build()) == reply
    same_as_parsed(question, reply.build()[:cut])


@given(senses)
def test_sense_data(sense) -> None:
    same_as_parsed(facts.SENSE, sense.build())


@given(st.binary(max_size=80), st.sampled_from([Kind.NAA, Kind.NAME_STRING, Kind.T10]))
def test_the_units_name(value: bytes, kind: Kind) -> None:
    named = Designator(Association.LOGICAL_UNIT, kind, 1, value)
    page = IdentificationPage((named,)).build()
    same_as_parsed(facts.LU_NAME, page)
    same_as_parsed(facts.PAGE_NAMES, page)


@given(st.binary(max_size=40), st.integers(0, 0xFFFF), st.integers(0, 300))
def test_the_names_in_a_page(name: bytes, port: int, cut: int) -> None:
    page = IdentificationPage(
        (
            Designator(Association.LOGICAL_UNIT, Kind.T10, 2, name),
            Designator(Association.TARGET_PORT, Kind.NAME_STRING, 3, b"iqn." + name),
            Designator(
                Association.TARGET_PORT, Kind.RELATIVE_TARGET_PORT, 1, port.to_bytes(4, "big")
            ),
        )
    ).build()
    assert asked(facts.PAGE_NAMES, page) == page_names(page)
    assert page_names(page).relative_target_port == port
    same_as_parsed(facts.PAGE_NAMES, page[:cut])


@given(st.sampled_from(QUESTIONS), st.binary(max_size=400))
def test_any_bytes_of_a_device(question: Question, raw: bytes) -> None:
    same_as_parsed(question, raw)


def test_the_longest_reply_has_room() -> None:
    for one in (b"\x05\0\0\x14iqn.2026-11.example\0", b"\x06\0\0\0" + bytes(20)):
        descriptor = bytes(20) + len(one).to_bytes(4, "big") + one
        count = (0xFFFF - 8) // len(descriptor)
        raw = bytes(4) + (count * len(descriptor)).to_bytes(4, "big") + descriptor * count
        found = asked(facts.FULL_STATUS, raw)
        assert isinstance(found, ReadFullStatus)
        assert len(found.descriptors) == count
    longest = Designator(Association.LOGICAL_UNIT, Kind.NAME_STRING, 3, b"\xff" * 255)
    assert len(str(asked(facts.LU_NAME, IdentificationPage((longest,)).build()))) == 1025


@given(st.sampled_from(QUESTIONS), st.integers(0, 255), st.binary(max_size=200))
def test_no_bytes_of_a_parser_are_taken_that_an_honest_one_does_not_send(
    question: Question, kind: int, body: bytes
) -> None:
    try:
        found = result(lambda: facts_in(question, kind, body))
    except ValueError:
        return
    if kind == 1:
        assert isinstance(found, tuple)
        assert all(text.isprintable() for text in found)
    else:
        assert kind == 0
        assert question.pack(found) == body


@given(
    read_keys | read_reservations | capabilities | full_statuses | senses,
    st.data(),
)
def test_an_answer_with_another_byte_is_another_answer_or_none(reply, data) -> None:
    question = BY_REPLY.get(type(reply), facts.SENSE)
    body = bytearray(question.pack(reply))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    try:
        found = facts_in(question, 0, bytes(body))
    except ValueError:
        return
    assert found != reply
    assert question.pack(found) == bytes(body)


IMPOSSIBLE = {
    "keys whose length is none": (facts.KEYS, struct.pack("=IIBQ", 1, 9, 1, 7)),
    "more keys than are claimed": (facts.KEYS, struct.pack("=IIBQQ", 1, 8, 0, 7, 8)),
    "keys that are all there, and cut": (facts.KEYS, struct.pack("=IIBQ", 1, 8, 1, 7)),
    "a truth that is 2": (facts.KEYS, struct.pack("=IIBQ", 1, 16, 2, 7)),
    "more keys than a reply has": (
        facts.KEYS,
        struct.pack("=IIB", 1, 80_000, 0) + bytes(80_000),
    ),
    "a type of a byte": (facts.RESERVATION, struct.pack("=IBQBB", 1, 1, 7, 16, 0)),
    "a key where nothing is reserved": (facts.RESERVATION, struct.pack("=IBQBB", 1, 0, 7, 0, 0)),
    "a ninth type": (facts.CAPABILITIES, struct.pack("=BBH", 0, 0, 1 << 9)),
    "an eighth flag": (facts.CAPABILITIES, struct.pack("=BBH", 0x80, 0, 0)),
    "ALLOW COMMANDS of four bits": (facts.CAPABILITIES, struct.pack("=BBH", 0, 8, 0)),
    "a sense key of a byte": (facts.SENSE, struct.pack("=BBhh", 0x70, 16, 0, 0)),
    "a response code": (facts.SENSE, struct.pack("=BBhh", 0x74, 6, 0, 0)),
    "an ASCQ without ASC": (facts.SENSE, struct.pack("=BBhh", 0x70, 6, -1, 0)),
    "an ASC of 300": (facts.SENSE, struct.pack("=BBhh", 0x70, 6, 300, 0)),
    "no name": (facts.LU_NAME, b""),
    "a name with a line's end": (facts.LU_NAME, b"naa.6\nmore"),
    "a name with a blank": (facts.LU_NAME, b"naa.6 more"),
    "a name that is no ASCII": (facts.LU_NAME, b"naa.\xc3\xa4"),
    "a name without end": (facts.LU_NAME, b"x" * 2049),
    "a page's name that is not there": (facts.PAGE_NAMES, struct.pack("=HHi", 9, 0xFFFF, -1)),
    "a page with more behind it": (facts.PAGE_NAMES, struct.pack("=HHi", 1, 0xFFFF, -1) + b"xy"),
    "a port of 17 bits": (facts.PAGE_NAMES, struct.pack("=HHi", 0xFFFF, 0xFFFF, 1 << 16)),
    "a page's empty name": (facts.PAGE_NAMES, struct.pack("=HHi", 0, 0xFFFF, -1)),
    **{
        f"a registration: {what}": (
            facts.FULL_STATUS,
            struct.pack("=IIBI", 1, 48, 0, count) + facts._REGISTRATION.pack(*fields) + name,
        )
        for what, count, fields, name in (
            ("two of one", 2, (7, 1, 0, 0, 0, 6, 0, 5, facts._NONE, 0), b""),
            ("none, and one", 0, (7, 1, 0, 0, 0, 6, 0, 5, facts._NONE, 0), b""),
            ("as many as there are", 1 << 31, (7, 1, 0, 0, 0, 6, 0, 5, facts._NONE, 0), b""),
            ("a type of who does not hold", 1, (7, 1, 0, 5, 0, 6, 0, 5, facts._NONE, 0), b""),
            ("an address of 65 bits", 1, (7, 1, 0, 0, 0, 6, 1, 5, facts._NONE, 0), b""),
            ("an unknown protocol", 1, (7, 1, 0, 0, 0, 9, 0, 5, facts._NONE, 0), b""),
            ("an ISID of 49 bits", 1, (7, 1, 0, 0, 0, 5, 0, 0, 1 << 48, 1), b"x"),
            ("a name that is not there", 1, (7, 1, 0, 0, 0, 5, 0, 0, facts._NONE, 9), b"x"),
            ("a name behind it", 1, (7, 1, 0, 0, 0, 6, 0, 5, facts._NONE, 0), b"x"),
            ("a name with NUL", 1, (7, 1, 0, 0, 0, 5, 0, 0, facts._NONE, 2), b"x\0"),
            ("a name of 224 bytes", 1, (7, 1, 0, 0, 0, 5, 0, 0, facts._NONE, 224), b"x" * 224),
            ("no bytes", 1, (7, 1, 0, 0, 0, 255, 0, 0, facts._NONE, 0), b""),
        )
    },
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_what_no_device_can_have_sent(what: str) -> None:
    question, body = IMPOSSIBLE[what]
    with pytest.raises(ValueError, match=r"answer|decode|bytes|printed"):
        facts_in(question, 0, body)


def test_what_is_malformed_is_said_in_one_line() -> None:
    with pytest.raises(ValueError, match="cannot be printed"):
        facts_in(facts.KEYS, 1, b"READ KEYS\nso\nand so")
    with pytest.raises(ValueError, match="too long"):
        facts_in(facts.KEYS, 1, b"READ KEYS\n" + b"x" * 3000)
