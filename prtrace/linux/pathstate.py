"""How a path is now, and who else uses it: what an inventory cannot know for longer than a moment.

The midlayer emits no uevent when a device goes from blocked to running
(scsi_internal_device_unblock_nowait, drivers/scsi/scsi_lib.c), nor when its ALUA state changes.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prtrace.errors import PrtraceError
from prtrace.linux.process import PROC
from prtrace.linux.sysfs import SYS, read_text, target

if TYPE_CHECKING:
    from prtrace.linux.directory import Directory

_ACCESS: Final = {
    "active/optimized": 0,
    "active/non-optimized": 1,
    "lba-dependent": 1,
    "standby": 2,
    "transitioning": 3,
    "unavailable": 4,
    "offline": 4,
}
"""drivers/scsi/scsi_sysfs.c, sdev_access_states."""
_TAKES_PR_IN: Final = 2
"""PR IN is taken in all states up to standby (SPC-4 5.15.2.4)."""


@dataclass(frozen=True, slots=True)
class PathState:
    """state: the midlayer's word, "" where the device is gone.

    access: the ALUA state of the target port, "" where the device has none.
    """

    state: str
    access: str = ""

    @property
    def runs(self) -> bool:
        """Whether the midlayer takes commands for it."""
        return self.state == "running"

    @property
    def access_rank(self) -> int:
        """0 for the best access; more is worse."""
        return _ACCESS.get(self.access, 0)

    @property
    def may_answer(self) -> bool:
        """Whether the ALUA state lets PR IN through, as far as the kernel knows it."""
        return self.access_rank <= _TAKES_PR_IN


def path_state(hctl: str, sys: Path = SYS) -> PathState:
    """Two attributes of the scsi_device; no command is sent."""
    directory = sys / "bus/scsi/devices" / hctl
    try:
        state = read_text(directory / "state", 32) or ""
        return PathState(state, read_text(directory / "access_state", 32) or "")
    except PrtraceError:
        return PathState("")


def is_removable(device: str, sys: Path = SYS) -> bool:
    """Whether the medium of a disk node ("/dev/sda") can be changed."""
    try:
        return read_text(sys / "class/block" / Path(device).name / "removable") == "1"
    except PrtraceError:
        return False


def nexuses_in_use(directory: Directory, proc: Path = PROC) -> frozenset[str]:
    """The "H:C:T:L" of devices that other processes have open, mounted, or build volumes on.

    What may not be looked at is left out: nothing decides by it alone.
    """
    used = set()
    for kind, number in _opened(proc) | _mounted(proc):
        table = directory.block if kind == "block" else directory.char
        hctl = table.get(number) or (kind == "block" and _whole_disks(directory, number))
        if hctl:
            used.add(hctl)
    for nexus in directory.nexuses.values():
        disk = Path(nexus.device).name
        if disk and _names(directory.sys / "block" / disk / "holders"):
            used.add(nexus.nexus)
    return frozenset(used)


def _opened(proc: Path) -> set[tuple[str, str]]:
    """("block" or "char", "MAJOR:MINOR") of the nodes that other processes have open.

    Only names below /dev are looked at closer: a stat of a file on a network can wait for ever.
    """
    found = set()
    for pid in _names(proc):
        if not pid.isdecimal() or pid == str(os.getpid()):
            continue
        for number in _names(proc / pid / "fd"):
            name = f"{proc}/{pid}/fd/{number}"
            try:
                if not os.readlink(name).startswith("/dev/"):
                    continue
                status = os.stat(name)
            except OSError:
                continue
            node = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
            if stat.S_ISBLK(status.st_mode):
                found.add(("block", node))
            elif stat.S_ISCHR(status.st_mode):
                found.add(("char", node))
    return found


def _mounted(proc: Path) -> set[tuple[str, str]]:
    """The devices of mounted file systems, by field 3 of mountinfo (proc(5))."""
    try:
        lines = (proc / "self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return set()
    return {("block", fields[2]) for line in lines if len(fields := line.split()) > 2}


def _whole_disks(directory: Directory, number: str) -> str:
    """The nexus of the disk whose partition has this number, "" where it is none."""
    try:
        place = target(directory.sys / "dev/block" / number)
        if place is None or read_text(place / "partition") is None:
            return ""
        return directory.block.get(read_text(place.parent / "dev") or "", "")
    except PrtraceError:
        return ""


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
