"""The log read back: rotation, garbage, what is not believed."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from labkit import pace

from prtrace.prhelper import attribution_log, attribution_reader
from prtrace.prhelper.attribution import LATE_NS, LINE_BEGINNING
from prtrace.prhelper.attribution_log import NAME
from prtrace.prhelper.attribution_reader import AttributionReader

from .test_attribution import RECORD, begin, end, numbered
from .test_attribution_log import new_log


def test_every_record_that_is_written_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attribution_log, "ROTATE_SIZE", 2000)
    log, reader = new_log(tmp_path), AttributionReader(tmp_path)
    assert reader.read() == []
    for token in range(20):
        record = numbered(token)
        log.write(begin(record))
        assert reader.read()[-1] == record
        log.write(end(replace(record, end_ns=5, outcome="00")))
        if token % 3 == 0:
            assert reader.read()[-1].outcome == "00"
    reader.read()
    assert len(reader.attributions) == 20
    assert {record.outcome for record in reader.attributions.values()} == {"00"}
    found = reader.of_comm(7, "prx000000000013")
    assert found is not None
    assert found.token == 0x13
    assert reader.of_comm(8, "prx000000000013") is None
    late = AttributionReader(tmp_path)
    late.read()
    assert late.attributions[7, 9, 19].outcome == "00"
    assert log.failures == 0
    log.close()
    for each in (reader, late):
        each.close()


def test_the_last_lines_before_a_rotation_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader is at a file's end, more comes, and then the file is another one."""
    monkeypatch.setattr(attribution_log, "ROTATE_SIZE", 2 * len(begin(RECORD)))
    log, reader = new_log(tmp_path), AttributionReader(tmp_path)
    for token in range(30):
        log.write(begin(numbered(token)))
        if token % 3 == 0:
            assert reader.of_comm(7, f"prx{token:012x}") == numbered(token)
    assert sorted(key[2] for key in reader.attributions if key[2] < 28) == list(range(28))
    log.close()
    reader.close()


def test_a_new_proxys_log_is_read_from_its_beginning(tmp_path: Path) -> None:
    reader = AttributionReader(tmp_path)
    for token in range(3):
        log = new_log(tmp_path)
        log.write(begin(numbered(token)))
        assert reader.of_comm(7, f"prx{token:012x}") == numbered(token)
        log.close()
        (tmp_path / NAME).unlink()
    reader.close()


def test_a_helper_is_known_by_nexus_command_and_time(tmp_path: Path) -> None:
    log, reader = new_log(tmp_path), AttributionReader(tmp_path)
    keys, caps = bytes((0x5E, 0)) + bytes(14), bytes((0x5E, 2)) + bytes(14)
    first = replace(RECORD, token=1, comm="", cdb=keys, begin_ns=100, nexuses=("0:0:1:0",))
    second = replace(first, token=2, begin_ns=300)
    last = replace(first, token=3, begin_ns=900)
    log.write(begin(first))
    log.write(end(replace(first, end_ns=200, outcome="00")))
    log.write(begin(second))
    assert reader.of_helper("0:0:1:0", keys[:10], 99) is None
    for moment, token in ((100, 1), (200, 1), (201, None), (300, 2), (300 + LATE_NS, 2)):
        found = reader.of_helper("0:0:1:0", keys[:10], moment)
        assert (found and found.token) == token
    assert reader.of_helper("0:0:1:0", keys[:10], 301 + LATE_NS) is None, "nobody ended it"
    log.write(end(replace(second, end_ns=400, outcome="00")))
    log.write(begin(last))
    assert reader.of_helper("0:0:1:0", keys[:10], 500) is None
    assert reader.of_helper("0:0:1:0", caps[:10], 1000) is None
    assert reader.of_helper("1:0:1:0", keys[:10], 1000) is None
    found = reader.of_helper("0:0:1:0", keys[:10], 1000)
    assert found is not None
    assert found.token == 3
    log.close()
    reader.close()


