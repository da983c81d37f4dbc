"""Records as the programs write them, and a ring that holds them in memory of our own."""

from __future__ import annotations

import os
from typing import Final

from prtrace.probe.record import ABI, RECORD, RecordKind

PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_NAA: Final = bytes.fromhex("6001405000000000")


def page83(unit: int) -> bytes:
    """VPD page 83h of a unit whose designator is lu(unit): one NAA 6 name."""
    name = _NAA + unit.to_bytes(8, "big")
    descriptor = bytes((1, 3, 0, len(name))) + name
    return bytes((0, 0x83)) + len(descriptor).to_bytes(2, "big") + descriptor


def lu(unit: int) -> str:
    """The unit's designator as prtrace writes it."""
    return f"naa.{_NAA.hex()}{unit:016x}"


def record(
    seq: int,
    cdb: bytes,
    data: bytes = b"",
    *,
    unit: int | None = 1,
    host: int = 1,
    pid: int = 0,
    issuer_start_ns: int = 0,
    result: int = 0,
    **fields: object,
) -> bytes:
    """One record; unit None: one whose page 83h the kernel did not have."""
    page = b"" if unit is None else page83(unit)
    given = {
        "seq": seq,
        "submit_ns": seq * 1000,
        "start_ns": seq * 1000,
        "done_ns": seq * 1000 + 500,
        "issuer_start_ns": issuer_start_ns,
        "cgroup": 1,
        "host": host,
        "result": result,
        "pid": pid,
        "ioctl": 0x2285,
        "transfer_length": len(data),
        "data_length": len(data),
        "attempt": 1,
        "generation": 1,
        "abi": ABI,
        "kind": RecordKind.DONE,
        "issue": 8,
        "page83_length": len(page),
        "cdb_length": len(cdb),
        "comm": b"sg_persist",
        "cdb": cdb,
        "head": data[:24],
        "inquiry": b"LIO-ORG disk            4.0 ",
        "page83": page,
        "head_length": 24 if cdb[0] == 0x5F else 0,
    }
    return RECORD.build(**(given | fields)) + data


def pr_out(action: int, key: int, sa_key: int, kind: int = 0) -> tuple[bytes, bytes]:
    """CDB and parameter list of a PERSISTENT RESERVE OUT."""
    cdb = bytes((0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0))
    return cdb, key.to_bytes(8, "big") + sa_key.to_bytes(8, "big") + bytes(8)


def read_keys(generation: int, *keys: int) -> tuple[bytes, bytes]:
    """CDB and reply of READ KEYS."""
    reply = generation.to_bytes(4, "big") + (8 * len(keys)).to_bytes(4, "big")
    return bytes((0x5E, 0, 0, 0, 0, 0, 0, 0x20, 0, 0)), reply + b"".join(
        key.to_bytes(8, "big") for key in keys
    )


class Producer:
    """Writes as bpf_ringbuf_reserve() and _submit() do; the data is there twice in a row."""

    def __init__(self, size: int) -> None:
        self.fd = os.memfd_create("ring")
        self.size = size
        self.position = 0
        os.ftruncate(self.fd, 2 * PAGE + 2 * size)

    def put(self, record: bytes) -> None:
        """Add one record; there has to be room."""
        whole = len(record).to_bytes(4, "little") + bytes(4) + record
        at = self.position % self.size
        for copy in (at, at + self.size, at - self.size):
            start = max(0, -copy)
            os.pwrite(
                self.fd, whole[start : max(start, 2 * self.size - copy)], 2 * PAGE + copy + start
            )
        self.position += (len(whole) + 7) & ~7
        os.pwrite(self.fd, self.position.to_bytes(8, "little"), PAGE)

    @property
    def given_back(self) -> int:
        """The consumer's position: how much room the kernel may use again."""
        return int.from_bytes(os.pread(self.fd, 8, 0), "little")
