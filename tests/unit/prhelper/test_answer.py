"""Host bytes, errno and statuses as the guest is told."""

from __future__ import annotations

import errno

import pytest

from prtrace.linux.sgio import Reply
from prtrace.prhelper.answer import of_errno, of_reply
from prtrace.scsi.sense import FIXED, UNIT_ATTENTION, Sense

SENSE = Sense(FIXED, UNIT_ATTENTION, 0x2A, 0x03).build()


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (Reply(0, 0, 0, b"", b"data", 1), 0, None),
        (Reply(2, 0, 8, SENSE, b"data", 1), 2, (6, 0x2A, 3)),
        (Reply(0, 0, 8, SENSE, b"", 1), 2, (6, 0x2A, 3)),
        (Reply(2, 0, 0, b"", b"", 1), 2, (0xB, 0, 6)),
        (Reply(0x18, 0, 0, b"", b"", 1), 0x18, None),
        (Reply(0x18, 0x11, 0, b"", b"", 1), 0x18, None),
        (Reply(0, 0x11, 0, b"", b"", 1), 0x18, None),
        (Reply(8, 0, 0, b"", b"", 1), 8, None),
        (Reply(0, 2, 0, b"", b"", 1), 8, None),
        (Reply(0, 0, 6, b"", b"", 1), 8, None),
        (Reply(0, 1, 0, b"", b"", 1), 2, (0xB, 5, 0)),
        (Reply(0, 3, 0, b"", b"", 1), 2, (0xB, 0x2E, 2)),
        (Reply(0, 0xE, 0, b"", b"", 1), 2, (0xB, 0x29, 7)),
    ],
)
def test_the_guest_gets_status_sense_and_data_of_a_reply(
    reply: Reply, status: int, code: tuple[int, int, int] | None
) -> None:
    told = of_reply(reply)
    assert told.status == status
    assert told.data == (b"data" if status == 0 else b"")
    if code is None:
        assert told.sense == b""
    else:
        sense = Sense.parse(told.sense)
        assert (sense.key, sense.asc, sense.ascq) == code


@pytest.mark.parametrize("host", range(1, 0x20))
def test_no_transport_fault_is_good(host: int) -> None:
    assert of_reply(Reply(0, host, 0, b"", b"data", 1)).status != 0


@pytest.mark.parametrize("number", [0, *errno.errorcode])
def test_no_errno_is_good(number: int) -> None:
    assert of_errno(number).status != 0


def test_a_failed_system_call_is_a_status_or_sense_data() -> None:
    assert of_errno(errno.EBADE).status == 0x18
    assert of_errno(errno.EDOM).status == 0x28
    assert of_errno(errno.ENOTTY).sense[2] == 0xB
    assert of_errno(errno.EINVAL).sense[12:14] == b"\x24\0"
