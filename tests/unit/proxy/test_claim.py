"""Claims written, rotated, read back; what is no claim."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.errors import UnavailableError
from prtrace.proxy import claimlog
from prtrace.proxy.claim import Claim, parse_lines
from prtrace.proxy.claimlog import ClaimLog, ClaimReader

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
    guest="waldi\n",
    nexuses=("0:0:1:0", "1:0:1:0"),
    parameter=b"\1\2",
)
ENDED = replace(CLAIM, end_ns=200, outcome="00", shown=b"a", answered=b"b", note="n")


def test_both_lines() -> None:
    known: dict[tuple[int, int, int], Claim] = {}
    assert parse_lines(CLAIM.begin_line(), known) == [CLAIM]
    assert parse_lines(ENDED.end_line(), known) == [ENDED]
    assert known == {(7, 9, 1): ENDED}
    assert b"\n" not in CLAIM.begin_line()[:-1]


@given(st.binary(max_size=200))
def test_what_is_no_claim_is_left_out(text: bytes) -> None:
    assert parse_lines(text, {}) == []


@pytest.mark.parametrize("cut", range(0, len(CLAIM.begin_line()), 7))
def test_half_a_line_is_left_out(cut: int) -> None:
    line = CLAIM.begin_line()[:cut]
    assert parse_lines(line.replace(b'"cdb"', b'"x"'), {}) == []


def test_log_and_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claimlog, "ROTATE_SIZE", 2000)
    log, reader = ClaimLog(tmp_path), ClaimReader(tmp_path)
    assert reader.read() == []
    for token in range(20):
        claim = replace(CLAIM, token=token, comm=f"prx{token:012x}")
        log.write(claim.begin_line())
        assert reader.read()[-1] == claim
        log.write(replace(claim, end_ns=5, outcome="00").end_line())
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


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot be written"):
        ClaimLog(tmp_path / "x")
