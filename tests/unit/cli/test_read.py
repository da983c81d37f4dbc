"""What `prtrace read` makes of a Reading: JSON by its schema, text of 80 columns."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from shipped import valid

from prtrace.cli import read
from prtrace.errors import ConflictError, DeviceError, NoSuchDeviceError
from prtrace.linux.reader import Reader
from prtrace.linux.sgio import Reply
from prtrace.model import ReservationType
from prtrace.scsi.codes import InAction
from prtrace.scsi.reply import FullStatusDescriptor
from prtrace.scsi.transportid import IscsiPort
from tests.unit.linux.scripted import ScriptedTarget, attention, registrant

A, B = 0x1122334455667788, 0x0A00000000000000


def told(target: ScriptedTarget) -> dict[str, Any]:
    reader = Reader(target)
    found = read._document("/dev/sda", reader.read(), reader, [])
    valid(found, "read.1")
    assert all(len(line) <= 80 for line in read.read_lines(found)), read.read_lines(found)
    return found


@pytest.fixture
def target() -> ScriptedTarget:
    made = ScriptedTarget([registrant(1, A), registrant(2, B)])
    made.hold(1, ReservationType.EARO)
    return made


def test_what_agrees(target: ScriptedTarget) -> None:
    target.answers = deque([attention(0x2A, 0x03)])
    found = told(target)
    assert found["keys"] == ["0x1122334455667788", "0x0a00000000000000"]
    assert found["reservation"]["type"] == "EARO"
    assert [each["holder"] for each in found["registrations"]] == [False, True]
    assert found["registrations"][1]["type"] == "EARO"
    assert found["attentions"] == ["UNIT ATTENTION 2A/03 RESERVATIONS PREEMPTED"]
    assert found["capabilities"]["persist_through_power_loss"] == {"capable": True, "active": True}
    assert (found["notes"], found["doubt"]) == ([], [])


def test_both_lists_are_shown_where_they_differ(target: ScriptedTarget) -> None:
    target.hidden = 1
    found = told(target)
    assert found["keys"] == ["0x1122334455667788", "0x0a00000000000000"]
    assert len(found["registrations"]) == 1
    assert "READ KEYS lists 2 registrations" in found["doubt"][0]


def test_the_other_byte_order_is_turned_round_and_told(target: ScriptedTarget) -> None:
    target.swapped = True
    found = told(target)
    assert [each["key"] for each in found["registrations"]] == found["keys"]
    assert [each["relative_target_port"] for each in found["registrations"]] == [1, 1]
    assert "byte order" in found["notes"][0]


def test_what_the_device_does_not_know(target: ScriptedTarget) -> None:
    target.unknown = frozenset({InAction.READ_FULL_STATUS, InAction.REPORT_CAPABILITIES})
    found = told(target)
    assert (found["registrations"], found["capabilities"]) == (None, None)
    assert found["notes"] == [
        "the device does not know REPORT CAPABILITIES",
        "the device does not know READ FULL STATUS",
    ]


def test_more_than_one_reply_names() -> None:
    ports = [IscsiPort(b"iqn.2001-04.example:host%04d" % n, n) for n in range(1024)]
    found = told(ScriptedTarget([FullStatusDescriptor(A + n, 1, p) for n, p in enumerate(ports)]))
    assert len(found["registrations"]) == 1024
    assert found["registrations"][-1]["initiator_port"] is None
    assert "some are not named" in found["notes"][0]


def test_a_long_initiator_port_is_shown_whole() -> None:
    name = "iqn.2001-04.example:" + "x" * 200
    found = told(ScriptedTarget([FullStatusDescriptor(A, 1, IscsiPort(name.encode()))]))
    assert name in "".join(read.read_lines(found)).replace(" ", "")


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (Reply(0x18, 0, 0, b"", b"", 1), ConflictError, "READ KEYS: RESERVATION CONFLICT"),
        (Reply(0x00, 3, 0, b"", b"", 1), DeviceError, "no answer in time"),
    ],
)
def test_what_is_not_answered(answer: Reply, error: type[Exception], words: str) -> None:
    reader = Reader(ScriptedTarget(answers=deque([answer])))
    with pytest.raises(error, match=f"/dev/sda: READ KEYS: .*{words.split(': ')[-1]}"):
        read._document("/dev/sda", reader.read(), reader, [])


def test_nodes_that_take_commands_are_taken_as_they_are() -> None:
    assert read._nodes("/dev/absent") == ["/dev/absent"]
    assert not read._takes_commands("/dev/null")
    with pytest.raises(NoSuchDeviceError, match="no SCSI node"):
        read._nodes("/dev/null")
