"""A sosreport and nothing else: what it says of a disk, and what it does not."""

import tarfile
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from prtrace.cli.explain import account_lines
from prtrace.cli.files import read_recording
from prtrace.cli.history import find_unit, rebuilt_unit
from prtrace.errors import MalformedError, NoSuchDeviceError, UsageError
from prtrace.explain.account import account
from prtrace.explain.recording import Recording
from prtrace.explain.timeline import timeline
from prtrace.paste.sosreport import SosFile, is_wanted, read_report

LU = "naa.60014050000000010000000000000001"
AT = 1_795_780_860
KEYS = """\
  LIO-ORG   RAMDISK-MCP       4.0
  Peripheral device type: disk
  PR generation=0x7, 2 registered reservation keys follow:
    0x123abc
    0x456def
"""
HELD = """\
  PR generation=0x7, Reservation follows:
    Key=0x123abc
    scope: LU_SCOPE,  type: Write Exclusive, registrants only
"""
FULL = """\
  PR generation=0x7
    Key=0x123abc
      All target ports bit clear
      Relative port address: 0x1
      << Reservation holder >>
      scope: LU_SCOPE,  type: Write Exclusive, registrants only
      Transport Id of initiator:
        SAS address: 0x5001405aabbccdde
    Key=0x456def
      All target ports bit clear
      Relative port address: 0x2
      not reservation holder
      Transport Id of initiator:
        iSCSI world wide unique port id: iqn.2004-10.com.x:host,i,0x00023d000001
"""
LOG = """\
Nov 27 12:00:00 node1 kernel: sd 1:0:0:0: reservation conflict
Nov 27 12:00:00 node1 systemd[1]: Started something.
"""
FILES = {
    "hostname": "node1\n",
    "sos_commands/systemd/timedatectl": "      Time zone: Etc/UTC (UTC, +0000)\n",
    "sos_commands/scsi/lsscsi": "[1:0:0:0]    disk    LIO-ORG  RAMDISK-MCP  4.0   /dev/sda\n",
    "sos_commands/block/ls_-lanR_.dev": (
        f"lrwxrwxrwx 1 0 0 9 Nov 27 11:00 wwn-0x{LU.removeprefix('naa.')} -> ../../sda\n"
    ),
    "sos_commands/scsi/sg_persist_--in_-k_-d_.dev.sda": KEYS,
    "sos_commands/scsi/sg_persist_--in_-r_-d_.dev.sda": HELD,
    "sos_commands/scsi/sg_persist_--in_-s_-d_.dev.sda": FULL,
    "sos_commands/logs/journalctl_--no-pager_--boot": LOG,
}


def report(**changed):
    files = {**FILES, **changed}
    return read_report({name: SosFile(text, AT) for name, text in files.items() if text})


def told(found):
    """The account that explain gives of it."""
    unit = rebuilt_unit(Recording(found.host, tuple(found.events)), LU)
    return account(unit, [(found.host, timeline(found.events, LU))])


def test_who_holds_and_that_nobody_watched(tmp_path):
    file = archive(tmp_path, FILES)
    (recording,) = read_recording(file)
    assert recording.host == "node1"
    assert find_unit("/dev/sda", [recording]) == LU
    document = told(recording)
    held = document["reservation"]
    assert (held["type"], held["holders"]) == ("WERO", ["naa.5001405aabbccdde,1"])
    assert len(document["registrations"]) == 2
    assert document["doubt"] == []
    kinds = [incident["kind"] for incident in document["incidents"]]
    assert kinds == ["not watched", "reservation conflict"]
    conflict = document["incidents"][1]
    assert "a process that is not known" in conflict["chain"][0]["text"]
    assert [link["certainty"] for link in conflict["chain"][1:]].count("observed") == 0
    assert all(len(line) <= 80 for line in account_lines(document)
               if not line.strip().startswith("sg_persist"))  # fmt: skip


def archive(folder, files):
    top = folder / "sosreport-node1"
    for name, text in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    file = folder / "sosreport-node1.tar.xz"
    with tarfile.open(file, "w:xz") as made:
        made.add(top, arcname="sosreport-node1")
    return file


def test_the_folder_says_the_same(tmp_path):
    file = archive(tmp_path, FILES)
    (folder,) = read_recording(tmp_path / "sosreport-node1")
    (archived,) = read_recording(file)
    assert [event.command for event in folder.events] == [
        event.command for event in archived.events
    ]


