"""Claims written, rotated, read back; what is no claim, and what is not believed."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.errors import UnavailableError
from prtrace.prhelper import claimlog
from prtrace.prhelper.claim import LATE_NS, Claim, begin_line, common_part, end_line, parse_lines
from prtrace.prhelper.claimlog import NAME, ClaimLog, ClaimReader

CLAIM = Claim(
    token=1,
    issuer_pid=7,
    issuer_start_ns=9,
    comm="prx000000000001",
    begin_ns=100,
    cdb=bytes(16),
    issued=True,
    client_pid=3,
    client_uid=0,
    guest='wal\n"di\u2028',
    nexuses=("0:0:1:0", "1:0:1:0"),
    parameter=b"\1\2",
)
ENDED = replace(CLAIM, end_ns=200, outcome="00", shown=b"a", answered=b"b", note='"n\\')
COMMON = ("issuer_pid", "issuer_start_ns", "client_pid", "client_uid", "client_start_ns",
          "client_comm", "guest", "uuid", "device", "nexuses")  # fmt: skip


def begin(claim: Claim) -> bytes:
    common = common_part(**{name: getattr(claim, name) for name in COMMON})
    return begin_line(common, claim.token, claim.comm, claim.begin_ns, claim.cdb,
                      claim.parameter, claim.note, issued=claim.issued)  # fmt: skip


def end(claim: Claim) -> bytes:
    return end_line(claim.key, claim.end_ns, claim.outcome, claim.sense, shown=claim.shown,
                    answered=claim.answered, note=claim.note)  # fmt: skip


def numbered(token: int) -> Claim:
    return replace(CLAIM, token=token, comm=f"prx{token:012x}")


def test_both_lines() -> None:
    known: dict[tuple[int, int, int], Claim] = {}
    assert parse_lines(begin(CLAIM), known) == [CLAIM]
    assert parse_lines(end(ENDED), known) == [ENDED]
    assert known == {(7, 9, 1): ENDED}
    for line in (begin(CLAIM), end(ENDED)):
        assert line.count(b"\n") == 1
        assert line.endswith(b"\n")
    assert parse_lines(begin(replace(CLAIM, guest="x")), known) == [], "a key is claimed once"


@given(st.binary(max_size=200))
def test_what_is_no_claim_is_left_out(text: bytes) -> None:
    assert parse_lines(text, {}) == []


@pytest.mark.parametrize("cut", range(0, len(begin(CLAIM)) - 1, 7))
def test_half_a_line_is_left_out(cut: int) -> None:
    assert parse_lines(begin(CLAIM)[:cut], {}) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("guest", "x" * 513),
        ("guest", 5),
        ("client_pid", -1),
        ("client_pid", 1 << 63),
        ("client_pid", 1.5),
        ("client_pid", True),
        ("begin_ns", float("inf")),
        ("cdb", "00" * 33),
        ("cdb", "0"),
        ("cdb", None),
        ("parameter", "00" * 8193),
        ("nexuses", "0:0:1:0"),
        ("nexuses", ["0:0:1"]),
        ("nexuses", [[]]),
        ("nexuses", ["0:0:1:0"] * 1025),
        ("token", None),
    ],
)
def test_values_out_of_bounds_are_no_claim(name: str, value: object) -> None:
    given_ = json.loads(begin(CLAIM))
    assert parse_lines(json.dumps(given_).encode(), {}) == [CLAIM]
    given_[name] = value
    assert parse_lines(json.dumps(given_).encode(), {}) == []
    if name == "begin_ns":
        known: dict[tuple[int, int, int], Claim] = {CLAIM.key: CLAIM}
        line = json.loads(end(ENDED)) | {"end_ns": value}
        assert parse_lines(json.dumps(line).encode(), known) == []


@pytest.mark.parametrize("line", [b"[" * 200_000, b"9" * 10_000, b'{"schema":' * 50_000])
def test_no_line_is_too_much(line: bytes) -> None:
    assert parse_lines(line + b"\n" + begin(CLAIM), {}) == [CLAIM]


def test_log_and_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claimlog, "ROTATE_SIZE", 2000)
    log, reader = ClaimLog(tmp_path), ClaimReader(tmp_path)
    assert reader.read() == []
    for token in range(20):
        claim = numbered(token)
        log.write(begin(claim))
        assert reader.read()[-1] == claim
        log.write(end(replace(claim, end_ns=5, outcome="00")))
        if token % 3 == 0:
            assert reader.read()[-1].outcome == "00"
    reader.read()
    assert len(reader.claims) == 20
    assert {claim.outcome for claim in reader.claims.values()} == {"00"}
    found = reader.of_comm(7, "prx000000000013")
    assert found is not None
    assert found.token == 0x13
    assert reader.of_comm(8, "prx000000000013") is None
    late = ClaimReader(tmp_path)
    late.read()
    assert late.claims[7, 9, 19].outcome == "00"
    assert log.failures == 0
    log.close()
    for each in (reader, late):
        each.close()


def test_the_last_lines_before_a_rotation_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader is at a file's end, more comes, and then the file is another one."""
    monkeypatch.setattr(claimlog, "ROTATE_SIZE", 2 * len(begin(CLAIM)))
    log, reader = ClaimLog(tmp_path), ClaimReader(tmp_path)
    for token in range(30):
        log.write(begin(numbered(token)))
        if token % 3 == 0:
            assert reader.of_comm(7, f"prx{token:012x}") == numbered(token)
    assert sorted(key[2] for key in reader.claims if key[2] < 28) == list(range(28))
    log.close()
    reader.close()


