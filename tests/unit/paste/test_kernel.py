"""The kernel's log and its tracepoints."""
# ruff: noqa: E501  # log lines are as long as they are

import pytest

from paste.lines import RESERVE, fixture, only
from prtrace.paste.reader import read_text
from prtrace.paste.seen import SenseTriple

CONFLICT = """\
[  812.345678] sd 6:0:0:1: reservation conflict
[  812.345690] sd 6:0:0:1: [sdb] tag#16 FAILED Result: hostbyte=DID_OK driverbyte=DRIVER_OK cmd_age=0s
[  812.345695] sd 6:0:0:1: [sdb] tag#16 CDB: Write(10) 2a 00 00 00 00 50 00 00 08 00
[  812.345700] reservation conflict error, dev sdb, sector 80 op 0x1:(WRITE) flags 0x0 phys_seg 1 prio class 2
[  812.400000] sd 6:0:0:1: reservation conflict
"""


TRACE = (
    "     kworker/0:1-12  [000] d..1.   123.456789: scsi_dispatch_cmd_done: host_no=0 channel=0 "
    "id=1 lun=0 data_sgl=1 prot_sgl=0 prot_op=SCSI_PROT_NORMAL cmnd=(PERSISTENT_RESERVE_OUT - "
    "raw=5f 01 05 00 00 00 00 00 18 00) result=(driver=DRIVER_OK host=DID_OK "
    "message=COMMAND_COMPLETE status=SAM_STAT_RESERVATION_CONFLICT)"
)


@pytest.mark.parametrize(
    ("sector", "operation", "known"),
    [(80, "WRITE", True), (640, "WRITE", True), (88, "WRITE", False), (80, "READ", False),
     (81, "WRITE", False), (80, "FLUSH", False)],
)  # fmt: skip
def test_the_block_layer_s_line_names_the_command(sector, operation, known):
    """By its sector of 512 bytes, where blocks have as many or 4096, and by what it does."""
    other = CONFLICT.replace("sector 80 op 0x1:(WRITE)", f"sector {sector} op 0x1:({operation})")
    told = next(iter(read_text(other)))
    assert bool(told.cdb) is known


def test_lines_without_a_tag_are_observations_of_their_own():
    told, command, block, second = read_text(CONFLICT)
    assert (told.nexus, told.status, told.cdb) == ("6:0:0:1", 0x18, command.cdb)
    assert told.stamp.since_boot_ns == 812_345_678_000
    assert (command.device, command.status) == ("sdb", None)
    assert command.cdb == bytes.fromhex("2a000000005000000800")
    assert (block.device, block.nexus, block.status) == ("sdb", "", 0x18)
    assert block.facts == (("sector", "80"), ("operation", "0x1:(WRITE)"))
    assert (told.perhaps, command.perhaps, block.perhaps) == (0, 1, 1)
    assert (second.line, second.cdb, second.status, second.perhaps) == (5, b"", 0x18, 0)


@pytest.mark.parametrize("word", ["critical nexus error", "reservation conflict error"])
@pytest.mark.parametrize("before", ["", "blk_update_request: "])
def test_the_block_layer_s_line_alone(word, before):
    seen = only(f"{before}{word}, dev sdc, sector 2048 op 0x0:(READ) flags 0x80700 phys_seg 1")
    assert (seen.device, seen.nexus, seen.status) == ("sdc", "", 0x18)


@pytest.mark.parametrize("prefix", [
    "", "[   12.345678] ", "Nov 27 21:43:55 host kernel: ", "Nov 27 21:43:55 host kernel: [ 1.25] ",
    "2026-11-27T21:43:55.123456+0100 host kernel: ", "[Fri Nov 27 21:43:55 2026] ",
    "2026-11-27T21:43:55,123456+00:00 ",
])  # fmt: skip
def test_the_kernel_s_lines_behind_any_stamp(prefix):
    seen = only(
        f"{prefix}sd 0:0:0:0: [sda] tag#3 CDB: Persistent reserve out 5f 01 05 00 00 00 00 00 18 00"
    )
    assert (seen.cdb, seen.nexus, seen.device) == (RESERVE, "0:0:0:0", "sda")
    assert (seen.stamp is None) == (prefix == "")