def test_many_records_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attribution_reader, "_ROOM", 100 * 2048)
    log, reader = new_log(tmp_path), AttributionReader(tmp_path)
    for token in range(400):
        comm = "" if token % 2 else "prx1"
        log.write(begin(replace(RECORD, token=token, parameter=bytes(1024), comm=comm)))
    reader.read()
    assert [key[2] for key in reader.attributions] == list(range(300, 400))
    assert reader.of_helper("0:0:1:0", bytes(10), 150) is not None
    found = reader.of_comm(7, "prx1")
    assert found is not None
    assert found.token == 398
    log.close()
    reader.close()


@pytest.mark.parametrize(
    "content",
    [
        b"x" * 5_000_000,
        b"x" * 5_000_000 + b"\n",
        b"\n" * 1_000_000,
        (b"[" * 300_000 + b"\n") * 10,
        b"\0" * 300_000 + b"\n\xff\n",
    ],
)
def test_a_record_behind_a_file_full_of_something_else_is_read(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / NAME).write_bytes(content)
    reader = AttributionReader(tmp_path)
    assert reader.of_comm(7, RECORD.comm) is None
    with (tmp_path / NAME).open("ab") as file:
        file.write(b"\n" + begin(RECORD))
    assert reader.of_comm(7, RECORD.comm) == RECORD
    reader.close()


def test_of_a_huge_file_the_end_is_read(tmp_path: Path) -> None:
    with (tmp_path / NAME).open("wb") as file:
        file.truncate(1 << 40)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + begin(RECORD))
    reader = AttributionReader(tmp_path)
    assert reader.of_comm(7, RECORD.comm) == RECORD
    os.truncate(tmp_path / NAME, 0)
    with (tmp_path / NAME).open("ab") as file:
        file.write(begin(numbered(2)))
    assert reader.of_comm(7, "prx000000000002") == numbered(2)
    reader.close()


def test_only_what_its_owner_alone_can_write_is_believed(tmp_path: Path) -> None:
    place = tmp_path / "run"
    place.mkdir(mode=0o750)
    log = new_log(place)
    log.write(begin(RECORD))
    me = os.geteuid()

    def found(*owners: int) -> tuple[bool, bool]:
        reader = AttributionReader(place, owners)
        record = reader.of_comm(7, RECORD.comm)
        reader.close()
        return record is not None, bool(reader.disbelieved)

    assert found(me) == (True, False)
    assert found(me + 1) == (False, True)
    for path, mode, usual in (
        (place, 0o770, 0o750),
        (place, 0o757, 0o750),
        (place / NAME, 0o660, 0o640),
        (place / NAME, 0o602, 0o640),
    ):
        path.chmod(mode)
        assert found(me) == (False, True)
        path.chmod(usual)
    assert found(me) == (True, False)
    (place / NAME).rename(place / "kept")
    (place / NAME).symlink_to("kept")
    assert found(me) == (False, False)
    (place / NAME).unlink()
    os.mkfifo(place / NAME, 0o600)
    assert found(me) == (False, True)
    (place / NAME).unlink()
    (place / NAME).mkdir()
    assert found(me)[0] is False
    log.close()


def test_a_directory_that_is_not_there_has_no_records(tmp_path: Path) -> None:
    assert AttributionReader(tmp_path / "x").read() == []


@pytest.mark.parametrize("line", [b"", LINE_BEGINNING, b'{"schema":"another",'])
def test_one_call_parses_a_bounded_number_of_lines(tmp_path: Path, line: bytes) -> None:
    """Whatever somebody wrote, it is the agent's event loop that reads it."""
    count = (16 << 20) // (len(line) + 1)
    (tmp_path / NAME).write_bytes((line + b"\n") * count)
    reader = AttributionReader(tmp_path)
    begun = time.process_time()
    assert reader.of_comm(7, RECORD.comm) is None
    # 52 s where each line is given to the JSON parser.
    assert time.process_time() - begun < 5 * pace.factor()
    reader.close()