def test_a_proxy_that_starts_anew_in_an_empty_directory(tmp_path: Path) -> None:
    reader = ClaimReader(tmp_path)
    for token in range(3):
        log = ClaimLog(tmp_path)
        log.write(begin(numbered(token)))
        assert reader.of_comm(7, f"prx{token:012x}") == numbered(token)
        log.close()
        (tmp_path / NAME).unlink()
    reader.close()


def test_a_helper_is_known_by_nexus_command_and_time(tmp_path: Path) -> None:
    log, reader = ClaimLog(tmp_path), ClaimReader(tmp_path)
    keys, caps = bytes((0x5E, 0)) + bytes(14), bytes((0x5E, 2)) + bytes(14)
    first = replace(CLAIM, token=1, comm="", cdb=keys, begin_ns=100, nexuses=("0:0:1:0",))
    second = replace(first, token=2, begin_ns=300)
    last = replace(first, token=3, begin_ns=900)
    log.write(begin(first))
    log.write(end(replace(first, end_ns=200, outcome="00")))
    log.write(begin(second))
    assert reader.of_helper("0:0:1:0", keys[:10], 99) is None
    for time, token in ((100, 1), (200, 1), (201, None), (300, 2), (300 + LATE_NS, 2)):
        found = reader.of_helper("0:0:1:0", keys[:10], time)
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


def test_many_claims_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claimlog, "_ROOM", 100 * 2048)
    log, reader = ClaimLog(tmp_path), ClaimReader(tmp_path)
    for token in range(400):
        comm = "" if token % 2 else "prx1"
        log.write(begin(replace(CLAIM, token=token, parameter=bytes(1024), comm=comm)))
    reader.read()
    assert [key[2] for key in reader.claims] == list(range(300, 400))
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
def test_a_file_full_of_something_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    reader = ClaimReader(tmp_path)
    assert reader.of_comm(7, CLAIM.comm) is None
    with (tmp_path / NAME).open("ab") as file:
        file.write(b"\n" + begin(CLAIM))
    assert reader.of_comm(7, CLAIM.comm) == CLAIM
    reader.close()


def test_the_end_of_a_huge_file_counts(tmp_path: Path) -> None:
    with (tmp_path / NAME).open("wb") as file:
        file.truncate(1 << 40)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + begin(CLAIM))
    reader = ClaimReader(tmp_path)
    assert reader.of_comm(7, CLAIM.comm) == CLAIM
    os.truncate(tmp_path / NAME, 0)
    with (tmp_path / NAME).open("ab") as file:
        file.write(begin(numbered(2)))
    assert reader.of_comm(7, "prx000000000002") == numbered(2)
    reader.close()


def test_only_what_its_owner_alone_can_write_is_believed(tmp_path: Path) -> None:
    place = tmp_path / "run"
    place.mkdir(mode=0o750)
    log = ClaimLog(place)
    log.write(begin(CLAIM))
    me = os.geteuid()

    def found(*owners: int) -> tuple[bool, bool]:
        reader = ClaimReader(place, owners)
        claim = reader.of_comm(7, CLAIM.comm)
        reader.close()
        return claim is not None, bool(reader.disbelieved)

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


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot be written"):
        ClaimLog(tmp_path / "x")
    assert ClaimReader(tmp_path / "x").read() == []
