from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from prtrace.errors import DeviceError
from prtrace.linux.sysfs import names, read_bytes, read_text, target


def test_text_is_cleaned_and_stripped(tmp_path: Path) -> None:
    (tmp_path / "vendor").write_bytes(b"LIO-ORG \n")
    (tmp_path / "model").write_bytes(b"a\xff\x1bb\0\0")
    assert read_text(tmp_path / "vendor") == "LIO-ORG"
    assert read_text(tmp_path / "model") == r"a\udcff\x1bb"


def test_empty_is_not_absent(tmp_path: Path) -> None:
    (tmp_path / "uuid").write_bytes(b"")
    assert read_text(tmp_path / "uuid") == ""
    assert read_bytes(tmp_path / "uuid") == b""


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for path in ("absent", "absent/below", "file/below", "dangling"):
        assert read_text(tmp_path / path) is None
        assert read_bytes(tmp_path / path) is None
        assert names(tmp_path / path) == ()
        assert target(tmp_path / path) is None


def test_attribute_that_the_kernel_refuses_is_none() -> None:
    # The kernel answers a read at address 0 of this file with EIO.
    assert read_bytes(Path("/proc/self/mem")) is None


def test_a_socket_is_absent_and_a_directory_is_an_error(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        assert read_bytes(tmp_path / "socket") is None
    with pytest.raises(DeviceError, match="Is a directory"):
        read_bytes(tmp_path)


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 8192, 65535])
def test_content_is_whole_whatever_its_length(tmp_path: Path, size: int) -> None:
    content = bytes(at % 251 for at in range(size))
    (tmp_path / "vpd_pg83").write_bytes(content)
    assert read_bytes(tmp_path / "vpd_pg83") == content


def test_content_is_bounded() -> None:
    assert read_bytes(Path("/dev/zero")) == bytes(1 << 16)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(DeviceError):
        read_bytes(tmp_path)
    read_bytes(Path("/proc/self/mem"))
    assert os.listdir("/proc/self/fd") == before


def test_names_are_sorted(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / name).mkdir()
    assert names(tmp_path) == ("a", "b", "c")


def test_a_link_leads_to_its_last_target(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "one").symlink_to("real")
    (tmp_path / "two").symlink_to("one")
    assert target(tmp_path / "two") == (tmp_path / "real").resolve()
