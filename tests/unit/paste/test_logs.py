"""Log lines: the kernel's, its tracepoints', ESXi's, QEMU's, LIO's, and sense in words."""
# ruff: noqa: E501  # log lines are as long as they are

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.errors import MalformedError
from prtrace.paste.reader import read_text
from prtrace.paste.seen import SenseTriple
from prtrace.paste.shown import shown

FIXTURES = Path(__file__).parents[2] / "fixtures" / "paste"
RESERVE = bytes.fromhex("5f010500000000001800")

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
ESXI = (
    "2016-06-28T13:15:56.432Z cpu31:33451)ScsiDeviceIO: 2651: Cmd(0x43a617083a00) 0x5f, CmdSN "
    '0x1a236 from world 34269 to dev "naa.6000d31000bd23000000000000000007" failed '
)


def only(text):
    (seen,) = read_text(text)
    return seen


def test_lines_without_a_tag_are_observations_of_their_own():
    told, command, block, second = read_text(CONFLICT)
    assert (told.nexus, told.status, told.cdb) == ("6:0:0:1", 0x18, b"")
    assert told.stamp.since_boot_ns == 812_345_678_000
    assert (command.device, command.status) == ("sdb", None)
    assert command.cdb == bytes.fromhex("2a000000005000000800")
    assert (block.device, block.nexus, block.status) == ("sdb", "", 0x18)
    assert block.facts == (("sector", "80"), ("operation", "0x1:(WRITE)"))
    assert (told.perhaps, command.perhaps, block.perhaps) == (0, 1, 1)
    assert (second.line, second.cdb, second.status, second.perhaps) == (5, b"", 0x18, 0)


def test_decode_says_that_two_lines_may_be_of_one_command():
    _, command, *_ = read_text(CONFLICT)
    fields = [field for each in shown(command, None) for field in each.fields]
    assert ("perhaps the command", "that line 1 tells of") in [
        (each.name, each.value) for each in fields
    ]


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


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("scsi_generic_send_command Command: data= 0x5f 0x01 0x05 0x00 0x00 0x00 0x00 0x00 0x18 0x00",
         {"cdb": RESERVE}),
        ("1@1694.2:scsi_disk_new_request Command: lun=0 tag=0x1 data= 0x16 0x00 0x00 0x00 0x00 0x00",
         {"cdb": b"\x16" + bytes(5)}),
        ("scsi_req_parsed target 0 lun 0 tag 5 command 95 dir 2 length 24", {"opcode": 0x5F}),
        ("scsi_generic_ioctl_sgio_done generic ioctl sgio: cmd=0x5e ret=0 status=0x18 host_status=0x0",
         {"opcode": 0x5E, "status": 0x18}),
        ("virtio_scsi_cmd_resp virtio_scsi_cmd_resp lun=0 tag=0x0 response=0 status=0x18",
         {"status": 0x18}),
        ("scsi_req_build_sense target 0 lun 0 tag 1 key 0x05 asc 0x26 ascq 0x00",
         {"triple": SenseTriple(5, 0x26, 0)}),
        ("scsi_device_set_ua target 0 lun 0 key 0x06 asc 0x2a ascq 0x05",
         {"triple": SenseTriple(6, 0x2A, 5)}),
    ],
)  # fmt: skip
def test_qemu(line, what):
    seen = only(line)
    assert seen.source == "QEMU"
    assert {name: getattr(seen, name) for name in what} == what


@pytest.mark.parametrize(
    ("text", "triple"),
    [
        ("06/2a/03", (6, 0x2A, 3)),
        ("0x5 0x20 0x0", (5, 0x20, 0)),
        ("5/24/0", (5, 0x24, 0)),
        ("6h/2Ah/05h", (6, 0x2A, 5)),
        ("062a01", (6, 0x2A, 1)),
        ("sense data: 0x6 0x2a 0x5.", (6, 0x2A, 5)),
        ("9447 LTFS30201D CDB check condition: sense = 062a03, Reservations Preempted.", (6, 0x2A, 3)),
        ("SENSE KEY:ILLEGAL_REQUEST(5) ASCQ:INVALID_FIELD_IN_CDB(0x2400)", (5, 0x24, 0)),
        ("Sense Key : Unit Attention [current]", (6, None, None)),
        ("Sense Key : Unit Attention [current]\nAdd. Sense: Reservations preempted", (6, 0x2A, 3)),
        ("Sense Key : Illegal Request [current]\nAdd. Sense: ASC=0x99 ASCQ=0x1", (5, 0x99, 1)),
    ],
)  # fmt: skip
def test_sense_in_numbers_and_words(text, triple):
    assert only(text).triple == SenseTriple(*triple)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("mpatha: configured reservation key doesn't match: 0x0", "0x0000000000000000"),
        ("Nov 27 21:43:55 host multipathd[12]: 3600a: configured reservation key doesn't match: 0x12ab",
         "0x00000000000012ab"),
        ("123.4 | mpatha: no configured reservation key", "none"),
    ],
)  # fmt: skip
def test_multipath(line, key):
    seen = only(line)
    assert seen.device in ("mpatha", "3600a")
    assert dict(seen.facts)["reservation_key of multipathd"] == key