def test_sense_in_the_kernel_s_words():
    seen = only(
        "sd 1:0:0:0: [sda] tag#7 FAILED Result: hostbyte=DID_OK driverbyte=DRIVER_SENSE\n"
        "sd 1:0:0:0: [sda] tag#7 Sense Key : Unit Attention [current] \n"
        "sd 1:0:0:0: [sda] tag#7 Add. Sense: Registrations preempted\n"
        "sd 1:0:0:0: [sda] tag#7 CDB: Test Unit Ready 00 00 00 00 00 00\n"
    )
    assert (seen.triple, seen.status) == (SenseTriple(6, 0x2A, 5), 2)
    assert seen.cdb == bytes(6)


def test_a_host_error():
    seen = only("sd 1:0:0:0: [sda] tag#7 Done: TIMEOUT Result: hostbyte=DID_TIME_OUT driverbyte=0")
    assert (seen.host_byte, seen.status) == ("DID_TIME_OUT", None)


def test_lines_of_two_commands_are_not_mixed():
    found = read_text(
        "sd 1:0:0:0: [sda] tag#7 CDB: Persistent reserve out 5f 01 05 00 00 00 00 00 18 00\n"
        "sd 2:0:0:0: [sdb] tag#7 CDB: Read(10) 28 00 00 00 00 00 00 00 08 00\n"
        "sd 1:0:0:0: [sda] tag#8 CDB: Persistent reserve out 5f 02 05 00 00 00 00 00 18 00\n"
    )
    assert [each.cdb[:2].hex() for each in found] == ["5f01", "2800", "5f02"]


def test_tracepoints():
    seen = only(TRACE)
    assert (seen.nexus, seen.cdb, seen.status) == ("0:0:1:0", RESERVE, 0x18)
    assert seen.stamp.since_boot_ns == 123_456_789_000
    assert only(TRACE[TRACE.index("cmnd=") :]).cdb == RESERVE
    assert only(TRACE.replace("_done", "_timeout")).timed_out
    begun = TRACE.replace("_done", "_start")
    assert len(read_text(f"{begun}\n{TRACE}")) == 1


@pytest.mark.parametrize(
    "between", ["[  2.000000] sd 6:0:0:1: [sdb] tag#1 FAILED Result: hostbyte=DID_OK\n", ""]
)
def test_a_conflict_is_not_joined_with_a_later_command(between):
    found = read_text(
        "[  1.000000] sd 6:0:0:1: reservation conflict\n"
        f"{between}"
        "[  2.000000] sd 6:0:0:1: [sdb] tag#1 CDB: Persistent reserve out 5f 01 05 00 00 00 00 00 18 00\n"
    )
    assert [(each.status, each.cdb) for each in found] == [(0x18, b""), (None, RESERVE)]


def test_a_real_kernel_s_conflicts():
    """A write and a PERSISTENT RESERVE OUT by SG_IO, of which the kernel prints no CDB."""
    first, command, block, second = read_text(fixture("linux-6.12-conflict.log"))
    assert (first.nexus, first.status) == ("2:0:1:0", 0x18)
    assert (command.device, command.perhaps, block.perhaps) == ("sdc", 1, 1)
    assert command.cdb == bytes.fromhex("2a000000000000000800")
    assert (second.nexus, second.status, second.cdb) == ("2:0:1:0", 0x18, b"")


def test_a_real_kernel_with_scsi_logging_level():
    """Each command is there twice, when it is sent and when it is done, and is one."""
    found = read_text(fixture("linux-6.12-logging-level.log"))
    conflicts = {each.line: each.nexus for each in found if each.status == 0x18 and each.nexus}
    assert [
        (each.nexus, each.cdb[:2].hex(), conflicts.get(each.perhaps))
        for each in found
        if each.cdb and each.status is None
    ] == [
        ("1:0:1:0", "5f01", "1:0:1:0"),
        ("0:0:1:0", "5f02", "0:0:1:0"),
        ("2:0:1:0", "2a00", "2:0:1:0"),
        ("0:0:1:0", "5e00", None),
    ]


def test_a_real_kernel_s_tracepoints():
    found = read_text(fixture("linux-6.12-trace.txt"))
    outs = [(each.nexus, each.cdb[:2].hex(), each.status) for each in found if each.cdb[0] == 0x5F]
    assert outs[:5] == [
        ("0:0:1:0", "5f00", 0),
        ("1:0:1:0", "5f00", 0),
        ("0:0:1:0", "5f01", 0),
        ("1:0:1:0", "5f01", 0x18),
        ("0:0:1:0", "5f02", 0x18),
    ]
    assert all(each.stamp.since_boot_ns for each in found)
    assert found[-1].cdb[0] == 0x2A
