"""Python's layout of the records against the C compiler's, by the BTF that it writes."""

from __future__ import annotations

import contextlib
import json
import struct
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.errors import MalformedError
from prtrace.probe import record
from prtrace.probe.bcc import source_path
from prtrace.probe.record import CALL, COUNT, HEADER, LOSS, NEXUS, PENDING, Header, Record

_STRUCTURES = ("record", "count", "loss", "nexus", "pending", "call")


@cache
def btf() -> list[dict[str, Any]]:
    """The types of pr_record.h, from an object that holds one variable of each."""
    with tempfile.TemporaryDirectory() as folder:
        source, compiled = Path(folder, "layout.c"), Path(folder, "layout.o")
        types = [f"struct pr_{name}" for name in _STRUCTURES]
        types += [f"enum pr_{name}" for name in ("kind", "flag", "issue", "stat", "cause")]
        lines = ["#include <linux/types.h>", '#include "pr_record.h"']
        # A pointer, because pr_record ends in an array of no size.
        lines += [f"{name} *v{number};" for number, name in enumerate(types)]
        lines += [f"int size{number} = sizeof(*v{number});" for number, name in enumerate(types)]
        source.write_text("\n".join(lines) + "\n")
        subprocess.run(
            ["clang", "-target", "bpf", "-g", "-O2", f"-I{source_path()}",
             "-I/usr/include/x86_64-linux-gnu", "-c", str(source), "-o", str(compiled)],
            check=True,
        )  # fmt: skip
        command = ["bpftool", "-j", "btf", "dump", "file", str(compiled), "format", "raw"]
        return json.loads(subprocess.check_output(command))["types"]


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in btf() if each["kind"] == kind and each["name"] == name]
    return found


def values_of(enum: str) -> dict[str, int]:
    return {each["name"]: each["val"] for each in named("ENUM", enum)["values"]}


def test_header_is_the_btf_layout() -> None:
    event = named("STRUCT", "pr_record")
    members = [member for member in event["members"] if member["name"] != "data"]
    assert event["size"] == HEADER.size
    assert tuple(member["name"] for member in members) == Header._fields
    # A one in the first byte of each field, at the offset that BTF gives, reads back there.
    for member in members:
        raw = bytearray(HEADER.size)
        raw[member["bits_offset"] // 8] = 1
        values = Header._make(HEADER.unpack(raw))._asdict()
        assert [name for name, value in values.items() if value not in (0, bytes_of(value))] == [
            member["name"]
        ]


def bytes_of(value: object) -> bytes | None:
    """All zero bytes of the same length, None for numbers."""
    return bytes(len(value)) if isinstance(value, bytes) else None


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("pr_count", COUNT),
        ("pr_loss", LOSS),
        ("pr_nexus", NEXUS),
        ("pr_pending", PENDING),
        ("pr_call", CALL),
    ],
)
def test_map_values_have_the_btf_size(name: str, layout: struct.Struct) -> None:
    assert named("STRUCT", name)["size"] == layout.size


@pytest.mark.parametrize(
    ("enum", "prefix", "mirror"),
    [
        ("pr_kind", "PR_KIND_", record.Kind),
        ("pr_flag", "PR_FLAG_", record.Flag),
        ("pr_issue", "PR_ISSUE_", record.Issue),
        ("pr_stat", "PR_STAT_", record.Stat),
        ("pr_cause", "PR_CAUSE_", record.Cause),
    ],
)
def test_enums_have_the_btf_values(enum: str, prefix: str, mirror: Any) -> None:
    theirs = {
        name.removeprefix(prefix): value
        for name, value in values_of(enum).items()
        if name.startswith(prefix)
    }
    assert {each.name: each.value for each in mirror} == theirs


def header(**fields: Any) -> bytes:
    zero = Header._make(HEADER.unpack(bytes(HEADER.size)))._replace(abi=record.ABI, **fields)
    return HEADER.pack(*zero)


def test_fields_are_cut_to_their_valid_length() -> None:
    raw = header(
        host=3, channel=0, target=1, lun=5, cdb=b"\x5f" * 16, cdb_length=10, data_length=4,
        comm=b"sg_persist\0\0\0\0\0\0", inquiry=b"LIO-ORG RAMDISK-MCP     4.0 ",
        page83=b"\1" * 128, page83_length=20, sense=b"\x70" * 96,
    )  # fmt: skip
    seen = Record.parse(raw + b"dataslack")
    assert seen.nexus == "3:0:1:5"
    assert seen.cdb == b"\x5f" * 10
    assert seen.data == b"data"
    assert seen.comm == "sg_persist"
    assert seen.target == "LIO-ORG/RAMDISK-MCP/4.0"
    assert seen.page83 == b"\1" * 20
    assert seen.sense == b""


def test_another_abi_is_refused() -> None:
    other = header()
    at = 8 * 8 + 12 * 4
    other = other[:at] + (record.ABI + 1).to_bytes(2, "little") + other[at + 2 :]
    with pytest.raises(MalformedError, match="ABI"):
        Record.parse(other)


def test_a_claim_beyond_the_record_is_refused() -> None:
    with pytest.raises(MalformedError, match="claims 5 bytes"):
        Record.parse(header(data_length=5) + b"1234")


@given(st.binary(max_size=HEADER.size + 64))
def test_any_bytes_give_a_record_or_a_clear_error(raw: bytes) -> None:
    with contextlib.suppress(MalformedError):
        assert len(Record.parse(raw).data) <= len(raw)