def test_a_device_status_alone():
    assert only("D:0x18").status == 0x18


def test_lio():
    text = (
        "SPC-3 PR Registrations:\n"
        "iSCSI Node: iqn.1993-08.org.debian:01:a,i,0x00023d000001 Key: 0x000000000000cc02 "
        "PRgen: 0x00000001\n"
        "SPC-3 Reservation: iSCSI Initiator: iqn.1993-08.org.debian:01:a,i,0x00023d000001\n"
        "SPC-3 Reservation Type: Write Exclusive Access, Registrants Only\n"
        "APTPL Bit Status: Disabled\n"
    )
    registered, holder, kind, aptpl = (dict(each.facts) for each in read_text(text))
    assert registered["reservation key"] == "0x000000000000cc02"
    assert registered["prgeneration"] == "1"
    assert holder["holder of the reservation"].startswith("iqn.")
    assert kind == {"reservation type": "Write Exclusive Access, Registrants Only"}
    assert aptpl == {"aptpl": "disabled"}
    assert dict(only("No SPC-3 Reservation holder\n").facts) == {"reservation": "none"}
    assert "holder of the SPC-2 RESERVE" in dict(
        only("SPC-2 Reservation: LOOPBACK Initiator: naa.1").facts
    )


def test_aptpl_files():
    seen = only(
        "PR_REG_START: 0\ninitiator_fabric=iSCSI\ninitiator_node=iqn.x\ninitiator_sid=00023d000001\n"
        "sa_res_key=52226\nres_holder=1\nres_type=05\nres_scope=00\nres_all_tg_pt=0\nmapped_lun=0\n"
        "target_fabric=iSCSI\ntarget_node=iqn.t\ntpgt=1\nport_rtpi=1\ntarget_lun=0\nPR_REG_END: 0\n"
    )
    facts = dict(seen.facts)
    assert facts["registered"] == "iqn.x,i,0x00023d000001"
    assert facts["reservation key"] == "0x000000000000cc02"
    assert facts["reservation type"] == "5 (Write Exclusive, Registrants Only)"


@pytest.mark.parametrize(
    "text", ["hello world", "nvme0n1: reservation conflict", "Nov 27 21:43 x"]
)
def test_what_is_not_understood_is_refused_with_a_hint(text):
    with pytest.raises(MalformedError) as caught:
        read_text(f"{text}\n{text}")
    assert caught.value.hint


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text):
    try:
        found = read_text(text)
    except MalformedError:
        return
    if not isinstance(found, bytes):
        for each in found:
            try:
                list(shown(each, "keys"))
            except MalformedError:
                continue


_WORDS = st.sampled_from([
    "sd 1:0:0:0: ", "[sda] ", "tag#1 ", "reservation conflict", "CDB: ", "5f 01 ", "Result: hostbyte=",
    "Sense Key : ", "Unit Attention", "PR generation=0x1, ", "Additional length=8", "\n", " 00     ",
    "00 11 22", "H:0x0 D:0x18 P:0x0", "cmnd=(X - raw=5f)", "Raw sense data\n", "PR_REG_START: 0\n",
    "sa_res_key=x\n", "PR_REG_END: 0\n", "Reservation follows", "Key=0x", "99999999999", "sense = 062a03",
])  # fmt: skip


@given(st.lists(_WORDS, max_size=12).map("".join))
def test_pieces_in_any_order_are_read_or_refused(text):
    test_any_text_is_read_or_refused.hypothesis.inner_test(text)


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


def fixture(name):
    return (FIXTURES / name).read_text()


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
        (each.nexus, each.cdb[:2].hex(), conflicts.get(each.perhaps)) for each in found if each.cdb
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


def test_a_real_target_s_attributes():
    facts = [dict(each.facts) for each in read_text(fixture("lio-6.12-configfs.txt"))]
    registered = [each for each in facts if "registered" in each]
    assert [each["reservation key"] for each in registered] == [
        "0x00000000666e0001",
        "0x4150475230303031",
    ]
    assert {"holder of the reservation": "naa.60014050a0000001", "transport": "loopback"} in facts


def test_a_real_target_s_aptpl_file():
    holder, other = (
        dict(each.facts) for each in read_text(fixture("lio-6.12-aptpl").rstrip("\0"))
    )
    assert holder["reservation key"] == "0x00000000666e0003"
    assert holder["reservation type"] == "5 (Write Exclusive, Registrants Only)"
    assert (other["reservation key"], other["holds the reservation"]) == (
        "0x4150475230303031",
        "no",
    )
