"""Python's layout of the records against the C compiler's, by the BTF that it writes."""

from __future__ import annotations

import contextlib
import json
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
from prtrace.probe.record import COUNT, LOSS, NEXUS, PENDING, RECORD, Record
from prtrace.scsi.form import Form

_STRUCTURES = ("record", "count", "loss", "nexus", "pending")


@cache
def btf() -> list[dict[str, Any]]:
    """The types of pr_record.h, from an object that holds one variable of each."""
    with tempfile.TemporaryDirectory() as folder:
        source, compiled = Path(folder, "layout.c"), Path(folder, "layout.o")
        types = [f"struct pr_{name}" for name in _STRUCTURES]
        types += [
            f"enum pr_{name}" for name in ("kind", "flag", "issue", "stat", "state", "cause")
        ]
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


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("pr_record", RECORD),
        ("pr_count", COUNT),
        ("pr_loss", LOSS),
        ("pr_nexus", NEXUS),
        ("pr_pending", PENDING),
    ],
)
def test_declarations_are_the_btf_layout(name: str, form: Form) -> None:
    found = named("STRUCT", name)
    members = [member for member in found["members"] if member["name"] != "data"]
    assert found["size"] == form.size
    assert [(member["name"], member["bits_offset"] // 8) for member in members] == [
        (each.name, each.offset) for each in form.declared
    ]


@pytest.mark.parametrize("form", [RECORD, COUNT, LOSS, NEXUS, PENDING], ids=lambda each: each.what)
@given(st.data())
def test_construct_reads_the_same(form: Form, data: st.DataObject) -> None:
    raw = data.draw(st.binary(min_size=form.size, max_size=form.size))
    ours, theirs = form.parse(raw), form.construct.parse(raw)
    for each in form.declared:
        value = getattr(ours, each.name)
        if each.count > 1:
            assert value == tuple(theirs[each.name])
        elif form is PENDING and each.name == "nexus":
            assert NEXUS.parse(value).lun == theirs.nexus.lun
        else:
            assert value == theirs[each.name]


@pytest.mark.parametrize(
    ("enum", "prefix", "mirror"),
    [
        ("pr_kind", "PR_KIND_", record.RecordKind),
        ("pr_flag", "PR_FLAG_", record.Flag),
        ("pr_issue", "PR_ISSUE_", record.Issue),
        ("pr_stat", "PR_STAT_", record.Stat),
        ("pr_state", "PR_STATE_", record.State),
        ("pr_cause", "PR_CAUSE_", record.Cause),
    ],
)
def test_enums_have_the_btf_values(enum: str, prefix: str, mirror: Any) -> None:
    theirs = {
        name.removeprefix(prefix): value
        for name, value in values_of(enum).items()
        if name.startswith(prefix)
    }
    numbers = vars(mirror).items()
    assert {name: int(value) for name, value in numbers if name.isupper()} == theirs


def header(**fields: Any) -> bytes:
    return RECORD.build(**{"abi": record.ABI, **fields})


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


@pytest.mark.parametrize("sent", [6, 7, 8, 9, 10, 16])
@pytest.mark.parametrize("opcode", [0x5F, 0x5E, 0x56, 0x57])
def test_a_cdb_is_as_long_as_its_operation_code_says(opcode: int, sent: int) -> None:
    """SG_IO takes any length from 6 up; the device reads 10 bytes, the kernel's zeros behind."""
    cdb = bytes((opcode, 6, 0, 0, 0, 0, 0, 0, 24, 0))[:sent]
    seen = Record.parse(header(cdb=cdb, cdb_length=sent))
    assert seen.cdb == cdb.ljust(10, b"\0")


def test_a_cdb_of_6_bytes_has_6() -> None:
    assert Record.parse(header(cdb=b"\x16" + bytes(15), cdb_length=16)).cdb == b"\x16" + bytes(5)


def test_a_cdb_of_unknown_length_is_as_its_sender_sent_it() -> None:
    assert Record.parse(header(cdb=b"\xc1\1\2\3", cdb_length=3)).cdb == b"\xc1\1\2"


@pytest.mark.parametrize(
    ("names", "path"),
    [
        (b"sg_persist\0bin\0usr\0/", "/usr/bin/sg_persist"),
        (b"init\0/", "/init"),
        (b"sg_persist\0bin\0usr\0", ""),
        (b"", ""),
        (b"\xff\0/", "/\udcff"),
    ],
)
def test_an_executable_is_told_whole_or_not_at_all(names: bytes, path: str) -> None:
    assert Record.parse(header(exe=names)).exe == path


def test_another_abi_is_refused() -> None:
    with pytest.raises(MalformedError, match="ABI"):
        Record.parse(header(abi=record.ABI + 1))


def test_a_claim_beyond_the_record_is_refused() -> None:
    with pytest.raises(MalformedError, match="claims 5 bytes"):
        Record.parse(header(data_length=5) + b"1234")


@given(st.binary(max_size=RECORD.size + 64))
def test_any_bytes_give_a_record_or_a_clear_error(raw: bytes) -> None:
    with contextlib.suppress(MalformedError):
        assert len(Record.parse(raw).data) <= len(raw)
