"""import: log lines to a recording that replay takes."""

import json

import pytest

KERNEL = """\
2026-11-27T12:00:00.5+00:00 host kernel: sd 6:0:0:1: reservation conflict
2026-11-27T12:00:01.5+00:00 host kernel: sd 6:0:0:1: [sdb] tag#1 CDB: Persistent reserve out 5f 01 05 00 00 00 00 00 18 00
"""  # noqa: E501


def test_a_recording_that_replay_takes(prtrace, tmp_path):
    log, recording = tmp_path / "kernel.log", tmp_path / "kernel.jsonl"
    log.write_text(KERNEL)
    done = prtrace("import", log, "-o", recording)
    assert done.returncode == 0, done.stderr
    assert "2 events" in done.stdout
    header, *events = [json.loads(line) for line in recording.read_text().splitlines()]
    assert header["host"] == "host"
    assert [event["seq"] for event in events] == [1, 2]
    assert events[1]["cdb"] == "5f010500000000001800"
    shown = prtrace("replay", recording)
    assert shown.returncode == 4, "a PERSISTENT RESERVE OUT of unknown outcome is doubt"
    assert "hctl.6:0:0:1" in shown.stdout
    again = prtrace("import", log, "-o", recording)
    assert again.returncode == 2
    assert "exists" in again.stderr


def test_commands_that_say_nothing_about_reservations_are_counted(prtrace, tmp_path):
    log = tmp_path / "kernel.log"
    write = "2026-11-27T12:00:09+00:00 host kernel: sd 6:0:0:1: [sdb] tag#2 CDB: Write(10) 2a 00"
    log.write_text(f"{KERNEL}{write} 00 00 00 50 00 00 08 00\n")
    done = prtrace("import", log, "-o", tmp_path / "a.jsonl")
    assert done.returncode == 0, done.stderr
    assert "2 events in" in done.stdout
    assert "1 commands are no events" in done.stdout


def test_lines_that_lack_something_are_named(prtrace, tmp_path):
    log = tmp_path / "kernel.log"
    log.write_text(KERNEL + "[    5.5] sd 6:0:0:1: reservation conflict\n")
    done = prtrace("import", log, "-o", tmp_path / "a.jsonl")
    assert done.returncode == 4
    assert "line 3, Linux kernel: the time is counted from the start of the machine" in done.stderr
    assert "--boot" in done.stderr
    boot = ("--boot", "2026-11-27T11:59:00Z")
    done = prtrace("import", log, "-o", tmp_path / "b.jsonl", *boot)
    assert done.returncode == 0
    lines = (tmp_path / "b.jsonl").read_text().splitlines()[1:]
    times = [json.loads(line)["time"] for line in lines]
    assert times == sorted(times)
    assert times[0].startswith("2026-11-27T11:59:05.5")


def test_a_log_without_years_that_goes_over_a_new_year_is_refused(prtrace, tmp_path):
    log, written = tmp_path / "messages", tmp_path / "a.jsonl"
    line = "host kernel: sd 6:0:0:1: reservation conflict\n"
    options = ("--zone", "Z", "-o", written)
    log.write_text(f"Dec 31 23:59:50 {line}Jan  1 00:00:05 {line}")
    done = prtrace("import", log, "--year", "2026", *options)
    assert (done.returncode, written.exists()) == (2, False)
    assert f"{log}: line 2 is of another year than a line before it" in done.stderr
    assert "--year" in done.stderr
    other = tmp_path / "messages.1"
    other.write_text(f"Dec 31 23:59:50 {line}")
    log.write_text(f"Jan  1 00:00:05 {line}")
    assert prtrace("import", other, log, "--year", "2026", *options).returncode == 2
    log.write_text(f"Jan 31 23:59:50 {line}Dec  1 00:00:05 {line}Nov 30 23:00:00 {line}")
    assert prtrace("import", log, "--year", "2026", *options).returncode == 0


