"""What is refused without a SCSI device in sight; what is accepted is tested in the lab."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from prtrace.errors import DeviceError, MalformedError
from prtrace.prhelper.descriptor import _STATX, _STATX_ROOM, Inspector, read_only


def test_layout_is_that_of_the_header(tmp_path: Path) -> None:
    """A struct made by the C compiler, read by the format."""
    source = tmp_path / "layout.c"
    source.write_text(
        "#include <stdio.h>\n#include <linux/stat.h>\n"
        "int main(void) { struct statx s = {.stx_mode = 0x61b0, .stx_rdev_major = 8,"
        " .stx_rdev_minor = 0x12345}; return !fwrite(&s, sizeof s, 1, stdout); }\n"
    )
    subprocess.run(["gcc", "-o", tmp_path / "layout", source], check=True)
    made = subprocess.run([tmp_path / "layout"], check=True, capture_output=True).stdout
    assert len(made) == _STATX_ROOM
    assert _STATX.unpack_from(made) == (0x61B0, 8, 0x12345)


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
def test_a_descriptor_of_no_device_is_refused(path: str, flags: int) -> None:
    fd = os.open(path, flags)
    try:
        with pytest.raises(MalformedError, match="descriptor"):
            Inspector().node_of(fd)
        assert read_only(fd) is (flags != os.O_RDWR)
    finally:
        os.close(fd)


def test_pipes_and_sockets_are_refused() -> None:
    ends = os.pipe()
    with socket.socket() as sock:
        for fd in (*ends, sock.fileno()):
            with pytest.raises(MalformedError):
                Inspector().node_of(fd)
    for fd in ends:
        os.close(fd)


def test_a_number_that_is_no_descriptor_is_an_error_of_the_device() -> None:
    with pytest.raises(DeviceError):
        Inspector().node_of(1 << 20)
