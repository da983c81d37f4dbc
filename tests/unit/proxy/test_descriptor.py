"""What is refused without a SCSI device in sight; what is accepted is tested in the lab."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from pathlib import Path

import pytest

from prtrace.errors import DeviceError, MalformedError
from prtrace.proxy.descriptor import _Statx, node_of, read_only


def test_layout_is_that_of_the_header(tmp_path: Path) -> None:
    fields = ("stx_mask", "stx_mode", "stx_ino", "stx_rdev_major", "stx_rdev_minor")
    source = tmp_path / "layout.c"
    prints = "".join(f'printf("%zu\\n", offsetof(struct statx, {name}));' for name in fields)
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <linux/stat.h>\n"
        f'int main(void) {{ {prints} printf("%zu\\n", sizeof(struct statx)); return 0; }}\n'
    )
    subprocess.run(["gcc", "-o", tmp_path / "layout", source], check=True)
    done = subprocess.run([tmp_path / "layout"], check=True, capture_output=True, text=True)
    offsets = [getattr(_Statx, name.removeprefix("stx_")).offset for name in fields]
    assert [int(line) for line in done.stdout.split()] == [*offsets, ctypes.sizeof(_Statx)]


@pytest.mark.parametrize(
    ("path", "flags"),
    [
        ("/dev/null", os.O_RDONLY),
        ("/dev/null", os.O_RDWR),
        ("/dev/null", os.O_PATH),
        ("/proc/self/stat", os.O_RDONLY),
        ("/", os.O_RDONLY),
        ("/", os.O_PATH),
    ],
)
def test_no_device(path: str, flags: int) -> None:
    fd = os.open(path, flags)
    try:
        with pytest.raises(MalformedError, match="descriptor"):
            node_of(fd)
        assert read_only(fd) is (flags != os.O_RDWR)
    finally:
        os.close(fd)


def test_pipes_and_sockets() -> None:
    ends = os.pipe()
    with socket.socket() as sock:
        for fd in (*ends, sock.fileno()):
            with pytest.raises(MalformedError):
                node_of(fd)
    for fd in ends:
        os.close(fd)


def test_a_closed_number() -> None:
    with pytest.raises(DeviceError):
        node_of(1 << 20)
