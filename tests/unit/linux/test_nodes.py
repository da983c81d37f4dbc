"""The nodes of one SCSI device, from the folders of its sysfs directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prtrace.linux.nodes import DeviceNodes, bsg_major, is_node_of


def made(device: Path, **nodes: str) -> Path:
    """A device's directory with nodes: scsi_generic__sg0="21:0"."""
    for name, number in nodes.items():
        folder = device.joinpath(*name.split("__"))
        folder.mkdir(parents=True)
        (folder / "dev").write_text(f"{number}\n")
    return device


def test_a_disk(tmp_path: Path) -> None:
    device = made(tmp_path, block__sda="8:0", scsi_generic__sg0="21:0", bsg__a="245:0")
    assert DeviceNodes.of(device) == DeviceNodes(
        "sda", "sg0", "a", block="8:0", chars=("21:0", "245:0")
    )


def test_a_tape(tmp_path: Path) -> None:
    device = made(
        tmp_path, scsi_tape__st0="9:0", scsi_tape__nst0="9:128", scsi_generic__sg1="21:1"
    )
    nodes = DeviceNodes.of(device)
    assert (nodes.disk, nodes.block, nodes.sg) == ("", "", "sg1")
    assert set(nodes.other) == {"st0", "nst0"}
    assert set(nodes.chars) == {"21:1", "9:0", "9:128"}


def test_without_any(tmp_path: Path) -> None:
    assert DeviceNodes.of(tmp_path) == DeviceNodes()


def test_a_node_that_vanishes_meanwhile_is_left_out(tmp_path: Path) -> None:
    """The node's folder was listed; its device number has gone meanwhile."""
    (tmp_path / "block" / "sda").mkdir(parents=True)
    assert DeviceNodes.of(tmp_path) == DeviceNodes()


@pytest.mark.skipif(not os.path.isdir("/sys/class/bsg"), reason="the kernel has no bsg")
def test_the_major_number_of_bsg_is_this_kernels() -> None:
    text = Path("/proc/devices").read_text("ascii", "replace")
    assert (f" {bsg_major()} bsg\n" in f" {text}".replace("\n", "\n ")) == ("bsg" in text)


def test_a_node_of_the_device_that_was_found(tmp_path: Path) -> None:
    """An open node by its number, and the life of the device at its address."""
    folder = tmp_path / "bus/scsi/devices/1:0:0:0"
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        status = os.fstat(fd)
        number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        assert not is_node_of(fd, "1:0:0:0", 7, tmp_path)
        made(folder, scsi_generic__sg0=number)
        life = folder.stat().st_ino
        assert is_node_of(fd, "1:0:0:0", life, tmp_path)
        assert not is_node_of(fd, "1:0:0:0", life + 1, tmp_path)
        assert not is_node_of(fd, "1:0:0:0", 0, tmp_path)
        (folder / "scsi_generic/sg0/dev").write_text("21:99\n")
        assert not is_node_of(fd, "1:0:0:0", life, tmp_path)
        # A disk with a character node's number is no such node.
        made(folder, block__sda=number)
        assert not is_node_of(fd, "1:0:0:0", life, tmp_path)
    finally:
        os.close(fd)