def test_every_line_of_a_command_is_read(prtrace, tmp_path):
    """Result, sense and CDB are of one event: none of them is left out."""
    log = tmp_path / "kernel.log"
    said = (
        "FAILED Result: hostbyte=DID_OK driverbyte=DRIVER_OK cmd_age=0s",
        "Sense Key : Illegal Request [current]",
        "Add. Sense: Invalid field in parameter list",
        "CDB: Persistent reserve out 5f 00 00 00 00 00 00 00 18 00",
    )
    start = "2026-11-27T12:00:00Z host kernel: sd 2:0:0:0: [sdb] tag#5"
    log.write_text("".join(f"{start} {each}\n" for each in said))
    done = prtrace("import", log, "-o", tmp_path / "a.jsonl")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_traced_command_without_its_end_is_named(prtrace, tmp_path):
    """It is the one that hung, or it is still under way."""
    file = tmp_path / "trace"

    def traced(event, tag, service):
        result = "" if event == "start" else " result=(host=DID_OK status=SAM_STAT_GOOD)"
        return (
            f"sg-1 [000] ..... {tag}.100000: scsi_dispatch_cmd_{event}: host_no=2 channel=0 id=0 "
            f"lun=0 data_sgl=1 driver_tag={tag} scheduler_tag=1 cmnd=(PERSISTENT_RESERVE_OUT - "
            f"raw=5f 0{service} 00 00 00 00 00 00 18 00){result}\n"
        )

    file.write_text(traced("start", 1, 0) + traced("start", 2, 0) + traced("done", 2, 0))
    boot = ("--boot", "2026-11-27T11:59:00Z")
    done = prtrace("import", file, *boot, "-o", tmp_path / "a.jsonl")
    assert done.returncode == 4
    assert "1 events" in done.stdout
    assert "line 1, Linux tracepoint: it began, and its end is not here" in done.stderr
    assert "line 2" not in done.stderr
    shown = prtrace("decode", file)
    assert shown.stdout.count("REGISTER") >= 2
    assert shown.stdout.count("its end is not here") == 1


@pytest.mark.parametrize(
    ("name", "left_out"), [("sdb", 1), ("2:0:0:0", 0), ("3:0:0:0", 0), ("sdc", 0)]
)
def test_a_unit_is_not_given_what_had_its_disk_s_name_before(prtrace, tmp_path, name, left_out):
    log, written = tmp_path / "kernel.log", tmp_path / "a.jsonl"
    log.write_text(
        "2026-11-27T12:00:00Z host kernel: sd 2:0:0:0: [sdb] tag#1 "
        "CDB: Persistent reserve out 5f 03 00 00 00 00 00 00 18 00\n"
        "2026-11-27T13:00:00Z host kernel: sd 3:0:0:0: [sdb] Attached SCSI disk\n"
        "2026-11-27T14:00:00Z host kernel: sd 3:0:0:0: [sdb] tag#1 "
        "CDB: Persistent reserve out 5f 03 00 00 00 00 00 00 18 00\n"
    )
    done = prtrace("import", log, "--unit", f"{name}=naa.6001405000000001", "-o", written)
    assert done.returncode == (4 if left_out else 0), done.stderr
    assert ("line 1, Linux kernel: sdb was attached anew on line 2" in done.stderr) is bool(
        left_out
    )
    assert f"{2 - left_out} events" in done.stdout


def test_logs_of_one_host_that_overlap_are_one_history(prtrace, tmp_path):
    """The journal and what syslog wrote of it: one has parts of a second, the other none."""
    said = "host kernel: sd 6:0:0:1: reservation conflict\n"
    journal, messages = tmp_path / "journal", tmp_path / "messages"
    journal.write_text(f"2026-11-27T12:00:00.1Z {said}2026-11-27T12:00:00.2Z {said}")
    messages.write_text(f"Nov 27 12:00:00 {said}" * 3 + f"Nov 27 12:00:07 {said}")
    clock = ("--year", "2026", "--zone", "Z")
    for files in ((journal, messages), (messages, journal)):
        written = tmp_path / f"{files[0].name}.jsonl"
        done = prtrace("import", *files, *clock, "-o", written)
        assert done.returncode == 0, done.stderr
        assert "4 events in" in done.stdout
        assert "2 events are in a file before, too" in done.stdout


