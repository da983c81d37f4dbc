"""Attribution records written and read back; what is not one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.prhelper.attribution import (
    Attribution,
    begin_line,
    common_part,
    end_line,
    parse_lines,
)

RECORD = Attribution(
    token=1,
    issuer_pid=7,
    issuer_start_ns=9,
    comm="prx000000000001",
    begin_ns=100,
    cdb=bytes(16),
    issued=True,
    client_pid=3,
    client_uid=0,
    guest="waldi",
    vouched_by="machine",
    claimed_guest='wal\n"di\u2028',
    nexuses=("0:0:1:0", "1:0:1:0"),
    parameter=b"\1\2",
)
ENDED = replace(RECORD, end_ns=200, outcome="00", shown=b"a", answered=b"b", note='"n\\')
COMMON = ("issuer_pid", "issuer_start_ns", "client_pid", "client_uid", "client_start_ns",
          "client_comm", "client_unit", "guest", "vouched_by", "claimed_guest", "claimed_uuid",
          "device", "nexuses")  # fmt: skip


def begin(claim: Attribution) -> bytes:
    common = common_part(**{name: getattr(claim, name) for name in COMMON})
    return begin_line(common, claim.token, claim.comm, claim.begin_ns, claim.cdb,
                      claim.parameter, claim.note, issued=claim.issued)  # fmt: skip


def end(claim: Attribution) -> bytes:
    return end_line(claim.key, claim.end_ns, claim.outcome, claim.sense, shown=claim.shown,
                    answered=claim.answered, note=claim.note)  # fmt: skip


def dumps(given: object) -> bytes:
    return json.dumps(given, separators=(",", ":")).encode()


def numbered(token: int) -> Attribution:
    return replace(RECORD, token=token, comm=f"prx{token:012x}")


def test_the_line_at_the_beginning_and_the_one_at_the_end_make_one_record() -> None:
    known: dict[tuple[int, int, int], Attribution] = {}
    assert parse_lines(begin(RECORD), known) == [RECORD]
    assert parse_lines(end(ENDED), known) == [ENDED]
    assert known == {(7, 9, 1): ENDED}
    for line in (begin(RECORD), end(ENDED)):
        assert line.count(b"\n") == 1
        assert line.endswith(b"\n")
    assert parse_lines(begin(replace(RECORD, guest="x")), known) == [], "a key is taken once"


@given(st.binary(max_size=200))
def test_what_is_no_record_is_left_out(text: bytes) -> None:
    assert parse_lines(text, {}) == []


@pytest.mark.parametrize("cut", range(0, len(begin(RECORD)) - 1, 7))
def test_half_a_line_is_left_out(cut: int) -> None:
    assert parse_lines(begin(RECORD)[:cut], {}) == []


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
def test_values_out_of_bounds_are_no_record(name: str, value: object) -> None:
    given_ = json.loads(begin(RECORD))
    assert parse_lines(dumps(given_), {}) == [RECORD]
    given_[name] = value
    assert parse_lines(dumps(given_), {}) == []
    if name == "begin_ns":
        known: dict[tuple[int, int, int], Attribution] = {RECORD.key: RECORD}
        line = json.loads(end(ENDED)) | {"end_ns": value}
        assert parse_lines(dumps(line), known) == []


@pytest.mark.parametrize("line", [b"[" * 200_000, b"9" * 10_000, b'{"schema":' * 50_000])
def test_no_line_keeps_the_next_one_from_being_read(line: bytes) -> None:
    assert parse_lines(line + b"\n" + begin(RECORD), {}) == [RECORD]
