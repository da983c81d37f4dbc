"""Lines to events, and events to the state that replay shows."""
# ruff: noqa: E501  # log lines are as long as they are

import pytest
from shipped import valid

from prtrace.cli.rebuild import Rebuilt
from prtrace.errors import UsageError
from prtrace.model import ConflictSeen, Outcome, PrOut, UnreadablePrOut
from prtrace.paste.reader import read_text
from prtrace.paste.recorded import Import
from prtrace.paste.stamp import Clock
from prtrace.state.decode import decode
from prtrace.state.event import Command, Event

SECOND = 1_000_000_000
KERNEL = """\
2026-11-27T12:00:00.5+00:00 host kernel: sd 6:0:0:1: reservation conflict
2026-11-27T12:00:00.5+00:00 host kernel: sd 6:0:0:1: [sdb] tag#16 FAILED Result: hostbyte=DID_OK driverbyte=DRIVER_OK
2026-11-27T12:00:00.5+00:00 host kernel: sd 6:0:0:1: [sdb] tag#16 CDB: Write(10) 2a 00 00 00 00 50 00 00 08 00
2026-11-27T12:00:00.5+00:00 host kernel: reservation conflict error, dev sdb, sector 80 op 0x1:(WRITE)
2026-11-27T12:00:09.5+00:00 host kernel: critical nexus error, dev sdb, sector 88
2026-11-27T12:00:10.5+00:00 host kernel: sd 6:0:0:1: [sdb] tag#1 CDB: Persistent reserve out 5f 01 05 00 00 00 00 00 18 00
2026-11-27T12:00:11.5+00:00 host kernel: sd 6:0:0:1: [sdb] tag#2 CDB: Read(10) 28 00 00 00 00 50 00 00 08 00
"""
ESXI = (
    '2026-11-27T11:00:00Z cpu1:1)ScsiDeviceIO: 2: Cmd(0x1) {}, CmdSN 0x1 to dev "naa.6001" failed '
)


def imported(text, clock=Clock(), **units):  # noqa: B008
    found = Import()
    found.add(read_text(text), clock, units)
    return found


def test_the_kernel_s_log():
    found = imported(KERNEL)
    first, second, third = found.numbered()
    assert found.silent == 2, "ordinary commands of which no line tells the status"
    assert found.repeated == 1, "the block layer's line of a conflict that the device's told of"
    assert (first.command, first.status, first.seq) == (
        Command.CONFLICT,
        "RESERVATION CONFLICT",
        1,
    )
    assert (first.nexus, first.lu, first.device) == ("6:0:0:1", "hctl.6:0:0:1", "/dev/sdb")
    assert (first.cdb.hex(), first.problem) == ("2a000000005000000800", "")
    without = "".join(line for line in KERNEL.splitlines(keepends=True) if "sector 80" not in line)
    unnamed = imported(without).numbered()[0]
    assert unnamed.cdb == b""
    assert unnamed.problem == (
        "the log does not name the command; WRITE(10) at block 80 failed at that moment, too, "
        "and may be it"
    )
    assert second.nexus == "6:0:0:1", "the disk's address is in other lines of the file"
    assert second.problem == "the log does not name the command"
    assert (third.command, third.status, third.data) == (Command.PR_OUT, "", b"")
    assert [event.time % (60 * SECOND) for event in (first, second, third)] == [
        SECOND // 2, 9 * SECOND + SECOND // 2, 10 * SECOND + SECOND // 2
    ]  # fmt: skip


def test_events_are_those_that_replay_takes():
    for event in imported(KERNEL).numbered():
        valid(event.to_json(), "event.1")
        assert Event.from_json(event.to_json()) == event
    conflict, _, out = (decode(event)[1][0] for event in imported(KERNEL).numbered())
    assert isinstance(conflict, ConflictSeen)
    assert isinstance(out, UnreadablePrOut), "the log has no parameter list"
    assert out.outcome is Outcome.UNKNOWN


