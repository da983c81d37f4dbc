"""The mask, the refusals and the policy file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.errors import UsageError
from prtrace.prhelper.policy import Guard, Policy, Rule, Settings, hidden, masked, refusal
from prtrace.prhelper.wire import CLEANUP, Request, Response
from prtrace.scsi.sense import Sense

LIO = bytes.fromhex("00081d90ea010000")


def pr_in(action: int, length: int = 8192) -> Request:
    return Request(
        bytes((0x5E, action, 0, 0, 0, 0, 0)) + length.to_bytes(2, "big") + bytes(7), b"", length
    )


def pr_out(action: int, flags: int = 0, size: int = 24) -> Request:
    body = (bytes(20) + bytes((flags, 0, 0, 0)))[:size]
    return Request(bytes((0x5F, action, 0, 0, 0, 0, 0, 0, size)) + bytes(7), body)


@pytest.mark.parametrize("length", range(9))
def test_capabilities_of_any_length(length: int) -> None:
    shown = masked(pr_in(2, length), Response(0, b"", LIO[:length])).data
    assert shown == bytes.fromhex("00081190ea010000")[:length]


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=64))
def test_nothing_else_is_changed(opcode: int, action: int, status: int, data: bytes) -> None:
    request = Request(bytes((opcode, action)) + bytes(14), b"", 64)
    shown = masked(request, Response(status, b"s", data))
    if (opcode, action & 0x1F, status) == (0x5E, 2, 0) and len(data) > 2:
        assert shown.data[2] == data[2] & 0xF3
        assert shown.data[:2] + shown.data[3:] == data[:2] + data[3:]
    else:
        assert shown == Response(status, b"s", data)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (pr_out(0, 0x08), (0x26, 0)),
        (pr_out(0, 0x04), (0x26, 0)),
        (pr_out(6, 0x0C), (0x26, 0)),
        (pr_out(6, 0x05), (0x26, 0)),
        (pr_out(7), (0x24, 0)),
        (pr_out(8), (0x24, 0)),
        (pr_out(0x27), (0x24, 0)),  # reserved bits of byte 1 do not open a way round
        (pr_out(0, 0x08, 21), (0x26, 0)),
    ],
)
def test_what_is_refused(request_: Request, code: tuple[int, int]) -> None:
    answer = hidden(request_)
    assert answer is not None
    sense = Sense.parse(answer.sense)
    assert (answer.status, sense.key, sense.asc, sense.ascq) == (2, 5, *code)


@pytest.mark.parametrize(
    "request_",
    [
        *(pr_in(action) for action in range(5)),
        *(pr_out(action) for action in range(7)),
        *(pr_out(action, 0x01) for action in range(7)),
        *(pr_out(action, 0x0C) for action in range(1, 6)),  # ignored by every target there
        pr_out(0, 0x08, 20),
        pr_out(0, 0, 0),
        Request(bytes((CLEANUP, 7)) + bytes(14)),
    ],
)
def test_what_passes(request_: Request) -> None:
    assert hidden(request_) is None
    assert refusal(request_) is None


def test_a_list_longer_than_64_kib_is_not_what_came() -> None:
    answer = refusal(Request(bytes((0x5F, 0, 0, 0, 0, 0, 1, 0, 24)) + bytes(7), bytes(24)))
    assert answer is not None
    assert answer.sense[12:14] == b"\x24\x00"


def test_the_default() -> None:
    assert Policy.parse("") == Policy()
    assert Policy().settings(("vm",), "naa.1") == Settings(hide=True, guard=Guard.WARN)


def test_rules() -> None:
    policy = Policy.parse(
        """
        hide = false
        guard = "off"
        [[rule]]
        guest = "VM1"
        hide = true
        [[rule]]
        guest = "5c6f9c4e-0d1f-4c52-8b5b-0c4a5f7d9f11"
        device = "naa.6001405"
        guard = "refuse"
        [[rule]]
        device = "naa.6001405"
        hide = true
        guard = "warn"
        """
    )
    uuid = "5C6F9C4E-0D1F-4C52-8B5B-0C4A5F7D9F11"
    assert policy.asks_for_device
    assert policy.settings(("vm1",), "") == Settings(hide=True, guard=Guard.OFF)
    assert policy.settings(("vm1", uuid), "naa.6001405") == Settings(hide=True, guard=Guard.REFUSE)
    assert policy.settings(("x",), "NAA.6001405") == Settings(hide=True, guard=Guard.WARN)
    assert policy.settings((), "naa.2") == Settings(hide=False, guard=Guard.OFF)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hide =", "no TOML"),
        ("hidden = true", "unknown key 'hidden'"),
        ("hide = 1", "true or false"),
        ('guard = "maybe"', "one of off, warn, refuse"),
        ("guard = 3", "one of off"),
        ("rule = 3", "to be written as"),
        ("rule = [3]", "rule 1 of the policy is no table"),
        ("[[rule]]\nhide = true", "names neither guest nor device"),
        ("[[rule]]\nguest = 3", "guest is to be a text"),
        ('guest = "x"', "unknown key 'guest'"),
    ],
)
def test_what_is_wrong_with_a_file(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Policy.parse(text)


def test_a_rule_for_all_guests() -> None:
    assert Rule(device="naa.1").applies((), "naa.1")
    assert not Rule(guest="a").applies(("b",), "naa.1")
