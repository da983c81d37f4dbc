"""The device nodes of one SCSI device, from the subdirectories of its sysfs directory."""

from __future__ import annotations

import os
import stat
from functools import cache
from pathlib import Path
from typing import NamedTuple, Self

from prtrace.linux.sysfs import SYS, inode, names, read_text, target


class DeviceNodes(NamedTuple):
    """The device nodes of one SCSI device; a name is "" where there is none."""

    disk: str = ""
    """The kernel's name of the disk."""
    sg: str = ""
    """The kernel's name of the sg node."""
    bsg: str = ""
    """The kernel's name of the bsg node."""
    other: tuple[str, ...] = ()
    """The kernel's names of tape and changer nodes."""
    block: str = ""
    """ "MAJOR:MINOR" of the disk."""
    chars: tuple[str, ...] = ()
    """ "MAJOR:MINOR" of every character node."""

    @classmethod
    def of(cls, device: Path) -> Self:
        """Read the nodes of the device with this sysfs directory; what vanished is left out."""
        blocks = _numbers(device / "block")
        sgs = _numbers(device / "scsi_generic")
        bsgs = _numbers(device / "bsg")
        others = _numbers(device / "scsi_tape") | _numbers(device / "scsi_changer")
        disk, block = next(iter(blocks.items()), ("", ""))
        return cls(
            disk=disk,
            sg=next(iter(sgs), ""),
            bsg=next(iter(bsgs), ""),
            other=tuple(others),
            block=block,
            chars=(*sgs.values(), *bsgs.values(), *others.values()),
        )


def is_node_of(fd: int, hctl: str, life: int, sys: Path = SYS) -> bool:
    """Whether an open node is of the scsi_device that had this address and life at a scan.

    life: see LocalNexus; 0, which is not known, is never the same.  A node's name and an
    address are given to another device as soon as the first one is removed.
    """
    directory = target(sys / "bus/scsi/devices" / hctl)
    if not life or directory is None:
        return False
    nodes = DeviceNodes.of(directory)
    status = os.fstat(fd)
    number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    fits = number == nodes.block if stat.S_ISBLK(status.st_mode) else number in nodes.chars
    # Looked at last: it was the same device while its numbers were read.
    return fits and inode(directory) == life


def _numbers(directory: Path) -> dict[str, str]:
    found = {name: read_text(directory / name / "dev") for name in names(directory)}
    return {name: number for name, number in found.items() if number}


@cache
def bsg_major() -> int:
    """The major number of bsg's nodes, which the kernel chooses at boot; 0 without bsg."""
    for line in Path("/proc/devices").read_text("ascii", "replace").splitlines():
        number, _, driver = line.strip().partition(" ")
        if driver == "bsg":
            return int(number)
    return 0