def test_a_disk_that_had_two_addresses_is_not_guessed():
    line = (
        "2026-11-27T12:00:0{} host kernel: sd {}:0:0:1: [sdb] tag#1 CDB: Inquiry 12 00 00 00 00 00"
    )
    text = "\n".join((
        line.format("1Z", 6), line.format("3Z", 7),
        "2026-11-27T12:00:02Z host kernel: critical nexus error, dev sdb, sector 88",
    ))  # fmt: skip
    ((_, why),) = imported(text).refused
    assert "sdb only, which was 6:0:0:1 and 7:0:0:1" in why


def test_the_logs_of_two_hosts_are_not_mixed():
    line = "2026-11-27T12:00:01Z {} kernel: sd 6:0:0:1: reservation conflict"
    with pytest.raises(UsageError, match="several hosts: a, b"):
        imported("\n".join((line.format("a"), line.format("b"))))


def test_a_unit_named_by_the_user():
    found = imported(KERNEL, sdb="naa.1")
    assert {event.lu for event in found.events} == {"naa.1"}


def test_esxi():
    text = (
        ESXI.format("0x28") + "H:0x0 D:0x18 P:0x0 Possible sense data: 0x0 0x0 0x0.\n"
        + ESXI.format("0x5f") + "H:0x0 D:0x18 P:0x0 Possible sense data: 0x0 0x0 0x0.\n"
        + ESXI.format("0x28") + "H:0x0 D:0x2 P:0x0 Valid sense data: 0x6 0x2a 0x5.\n"
        + ESXI.format("0x28") + "H:0x0 D:0x2 P:0x0 Valid sense data: 0x5 0x20 0x0.\n"
    )  # fmt: skip
    found = imported(text)
    conflict, out, news = found.numbered()
    assert found.silent == 1
    assert {event.lu for event in (conflict, out, news)} == {"naa.6001"}
    assert {event.nexus for event in (conflict, out, news)} == {""}
    assert (conflict.command, conflict.cdb) == (Command.CONFLICT, b"\x28")
    assert "only the operation code, 0x28" in conflict.problem
    # Zeros behind the operation code would make it a REGISTER.
    assert (out.command, out.cdb) == (Command.CONFLICT, b"\x5f")
    assert news.command is Command.UNIT_ATTENTION


@pytest.mark.parametrize(
    "ended", ["D:0x18 P:0x0", "D:0x2 P:0x0 Valid sense data: 0x6 0x2a 0x5", "D:0x0 P:0x1"]
)
def test_what_is_imported_can_be_explained(ended):
    """An operation code alone is no command whose effect could be told."""
    for opcode in range(256):
        found = imported(f"{ESXI.format(f'0x{opcode:x}')}H:0x0 {ended}\n")
        rebuilt = Rebuilt()
        for event in found.numbered():
            told = rebuilt.add(event)
            assert not told.action, "the operation code does not tell the service action"
        if not found.events:
            assert bool(found.refused) is (opcode in (0x16, 0x17, 0x56, 0x57, 0x5F)), opcode


def test_both_lines_of_one_command_of_esxi_are_one_conflict():
    one = '2026-11-27T11:00:00.102Z cpu1:1)NMP: 2: Cmd 0x2a (0x45b9, 33) to dev "naa.6" on path '
    other = (
        '2026-11-27T11:00:00.{}Z cpu1:1)ScsiDeviceIO: 4: Cmd(0x45b9) 0x2a, CmdSN 1 to dev "naa.6" '
    )
    ended = "H:0x0 D:0x18 P:0x0\n"
    broken = f'{one}"vmhba2:C0:T1:L4" Failed:\n2026-11-27T11:00:00.102Z cpu1:1)NMP: 3: {ended}'
    for first in (f'{one}"vmhba2:C0:T1:L4" Failed: {ended}', broken):
        found = imported(f"{first}{other.format(102)}failed {ended}")
        assert ([event.lu for event in found.events], found.repeated) == (["naa.6"], 1)
        found = imported(f"{first}{other.format(902)}failed {ended}")
        assert (len(found.events), found.repeated) == (2, 0), "the memory is another command's"


