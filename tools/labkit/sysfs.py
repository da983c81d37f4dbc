"""The guest's SCSI devices as sysfs shows them, and bounded waits for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from labkit.waiting import await_that

_DEVICES = Path("/sys/class/scsi_device")
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


def _only_child(folder: Path) -> str:
    try:
        return next((child.name for child in folder.iterdir()), "")
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
    """The disk at hctl, once all its nodes are there."""
    device = _DEVICES / hctl / "device"
    block = _only_child(device / "block")
    sg = _only_child(device / "scsi_generic")
    bsg = Path("/dev/bsg") / hctl
    nodes = (f"/dev/{block}", f"/dev/{sg}", str(bsg))
    if not block or not sg or not all(Path(node).exists() for node in nodes):
        return None
    try:
        page = (device / "vpd_pg83").read_bytes()
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
    return [entry.name for entry in _DEVICES.iterdir()] if _DEVICES.is_dir() else []