def test_what_sos_collect_made_has_every_host(tmp_path):
    made = tmp_path / "sos-collector-case-2026"
    made.mkdir()
    for host in ("node1", "node2"):
        folder = tmp_path / host
        archive(folder, {**FILES, "hostname": f"{host}\n"}).rename(
            made / f"sosreport-{host}-2026.tar.xz"
        )
    (made / "sos_logs").mkdir()
    (made / "sosreport-broken.txt").write_text("no archive")
    whole = tmp_path / "sos-collector-case-2026.tar.xz"
    with tarfile.open(whole, "w:xz") as tar:
        tar.add(made, arcname=made.name)
    for file in (whole, made):
        assert [each.host for each in read_recording(file)] == ["node1", "node2"], file
    torn = made / "sosreport-node1-2026.tar.xz"
    torn.write_bytes(torn.read_bytes()[:200])
    with pytest.raises(MalformedError, match="cannot be read"):
        read_recording(made)


@pytest.mark.parametrize(
    ("missing", "lu"),
    [
        ("sos_commands/block/ls_-lanR_.dev", "hctl.1:0:0:0"),
        ("sos_commands/scsi/lsscsi", LU),
    ],
)
def test_a_unit_that_nobody_names_is_known_by_its_address(missing, lu):
    assert {event.lu for event in report(**{missing: ""}).events if event.cdb} == {lu}


def test_a_log_without_a_zone_is_left_out_with_the_reason():
    found = report(**{"sos_commands/systemd/timedatectl": ""})
    assert not [event for event in found.events if event.command.value == "CONFLICT"]
    assert any("--zone" in note for note in found.notes)


def conflicts(found):
    return [event.time for event in found.events if event.command.value == "CONFLICT"]