def test_a_log_names_its_host_and_files_of_two_hosts_are_not_mixed():
    line = "2026-11-27T12:00:01Z {} kernel: sd 6:0:0:1: reservation conflict"
    found = imported(line.format("a"))
    assert found.host == "a"
    with pytest.raises(UsageError, match="several hosts: a, b"):
        found.add(read_text(line.format("b")), Clock(), {})


@pytest.mark.parametrize(
    ("words", "sense"),
    [
        ("Parameters changed", "UNIT ATTENTION 2A/??"),
        ("Inquiry data has changed", "UNIT ATTENTION 3F/03 INQUIRY DATA HAS CHANGED"),
        ("LUN assignments on this target have changed. The Linux SCSI layer does not automatically "
         "remap LUN assignments.", "UNIT ATTENTION 3F/0E REPORTED LUNS DATA HAS CHANGED"),
        ("Power-on or device reset occurred", "UNIT ATTENTION 29/??"),
        ("Mode parameters changed", None),
        ("Asymmetric access state changed", None),
        ("Capacity data has changed", None),
    ],
)  # fmt: skip
def test_unit_attentions_that_the_kernel_names(words, sense):
    found = imported(
        f"2026-11-27T12:00:01Z a kernel: sd 6:0:0:1: {words}\n" + KERNEL.replace(" host ", " a ")
    )
    told = [event for event in found.numbered() if event.command is Command.UNIT_ATTENTION]
    assert [decode(event)[0].sense for event in told] == ([] if sense is None else [sense])


def test_a_whole_command_of_a_tracepoint_with_its_time():
    line = (
        "x-1 [000] d..1. 5.500000: scsi_dispatch_cmd_done: host_no=0 channel=0 id=1 lun=0 "
        "data_sgl=1 cmnd=(RELEASE - raw=57 00 00 00 00 00 00 00 00 00) result=(driver=DRIVER_OK "
        "host=DID_OK message=COMMAND_COMPLETE status=SAM_STAT_GOOD)"
    )
    (event,) = imported(line, Clock(boot_ns=SECOND)).events
    assert (event.command, event.status, event.time) == (Command.RELEASE, "GOOD", 6_500_000_000)
    found = imported(line)
    assert not found.events
    ((_, reason),) = found.refused
    assert "--boot" in reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("sd 1:0:0:0: reservation conflict", "no time"),
        ("Nov 27 12:00:00 h kernel: sd 1:0:0:0: reservation conflict", "--year"),
        ("[Fri Nov 27 13:00:00 2026] sd 1:0:0:0: reservation conflict", "--zone"),
        ("2026-11-27T12:00:00Z h kernel: critical nexus error, dev sdq, sector 1", "--unit"),
        ("scsi_generic_send_command Command: data= 0x16 0x00 0x00 0x00 0x00 0x00", "no time"),
        (ESXI.format("0x5f") + "H:0x5 D:0x0 P:0x0", "only the operation code, 0x5f"),
    ],
)
def test_what_lacks_a_fact_is_refused_with_the_reason(line, reason):
    found = imported(line)
    assert not found.events
    ((_, why),) = found.refused
    assert reason in why


def test_a_parameter_list_is_kept():
    text = (
        "    Persistent reservation out cdb: [5f 00 00 00 00 00 00 00 18 00]\n"
        "    Persistent reservation out parameters:\n"
        " 00     00 00 00 00 00 00 00 00  00 00 00 00 66 6e 00 01    ............fn..\n"
        " 10     00 00 00 00 00 00 00 00                             ........\n"
        "PR out: command (Register) successful\n"
    )
    found = imported(text)
    ((seen, why),) = found.refused
    assert why.startswith("there is no time in it")
    event = Event(command=Command.PR_OUT, lu="naa.1", nexus="1:0:0:0", status="GOOD",
                  cdb=seen.cdb, data=seen.parameter_list)  # fmt: skip
    (told,) = decode(event)[1]
    assert isinstance(told, PrOut)
    assert (told.sa_key, told.outcome) == (0x666E0001, Outcome.DONE)
