"""The kernel's record and the proxy's claim: what is joined, and what only looks like it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from prtrace.agent.claims import Claims
from prtrace.prhelper.attribution import begin_line, common_part
from prtrace.prhelper.attribution_log import AttributionLog
from prtrace.prhelper.sparing_log import SparingLog
from prtrace.probe.record import RECORD, Record

SECOND = 1_000_000_000
COMM = "prx0000000000aa"
REGISTER = bytes((0x5F, 0, 0, 0, 0, 0, 0, 0, 24)) + bytes(7)
LIST = bytes(range(24))
FIELDS = RECORD.build(
    seq=1, lost=0, submit_ns=900, start_ns=1000, done_ns=1100, lun=0, issuer_start_ns=5 * SECOND,
    cgroup=0, host=2, channel=0, target=1, result=0, pid=70, ioctl=0, requested=0,
    transfer_length=24, resid=0, data_length=24, attempt=1, generation=1, abi=1, kind=1, flags=0,
    issue=8, page83_length=0, cdb_length=16, sense_length=0, comm=COMM.encode(), cdb=REGISTER,
    sense=b"", head=b"", inquiry=b"", page83=b"", head_length=0,
)  # fmt: skip
PLAIN = RECORD.parse(FIELDS)


def record(data: bytes = LIST, **fields: object) -> Record:
    return Record(PLAIN._replace(**fields), data)


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    """One command of the proxy's own, one that went to a helper, one on two nexuses."""
    log = AttributionLog(tmp_path, SparingLog(logging.getLogger("test")))
    for token, comm, nexuses in ((1, COMM, ("2:0:1:0",)), (2, "", ("3:0:1:0",)),
                                 (3, "", ("4:0:1:0", "5:0:1:0"))):  # fmt: skip
        common = common_part(
            issuer_pid=70, issuer_start_ns=5 * SECOND if comm else 0, client_pid=token,
            client_uid=0, client_start_ns=0, client_comm="qemu", client_unit="", guest="waldi",
            vouched_by="machine", claimed_guest="", claimed_uuid="",
            device="8:0", nexuses=nexuses,
        )  # fmt: skip
        log.write(begin_line(common, token, comm, 500, REGISTER, LIST, "", issued=True))
    log.close()
    return Claims([tmp_path / "not there", tmp_path])


def client(claims: Claims, seen: Record, exe: str = "") -> int | None:
    claim = claims.of(seen, exe)
    return None if claim is None else claim.client_pid


def test_a_proxy_is_known_by_process_and_thread(claims: Claims) -> None:
    assert client(claims, record()) == 1
    tick = 10_000_000
    assert client(claims, record(issuer_start_ns=5 * SECOND + tick - 1)) == 1, "to a clock tick"
    assert client(claims, record(issuer_start_ns=6 * SECOND)) is None, "its pid is another's now"
    assert client(claims, record(pid=71)) is None, "another process by that name"
    assert client(claims, record(comm=b"prx0000000000ab")) is None
    assert client(claims, record(comm=b"sg_persist")) is None


HELPER = {"comm": b"qemu-pr-helper", "host": 3, "pid": 80}


def test_a_helper_is_known_by_what_it_sent(claims: Claims) -> None:
    assert client(claims, record(**HELPER)) == 2
    assert client(claims, record(**(HELPER | {"comm": b"worker"})), "/x/qemu-pr-helper") == 2
    assert client(claims, record(**(HELPER | {"comm": b"worker"})), "/x/other") is None
    assert client(claims, record(**(HELPER | {"host": 2}))) is None, "on another nexus"
    assert client(claims, record(**(HELPER | {"start_ns": 499}))) is None, "before it was asked"
    assert client(claims, record(**(HELPER | {"start_ns": 0}))) is None, "nobody saw when"
    other = REGISTER[:1] + b"\1" + REGISTER[2:]
    assert client(claims, record(**(HELPER | {"cdb": other}))) is None


def test_a_record_of_another_parameter_list_is_not_joined(claims: Claims) -> None:
    assert client(claims, record(LIST[::-1], **HELPER)) is None, "another list"
    submitted = {"head": LIST[::-1] + bytes(104), "head_length": 24}
    assert client(claims, record(**HELPER, **submitted)) is None, "the list at submission counts"
    assert client(claims, record(b"", **HELPER)) == 2, "the list was not seen"
    assert client(claims, record(LIST[::-1], **(HELPER | {"host": 5}))) == 3, (
        "a map's lists differ"
    )
