"""The device nodes of one SCSI device, from the subdirectories of its sysfs directory."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple, Self

from prtrace.linux.sysfs import names, read_text


class DeviceNodes(NamedTuple):
    """disk, sg, bsg: kernel names, "" where there is none.  other: tape and changer names.

    block: "MAJOR:MINOR" of the disk or "".  chars: those of all character nodes.
    """

    disk: str = ""
    sg: str = ""
    bsg: str = ""
    other: tuple[str, ...] = ()
    block: str = ""
    chars: tuple[str, ...] = ()

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