def test_a_time_is_that_of_the_zone_then_and_not_of_its_offset_now():
    """The report is of winter, a line of summer, another of the hour that the clocks had twice."""
    log = LOG.replace("Nov 27 12:00", "Oct 24 12:00") + LOG.replace("Nov 27 12", "Oct 25 02")
    found = report(**{
        "sos_commands/systemd/timedatectl": "      Time zone: Europe/Berlin (CET, +0100)\n",
        "sos_commands/logs/journalctl_--no-pager_--boot": log,
    })  # fmt: skip
    (time,) = conflicts(found)
    assert datetime.fromtimestamp(time // 10**9, UTC).isoformat() == "2026-10-24T10:00:00+00:00"
    assert any("clocks were set in that hour" in note for note in found.notes)


def test_a_zone_that_is_not_known_is_said():
    found = report(**{
        "sos_commands/systemd/timedatectl": "      Time zone: Mars/Olympus (MTC, +0100)\n"
    })  # fmt: skip
    assert not conflicts(found)
    assert any("Mars/Olympus" in note for note in found.notes)


def test_what_the_log_has_of_before_the_machine_started_is_left_out():
    """Another disk may have had the address then."""
    older = LOG.replace("Nov 27", "Nov 20")
    started = "Nov 27 11:00:00 node1 kernel: [    0.000000] Linux version 6.1.0-30-amd64\n"
    logs = {"sos_commands/logs/journalctl_--no-pager_--boot": "", "var/log/messages": ""}
    of = {}
    for name, log in (("since", started + LOG), ("whole", older + started + LOG)):
        found = report(**{**logs, "var/log/messages": log})
        of[name] = conflicts(found)
        assert len(of[name]) == 1
        assert any("of before the machine started" in each for each in found.notes) is (
            name == "whole"
        )
    assert of["since"] == of["whole"]


def test_a_line_of_another_year_is_left_out():
    late = LOG.replace("Nov 27", "Dec 31")
    found = report(**{"sos_commands/logs/journalctl_--no-pager_--boot": late})
    assert not [event for event in found.events if event.command.value == "CONFLICT"]
    assert any("another year" in note for note in found.notes)


def test_a_full_status_whose_ports_are_not_words_is_not_guessed():
    other = FULL.replace("SAS address: 0x5001405aabbccdde", "SOP Routing ID: 0x102")
    found = report(**{"sos_commands/scsi/sg_persist_--in_-s_-d_.dev.sda": other})
    assert [event.cdb[1] for event in found.events if event.cdb] == [0, 1]
    assert any("sg_persist -s sda" in note for note in found.notes)


MAPPED = f"""\
mpatha (3{LU.removeprefix("naa.")}) dm-2 LIO-ORG,RAMDISK-MCP
size=500G features='1 queue_if_no_path' hwhandler='1 alua' wp=rw
|-+- policy='service-time 0' prio=50 status=active
| `- 1:0:0:0 sda 8:0  active ready running
`-+- policy='service-time 0' prio=50 status=enabled
  `- 2:0:0:0 sdb 8:16 active ready running
360014050000000020000000000000002 dm-3 LIO-ORG,RAMDISK-MCP
size=500G features='0' hwhandler='0' wp=rw
`-+- policy='service-time 0' prio=50 status=active
  `- 1:0:0:1 sdc 8:32 active ready running
"""
FC_HOST = "sys/devices/pci0000:00/0000:00:03.0/host1/fc_host/host1/port_name"
FIBRE = FULL.replace(
    "SAS address: 0x5001405aabbccdde",
    "FCP-2 World Wide Name:\n      10 00 00 10 9b 5a 11 01\n",
)


@pytest.mark.parametrize("links", ["", FILES["sos_commands/block/ls_-lanR_.dev"]])
def test_which_path_of_a_map_is_not_registered(links):
    """By the maps and the host's Fibre Channel ports."""
    found = report(**{
        "sos_commands/block/ls_-lanR_.dev": links,
        "sos_commands/scsi/lsscsi": "",
        "sos_commands/multipath/multipath_-ll": MAPPED,
        FC_HOST: "0x100000109b5a1101\n",
        "sys/class/fc_host/host2/port_name": "0x100000109b5a1102\n",
        "sos_commands/scsi/sg_persist_--in_-s_-d_.dev.sda": FIBRE,
    })  # fmt: skip
    recording = Recording(found.host, tuple(found.events), names=found.names)
    naa = LU.removeprefix("naa.")
    for name in (LU, "mpatha", "/dev/mapper/mpatha", f"3{naa}", f"wwn-0x{naa}", "/dev/sdb"):
        assert find_unit(name, [recording]) == LU, name
    paths = {path["device"]: path["may_write"] for path in told(found)["paths"]}
    # Through which target port sda goes is not told: whether the registration is its own is not.
    assert paths == {"/dev/sda": None, "/dev/sdb": False}


def test_a_unit_goes_by_every_name_that_its_host_gives_it(tmp_path):
    files = FILES | {
        "sos_commands/block/ls_-lanR_.dev": "",
        "sos_commands/multipath/multipath_-ll": MAPPED,
        FC_HOST: "0x100000109b5a1101\n",
    }
    file = archive(tmp_path, files)
    (recording,) = read_recording(file)
    number = LU.removeprefix("naa.")
    names = ("mpatha", "/dev/mapper/mpatha", "sda", "/dev/sda", "1:0:0:0", "sdb", f"3{number}",
             f"wwn-0x{number}", f"/dev/disk/by-id/scsi-3{number}", LU)  # fmt: skip
    assert {find_unit(name, [recording]) for name in names} == {LU}
    assert recording.ports == ("naa.100000109b5a1101",)
    with pytest.raises(NoSuchDeviceError):
        find_unit("mpatha", [Recording("node3", ()), recording])


def test_what_tells_of_paths_is_read():
    for name in (
        "sys/class/fc_host/host2/port_name",
        FC_HOST,
        "sos_commands/multipath/multipath_-v4_-ll",
    ):
        assert is_wanted(name), name


def test_other_archives_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no sosreport"):
        read_recording(archive(tmp_path, {"etc/passwd": "root"}))
    torn = tmp_path / "torn.tar.xz"
    torn.write_bytes(archive(tmp_path, FILES).read_bytes()[:200])
    with pytest.raises((MalformedError, UsageError)):
        read_recording(torn)


def test_only_what_is_needed_is_read():
    assert is_wanted("sos_commands/scsi/sg_persist_--in_-k_-d_.dev.sda")
    assert not is_wanted("etc/shadow")


def test_a_node_is_the_first_hosts_and_a_designator_everybodys(tmp_path):
    (first,) = read_recording(archive(tmp_path, FILES))
    other = replace(
        first, host="node2",
        events=tuple(each._replace(device="/dev/sdq", nexus="9:0:0:0") for each in first.events),
    )  # fmt: skip
    assert find_unit("/dev/sdq", [other, first]) == LU
    assert find_unit(LU, [Recording("node3", ()), other]) == LU
    with pytest.raises(NoSuchDeviceError, match="no logical unit"):
        find_unit("/dev/sdq", [first, other])
