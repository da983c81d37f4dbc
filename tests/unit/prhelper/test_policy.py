"""The mask, the refusals and the policy file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.errors import UsageError
from prtrace.prhelper.client import HelperClient
from prtrace.prhelper.identity import Vouched
from prtrace.prhelper.policy import Guard, Policy, Rule, Settings, hidden, masked, refusal
from prtrace.prhelper.protocol import CLEANUP, Request, Response
from prtrace.scsi.sense import Sense

UUID = "5c6f9c4e-0d1f-4c52-8b5b-0c4a5f7d9f11"
LIO = bytes.fromhex("00081d90ea010000")


def client(*names: str, unit: str = "", uuid: str = "") -> HelperClient:
    return HelperClient(1, 0, 1, unit, Vouched("machine:x", "machine", names, uuid))


def pr_in(action: int, length: int = 8192) -> Request:
    return Request(
        bytes((0x5E, action, 0, 0, 0, 0, 0)) + length.to_bytes(2, "big") + bytes(7), b"", length
    )


def pr_out(action: int, flags: int = 0, size: int = 24) -> Request:
    body = (bytes(20) + bytes((flags, 0, 0, 0)))[:size]
    return Request(bytes((0x5F, action, 0, 0, 0, 0, 0, 0, size)) + bytes(7), body)


@pytest.mark.parametrize("length", range(9))
def test_capabilities_are_masked_however_short_the_reply_is(length: int) -> None:
    shown = masked(pr_in(2, length), Response(0, b"", LIO[:length])).data
    assert shown == bytes.fromhex("00081190ea010000")[:length]


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=64))
def test_only_capabilities_are_changed(opcode: int, action: int, status: int, data: bytes) -> None:
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


def test_the_default_hides_and_warns() -> None:
    assert Policy.parse("") == Policy()
    assert Policy().settings(client("vm"), "naa.1") == Settings(hide=True, guard=Guard.WARN)


def test_the_first_rule_that_says_a_setting_counts() -> None:
    policy = Policy.parse(
        f"""
        hide = false
        guard = "off"
        [[rule]]
        guest = "vm1"
        hide = true
        [[rule]]
        guest = "{UUID}"
        device = "naa.6001405"
        guard = "refuse"
        [[rule]]
        device = "naa.6001405"
        hide = true
        guard = "warn"
        [[rule]]
        unit = "kvm@9.service"
        guard = "warn"
        """
    )
    assert policy.asks_for_device
    assert policy.refuses
    vm1 = client("vm1", uuid=UUID)
    assert policy.settings(client("vm1"), "") == Settings(hide=True, guard=Guard.OFF)
    assert policy.settings(vm1, "naa.6001405") == Settings(hide=True, guard=Guard.REFUSE)
    assert policy.settings(client("x"), "NAA.6001405") == Settings(hide=True, guard=Guard.WARN)
    assert policy.settings(client(), "naa.2") == Settings(hide=False, guard=Guard.OFF)
    service = client(unit="kvm@9.service")
    assert policy.settings(service, "") == Settings(hide=False, guard=Guard.WARN)
    assert not Policy.parse('guard = "warn"').refuses


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hide =", "not TOML"),
        ("hidden = true", "unknown key 'hidden'"),
        ("hide = 1", "true or false"),
        ('guard = "maybe"', "one of off, warn, refuse"),
        ("guard = 3", "one of off"),
        ("rule = 3", "must be written as"),
        ("rule = [3]", "rule 1 of the policy is not a table"),
        ("[[rule]]\nhide = true", "names neither guest nor unit nor device"),
        ("[[rule]]\nguest = 3", "guest must be a text"),
        ('guest = "x"', "unknown key 'guest'"),
    ],
)
def test_what_is_wrong_with_a_file(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Policy.parse(text)


def test_a_rule_for_all_guests() -> None:
    assert Rule(device="naa.1").applies(client(), "naa.1")
    assert not Rule(guest="a").applies(client("b"), "naa.1")
    assert not Rule(unit="a.service").applies(client("a.service", unit="b.service"), "")


def test_a_name_is_compared_to_the_letter_and_a_uuid_with_the_label_alone() -> None:
    rule = Rule(guest="db1", hide=False)
    assert rule.applies(client("db1"), "naa.1")
    assert not rule.applies(client("DB1"), "naa.1")
    rule = Rule(guest=UUID.upper(), hide=False)
    assert rule.applies(client("db1", uuid=UUID), "naa.1")
    assert not rule.applies(client(UUID, uuid=UUID[:-1] + "2"), "naa.1")
    assert not rule.applies(client(UUID), "naa.1")


@pytest.mark.parametrize("device", ["/dev/sda", "sda", "/dev/disk/by-id/wwn-0x6.1"])
def test_a_device_that_is_no_designator_is_refused(device: str) -> None:
    """It would never apply, and nobody would know."""
    with pytest.raises(UsageError, match=r"rule 1 of the policy: device .* is no designator"):
        Policy.parse(f'[[rule]]\ndevice = "{device}"\nguard = "refuse"\n')
