"""The guest's SCSI devices as sysfs shows them, and bounded waits for them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from labkit.waiting import await_that

SESSIONS = Path("/sys/class/iscsi_session")
_DEVICES = "/sys/class/scsi_device"
_RELATIVE_TARGET_PORT = 4
_NAA = 3


@dataclass(frozen=True, slots=True)
class Disk:
    """One SCSI disk: its address, its nodes, and who it says it is."""

    hctl: str
    block: str
    sg: str
    bsg: str
    lu: str
    rtpi: int


def _only_child(folder: str) -> str:
    try:
        return next(iter(os.listdir(folder)), "")
    except FileNotFoundError:  # the driver has not come yet, or the device has gone
        return ""


def _designators(page: bytes) -> list[tuple[int, bytes]]:
    """(type, designator) of VPD page 0x83, as the kernel keeps it: four octets of header first."""
    found, at = [], 4
    while at + 4 <= len(page):
        length = page[at + 3]
        found.append((page[at + 1] & 0x0F, page[at + 4 : at + 4 + length]))
        at += 4 + length
    return found


def disk(hctl: str) -> Disk | None:
    """The disk at hctl, once all its nodes are there.

    By texts and descriptors: who waits for the disks of a session looks at all of them again and
    again, and an emulated processor makes few Paths a second.
    """
    device = f"{_DEVICES}/{hctl}/device"
    block = _only_child(f"{device}/block")
    sg = _only_child(f"{device}/scsi_generic")
    nodes = (f"/dev/{block}", f"/dev/{sg}", f"/dev/bsg/{hctl}")
    if not block or not sg or not all(map(os.path.exists, nodes)):
        return None
    try:
        with open(f"{device}/vpd_pg83", "rb", buffering=0) as file:
            page = file.read()
    except OSError:
        return None
    lu, rtpi = "", 0
    for kind, designator in _designators(page):
        if kind == _NAA:
            lu = f"naa.{designator.hex()}"
        elif kind == _RELATIVE_TARGET_PORT:
            rtpi = int.from_bytes(designator[2:4], "big")
    return Disk(hctl, *nodes, lu, rtpi)


def await_disk(hctl: str) -> Disk:
    """The disk at hctl, waiting for its drivers to bind."""
    await_that(f"the disk at {hctl} appears", lambda: disk(hctl) is not None)
    found = disk(hctl)
    assert found is not None
    return found


def addresses() -> list[str]:
    """H:C:T:L of every SCSI device."""
    try:
        return os.listdir(_DEVICES)
    except FileNotFoundError:  # the midlayer is not loaded
        return []


def host_of_session(entry: Path) -> str:
    """The number of the SCSI host of one of SESSIONS."""
    # The link leads to …/hostH/sessionS/iscsi_session/sessionS.
    return os.readlink(entry).split("/")[-4].removeprefix("host")
