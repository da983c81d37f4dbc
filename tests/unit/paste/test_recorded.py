"""Lines to events, and events to the state that replay shows."""
# ruff: noqa: E501  # log lines are as long as they are

import json
from importlib import resources

import jsonschema
import pytest

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
    assert first.cdb == b""
    assert first.problem == (
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
    schema = json.loads(resources.files("prtrace.schema").joinpath("event.1.json").read_text())
    for event in imported(KERNEL).numbered():
        jsonschema.validate(event.to_json(), schema)
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
    assert (conflict.command, conflict.cdb) == (Command.CONFLICT, b"")
    assert "only the operation code, 0x28" in conflict.problem
    (seen,) = decode(out)[1]
    assert isinstance(seen, UnreadablePrOut)
    assert seen.outcome is Outcome.CONFLICT
    assert news.command is Command.UNIT_ATTENTION


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
    assert why == "there is no time in it"
    event = Event(command=Command.PR_OUT, lu="naa.1", nexus="1:0:0:0", status="GOOD",
                  cdb=seen.cdb, data=seen.parameter_list)  # fmt: skip
    (told,) = decode(event)[1]
    assert isinstance(told, PrOut)
    assert (told.sa_key, told.outcome) == (0x666E0001, Outcome.DONE)