@pytest.mark.parametrize("started", [True, False])
def test_what_was_before_the_machine_started_is_named(prtrace, tmp_path, started):
    """Neither --unit nor --boot speaks of it, and times since the start show one, too."""
    log = tmp_path / "kernel.log"
    said = "sd 6:0:0:1: reservation conflict"
    start = "[    0.0] Linux version 6.1.0-30-amd64" if started else ""
    log.write_text(f"[ 1000.0] {said}\n{start}\n[    5.0] {said}\n")
    for options in ((), ("--unit", "6:0:0:1=naa.6001405000000001")):
        written = tmp_path / f"{len(options)}.jsonl"
        boot = ("--boot", "2026-11-27T11:59:00Z")
        done = prtrace("import", log, *boot, *options, "-o", written)
        assert (done.returncode, "1 events in" in done.stdout) == (4, True), done.stderr
        assert "line 1, Linux kernel: it" in done.stderr
        assert f"line {2 if started else 3}" in done.stderr


def test_nothing_to_import(prtrace, tmp_path):
    for name, content, words in (
        ("bytes.hex", "5f 01 05 00 00 00 00 00 18 00", "not lines of a log"),
        ("odd.log", "hello\nworld\n", "is not hex"),
        ("none.log", "sd 1:0:0:0: reservation conflict\n", "no line has a time"),
        (
            "words.log",
            "x\nSense Key : Unit Attention\nAdd. Sense: Registrations preempted\n",
            "line 2: there is no time in it",
        ),
    ):
        path = tmp_path / name
        path.write_text(content)
        done = prtrace("import", path, "-o", tmp_path / "out.jsonl")
        assert done.returncode != 0
        assert words in done.stderr, done.stderr
        assert "hint: " in done.stderr
        assert not (tmp_path / "out.jsonl").exists()
    done = prtrace("import", tmp_path / "missing", "-o", tmp_path / "out.jsonl")
    assert (done.returncode, "No such file" in done.stderr) == (2, True)


def test_options_that_make_no_sense(prtrace, tmp_path):
    log = tmp_path / "kernel.log"
    log.write_text(KERNEL)
    for wrong in (("--boot", "soon"), ("--boot", "2026-11-27T11:59:00"), ("--zone", "CET"),
                  ("--unit", "sdb"), ("--unit", "sdb=naa.6001405"), ("--year", "26")):  # fmt: skip
        done = prtrace("import", log, "-o", tmp_path / "out.jsonl", *wrong)
        assert done.returncode == 2, wrong
        assert "Traceback" not in done.stderr


def test_a_line_about_reservations_that_is_not_read_is_named(prtrace, tmp_path):
    log = tmp_path / "vmkernel.log"
    log.write_text(
        KERNEL + "2026-11-27T12:00:05Z cpu3:1)WARNING: HBX: 3040: 'gold': HB at offset 1 - "
        "Reclaiming HB failed: Reservation conflict\n"
    )
    done = prtrace("import", log, "-o", tmp_path / "a.jsonl")
    assert done.returncode == 4, done.stderr
    assert "line 3 speaks of reservations and was not read" in done.stderr
    assert "1 lines left out" in done.stdout


@pytest.mark.parametrize("designator", ["naa.6001405", "naa.xyz", "naa." + "0" * 33])
def test_a_designator_that_is_not_whole_is_refused(prtrace, tmp_path, designator):
    log = tmp_path / "kernel.log"
    log.write_text(KERNEL)
    done = prtrace("import", log, "-o", tmp_path / "a.jsonl", "--unit", f"sdb={designator}")
    assert done.returncode == 2, done.stderr
    assert "no whole designator" in done.stderr
