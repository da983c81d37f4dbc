"""ESXi's log."""

import pytest

from paste.lines import only
from prtrace.paste.seen import SenseTriple

ESXI = (
    "2016-06-28T13:15:56.432Z cpu31:33451)ScsiDeviceIO: 2651: Cmd(0x43a617083a00) 0x5f, CmdSN "
    '0x1a236 from world 34269 to dev "naa.6000d31000bd23000000000000000007" failed '
)


@pytest.mark.parametrize(
    ("words", "status", "triple"),
    [
        ("H:0x0 D:0x18 P:0x0 Possible sense data: 0x0 0x0 0x0.", 0x18, None),
        ("H:0x0 D:0x2 P:0x0 Valid sense data: 0x6 0x2a 0x5.", 2, SenseTriple(6, 0x2A, 5)),
        ("H:0x0 D:0x2 P:0x0", 2, None),
    ],
)
def test_esxi(words, status, triple):
    seen = only(ESXI + words)
    assert (seen.lu, seen.opcode) == ("naa.6000d31000bd23000000000000000007", 0x5F)
    assert (seen.status, seen.triple, seen.cdb) == (status, triple, b"")
    part = only(words)
    assert (part.status, part.triple, part.lu) == (status, triple, "")


def test_a_host_status_of_esxi_leaves_the_device_s_unsaid():
    seen = only(ESXI + "H:0x5 D:0x0 P:0x0 Possible sense data: 0x0 0x0 0x0.")
    assert (seen.status, seen.host_byte) == (None, "0x5")


def test_a_device_status_alone():
    assert only("D:0x18").status == 0x18
