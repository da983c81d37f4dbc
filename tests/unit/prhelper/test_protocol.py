"""Both sessions against each other, cut anywhere, and against what breaks the protocol."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.errors import MalformedError, UsageError
from prtrace.prhelper.protocol import (
    CLEANUP,
    DATA_SIZE,
    FEATURE_CLEANUP,
    REPLY_HEADER,
    SENSE_SIZE,
    ClientSession,
    Request,
    Response,
    ServerSession,
)

READ_KEYS = bytes((0x5E, 0, 0, 0, 0, 0, 0, 0x20, 0)) + bytes(7)
REGISTER = bytes((0x5F, 0, 0, 0, 0, 0, 0, 0, 24)) + bytes(7)


def greeted(offered: int = 0) -> ServerSession:
    session = ServerSession(offered)
    assert session.feed(bytes(4)) is None
    assert session.greeted
    return session


def feed_all(session: ServerSession, data: bytes, cuts: list[int], carrier: int) -> Request | None:
    """Feed data in pieces of the given sizes; the descriptor comes with the byte at carrier."""
    found, offset = None, 0
    while offset < len(data):
        size = min(cuts.pop(0) if cuts else 1 << 16, session.wanted, len(data) - offset)
        has = offset <= carrier < offset + size
        found = session.feed(data[offset : offset + size], int(has))
        offset += size
    return found


requests = st.one_of(
    st.tuples(st.binary(min_size=6, max_size=6), st.integers(0, DATA_SIZE)).map(
        lambda t: Request(b"\x5e" + t[0] + t[1].to_bytes(2, "big") + bytes(7), b"", t[1])
    ),
    st.tuples(st.binary(min_size=6, max_size=6), st.binary(max_size=200)).map(
        lambda t: Request(b"\x5f" + t[0] + len(t[1]).to_bytes(2, "big") + bytes(7), t[1])
    ),
    st.binary(min_size=15, max_size=15).map(lambda tail: Request(bytes((CLEANUP,)) + tail)),
)


@given(requests, st.lists(st.integers(1, 30)), st.integers(0, 15))
def test_a_request_arrives_in_any_pieces(request: Request, cuts: list[int], carrier: int) -> None:
    session = greeted()
    assert feed_all(session, request.build(), cuts, carrier) == request
    assert session.wanted == 0
    assert len(session.reply(Response(0x18))) == REPLY_HEADER
    assert session.wanted == 16
    assert session.idle
    assert feed_all(session, request.build(), cuts, carrier) == request


@given(
    requests, st.integers(0, 255), st.binary(max_size=SENSE_SIZE), st.binary(max_size=DATA_SIZE)
)
def test_a_reply_never_exceeds_what_the_client_takes(
    request: Request, status: int, sense: bytes, data: bytes
) -> None:
    session, client = greeted(), ClientSession()
    client.feed(bytes(4))
    assert client.send(request) == request.build()
    assert feed_all(session, request.build(), [], 0) == request
    raw = session.reply(Response(status, sense, data))
    got = client.feed(raw[: client.wanted])
    rest = raw[REPLY_HEADER:]
    if rest:
        assert got is None
        got = client.feed(rest)
    wanted = data[: request.allocation_length] if status == 0 else b""
    assert got == Response(status, sense.ljust(SENSE_SIZE, b"\0"), wanted)


@given(st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 3)), max_size=20))
def test_anything_gives_a_request_or_a_declared_error(pieces: list[tuple[bytes, int]]) -> None:
    session = ServerSession(FEATURE_CLEANUP)
    try:
        for data, descriptors in pieces:
            found = session.feed(data[: session.wanted], descriptors)
            if found is not None:
                assert len(found.cdb) == 16
                assert len(found.parameter) <= DATA_SIZE
                session.reply(Response(2, b"x"))
    except MalformedError:
        return


@given(st.binary(max_size=300))
def test_a_client_takes_any_bytes(data: bytes) -> None:
    client = ClientSession()
    client.feed(bytes(4))
    client.send(Request(READ_KEYS, b"", 0x2000))
    try:
        while data and client.wanted:
            size = min(client.wanted, len(data))
            response = client.feed(data[:size])
            data = data[size:]
            if response is not None:
                assert len(response.data) <= 0x2000
    except MalformedError:
        return


@pytest.mark.parametrize(
    ("data", "descriptors", "words"),
    [
        (READ_KEYS, 0, "no descriptor"),
        (READ_KEYS, 2, "more than one"),
        (b"\x12" + READ_KEYS[1:], 1, "operation code 0x12"),
        (READ_KEYS[:7] + b"\x20\x01" + bytes(7), 1, "transfers 8193 bytes"),
        (REGISTER[:7] + b"\xff\xff" + bytes(7), 1, "transfers 65535 bytes"),
    ],
)
def test_what_ends_the_connection(data: bytes, descriptors: int, words: str) -> None:
    with pytest.raises(MalformedError, match=words):
        greeted().feed(data, descriptors)


@pytest.mark.parametrize(("offered", "asked"), [(0, 1), (1, 2), (1, 3), (0, 0x80000000)])
def test_features_that_were_not_offered_are_refused(offered: int, asked: int) -> None:
    with pytest.raises(MalformedError, match="asks for features"):
        ServerSession(offered).feed(asked.to_bytes(4, "big"))


def test_features_that_were_offered_are_taken() -> None:
    session = ServerSession(FEATURE_CLEANUP)
    assert session.greeting == b"\0\0\0\1"
    session.feed(b"\0\0\0\1")
    assert session.greeted


def test_descriptors_with_greeting_and_list_are_not_the_requests() -> None:
    session = ServerSession(0)
    assert not session.takes_descriptor
    session.feed(bytes(4), 5)
    assert session.takes_descriptor
    session.feed(REGISTER, 1)
    assert not session.takes_descriptor
    assert session.feed(bytes(24), 3) is not None


def test_cleanup_has_no_length() -> None:
    request = greeted().feed(bytes((CLEANUP,)) + b"\xff" * 15, 1)
    assert request == Request(bytes((CLEANUP,)) + b"\xff" * 15)


def test_more_than_wanted_is_the_callers_mistake() -> None:
    with pytest.raises(UsageError):
        ServerSession(0).feed(bytes(5))
    with pytest.raises(UsageError):
        greeted().reply(Response(0))


@pytest.mark.parametrize(
    ("status", "size", "cdb"),
    [
        (0, 0x2001, READ_KEYS),
        (0, -1, READ_KEYS),
        (2, 1, READ_KEYS),
        (0, 1, REGISTER),
        (-1, 0, READ_KEYS),
        (256, 0, READ_KEYS),
    ],
)
def test_a_reply_that_no_helper_may_give_is_refused(status: int, size: int, cdb: bytes) -> None:
    client = ClientSession()
    client.feed(bytes(4))
    room = 0x2000 if cdb is READ_KEYS else 0
    client.send(Request(cdb, bytes(24) if cdb is REGISTER else b"", room))
    raw = status.to_bytes(4, "big", signed=True) + size.to_bytes(4, "big", signed=True) + bytes(96)
    with pytest.raises(MalformedError, match="pr-helper reply"):
        client.feed(raw)


def test_a_client_wants_only_what_is_offered() -> None:
    client = ClientSession()
    client.feed(b"\0\0\0\2")
    assert client.greet(FEATURE_CLEANUP) == bytes(4)
