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


@pytest.mark.parametrize(
    ("line", "opcode", "path"),
    [
        ('NMP: nmp_CompleteCommandForPath: Command 0x2a (0x4100020e0b00) to NMP device "naa.6006" '
         'failed on physical path "vmhba2:C0:T0:L152" H:0x0 D:0x18 P:0x0', 0x2A, True),
        ('NMP: nmp_ThrottleLogForDevice:2318: Cmd 0x28 (0x412441199080) to dev "naa.6006" on path '
         '"vmhba2:C0:T1:L1" Failed: H:0x0 D:0x18 P:0x0 Possible sense data: 0x0 0x0 0x0.Act:EVAL',
         0x28, True),
        ('ScsiDeviceIO: 4644: Cmd(0x45bd1e5ee600) 0x8a, CmdSN 0x800e0007 from world 2116953 to '
         'dev "naa.6006" failed H:0x0 D:0x18 P:0x0', 0x8A, False),
        ('In(182) vmkernel: cpu70:2098575)NMP: nmp_ThrottleLogForDevice:3893: Cmd 0x89 (0x45dd57, '
         '2097288) to dev "naa.6006" on path "vmhba3:C0:T6:L17" Failed:\n2026-03-29T20:49:12.918Z '
         "In(182) vmkernel: cpu70:2098575)NMP: nmp_ThrottleLogForDevice:3898: H:0x0 D:0x18 P:0x0 "
         ". Act:NONE. cmdId.initiator=0x4305 CmdSN 0x5", 0x89, True),
    ],
)  # fmt: skip
def test_the_lines_of_esxi_4_to_8(line, opcode, path):
    seen = only(f"2026-03-29T20:49:12.918Z {line}")
    assert (seen.lu, seen.opcode, seen.status) == ("naa.6006", opcode, 0x18)
    assert any(name == "path" for name, _ in seen.facts) is path
