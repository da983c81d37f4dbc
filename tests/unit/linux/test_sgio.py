"""The structure against the C header, outcomes, and refusals; commands run in tests/kernel."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from prtrace.errors import ConflictError, DeviceError, NoSuchDeviceError, UsageError
from prtrace.linux import sgio
from prtrace.linux.sgio import (
    SG_DXFER_FROM_DEV,
    SG_DXFER_NONE,
    SG_DXFER_TO_DEV,
    SG_GET_VERSION_NUM,
    SG_IO,
    Reply,
    SgDevice,
    SgIo,
    SgIoHdr,
)
from prtrace.model import Outcome
from prtrace.scsi.sense import DESCRIPTOR, FIXED, NOT_READY, UNIT_ATTENTION, Sense

CONSTANTS = {
    "SG_IO": SG_IO,
    "SG_GET_VERSION_NUM": SG_GET_VERSION_NUM,
    "SG_DXFER_NONE": SG_DXFER_NONE,
    "SG_DXFER_TO_DEV": SG_DXFER_TO_DEV,
    "SG_DXFER_FROM_DEV": SG_DXFER_FROM_DEV,
}
ATTENTION = Sense(FIXED, UNIT_ATTENTION, 0x2A, 0x03).build()
ATTENTION_IN_DESCRIPTORS = Sense(DESCRIPTOR, UNIT_ATTENTION, 0x2A, 0x03).build()
EARLIER_ATTENTION = Sense(FIXED + 1, UNIT_ATTENTION, 0x2A, 0x03).build()
IN_TRANSIT = Sense(FIXED, NOT_READY, 0x04, 0x0A).build()


def test_the_structs_are_the_headers() -> None:
    """The two struct.Structs that SgIo uses lie as the fields of SgIoHdr do."""
    raw = bytearray(range(1, ctypes.sizeof(SgIoHdr) + 1))
    header = SgIoHdr.from_buffer(raw)
    asked = ("interface_id", "dxfer_direction", "cmd_len", "mx_sb_len", "iovec_count",
             "dxfer_len", "dxferp", "cmdp", "sbp", "timeout", "flags")  # fmt: skip
    assert sgio._ASKED.unpack_from(raw) == tuple(getattr(header, name) for name in asked)
    answered = ("status", "sb_len_wr", "host_status", "driver_status", "resid", "duration")
    assert sgio._ANSWERED.unpack_from(raw, sgio._ANSWERED_AT) == tuple(
        getattr(header, name) for name in answered
    )


def test_layout_is_that_of_the_header(tmp_path: Path) -> None:
    fields = [name for name, *_ in SgIoHdr._fields_]
    prints = [f'printf("%ld\\n", (long)({name}));' for name in CONSTANTS]
    prints.append('printf("%zu\\n", sizeof(sg_io_hdr_t));')
    prints += [
        f'printf("%zu %zu\\n", offsetof(sg_io_hdr_t, {name}), sizeof(((sg_io_hdr_t *)0)->{name}));'
        for name in fields
    ]
    source = tmp_path / "layout.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <scsi/sg.h>\n"
        f"int main(void) {{ {' '.join(prints)} return 0; }}\n"
    )
    subprocess.run(["gcc", "-o", tmp_path / "layout", source], check=True)
    lines = subprocess.run([tmp_path / "layout"], check=True, capture_output=True, text=True)
    offsets = [getattr(SgIoHdr, name) for name in fields]
    wanted = [str(number) for number in CONSTANTS.values()]
    wanted.append(str(ctypes.sizeof(SgIoHdr)))
    wanted += [f"{field.offset} {field.size}" for field in offsets]
    assert lines.stdout.splitlines() == wanted


@pytest.mark.parametrize(
    ("status", "host", "driver", "sense", "outcome", "attention"),
    [
        (0x00, 0, 0, b"", Outcome.DONE, False),
        (0x18, 0, 0, b"", Outcome.CONFLICT, False),
        (0x18, 0x11, 0, b"", Outcome.CONFLICT, False),
        (0x00, 0x11, 0, b"", Outcome.UNKNOWN, False),
        (0x18, 0x0E, 0, b"", Outcome.UNKNOWN, False),
        (0x02, 0, 8, ATTENTION, Outcome.NOT_EXECUTED, True),
        (0x02, 0, 0, ATTENTION_IN_DESCRIPTORS, Outcome.NOT_EXECUTED, True),
        (0x02, 0, 8, EARLIER_ATTENTION, Outcome.UNKNOWN, False),
        (0x02, 0, 8, IN_TRANSIT, Outcome.UNKNOWN, False),
        (0x02, 0, 8, b"", Outcome.UNKNOWN, False),
        (0x02, 0, 8, b"\x70", Outcome.UNKNOWN, False),
        (0x02, 3, 8, ATTENTION, Outcome.UNKNOWN, False),
        (0x08, 0, 0, b"", Outcome.NOT_EXECUTED, False),
        (0x28, 0, 0, b"", Outcome.NOT_EXECUTED, False),
        (0x40, 0, 0, b"", Outcome.UNKNOWN, False),
        (0x00, 1, 0, b"", Outcome.UNKNOWN, False),
        (0x00, 3, 0, b"", Outcome.UNKNOWN, False),
        (0x00, 0, 6, b"", Outcome.UNKNOWN, False),
    ],
)
def test_outcome(
    status: int, host: int, driver: int, sense: bytes, outcome: Outcome, attention: bool
) -> None:
    reply = Reply(status, host, driver, sense, b"", 0)
    assert reply.outcome is outcome
    assert reply.attention is attention
    assert reply.conflict is (outcome is Outcome.CONFLICT)


def test_expect_good() -> None:
    assert Reply(0, 0, 0, b"", b"data", 1).expect_good("READ KEYS") == b"data"
    with pytest.raises(ConflictError, match="READ KEYS: RESERVATION CONFLICT"):
        Reply(0x18, 0, 0, b"", b"", 1).expect_good("READ KEYS")
    with pytest.raises(DeviceError, match=r"did not execute it \(status 0x02, sense 70"):
        Reply(2, 0, 8, ATTENTION, b"", 1).expect_good("READ KEYS")
    with pytest.raises(DeviceError, match=r"unknown \(status 0x00, host byte 0x03"):
        Reply(0, 3, 0, b"", b"", 1).expect_good("READ KEYS")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/dev/null", "neither a block node nor an sg node"),
        ("/", "no device node"),
        ("/dev/null/x", "Not a directory"),
        ("/nowhere", "No such file"),
    ],
)
def test_what_is_no_scsi_node(path: str, words: str) -> None:
    with pytest.raises(NoSuchDeviceError) as caught:
        SgDevice(path)
    assert words in caught.value.message
    assert caught.value.hint


def test_a_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(NoSuchDeviceError, match="no device node"):
        SgDevice(str(tmp_path / "fifo"))


def test_a_closed_device_takes_no_command() -> None:
    device = SgDevice.__new__(SgDevice)
    device.path, device._fd = "/dev/sg0", -1
    with pytest.raises(UsageError, match="/dev/sg0 is closed"):
        device.send(bytes(10), room=8)
    device.close()


@pytest.mark.parametrize("size", [-1, (1 << 20) + 1])
def test_impossible_sizes(size: int) -> None:
    with pytest.raises(UsageError, match="a transfer has 0 to"):
        SgIo().send(-1, bytes(10), room=size)


def test_impossible_parameter_lists() -> None:
    with pytest.raises(UsageError, match="a transfer has 0 to 1048576 bytes, not 1048577"):
        SgIo().send(-1, bytes(10), bytes((1 << 20) + 1))


@pytest.mark.parametrize("size", [0, 5, 17])
def test_impossible_cdbs(size: int) -> None:
    with pytest.raises(UsageError, match="a CDB has 6 to 16 bytes"):
        SgIo().send(-1, bytes(size), room=8)


@pytest.mark.parametrize(
    "given",
    [{}, {"room": 8}, {"room": 65_472}, {"data_out": bytes(8192)}, {"room": 8, "transfer": 8192}],
)
def test_a_node_that_takes_no_command_raises_oserror(given: dict[str, Any]) -> None:
    io = SgIo()
    no_tty = os.strerror(errno.ENOTTY)
    with open("/dev/null", "rb") as null, pytest.raises(OSError, match=no_tty):
        io.send(null.fileno(), bytes(16), **given)


def test_each_thread_has_its_own_buffers() -> None:
    first = sgio._own.io
    found: list[SgIo] = []
    thread = threading.Thread(target=lambda: found.append(sgio._own.io))
    thread.start()
    thread.join()
    assert found[0] is not first
    assert sgio._own.io is first


def test_a_forked_process_has_buffers_of_its_own():
    io = SgIo()
    io._data[:4] = b"here"
    pid = os.fork()
    if pid == 0:
        io._data[:4] = b"gone"
        os._exit(0)
    os.waitpid(pid, 0)
    assert io._data[:4] == b"here"
