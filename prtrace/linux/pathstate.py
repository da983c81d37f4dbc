"""How a path is now: what an inventory cannot know for longer than a moment.

The midlayer emits no uevent when a device goes from blocked to running
(scsi_internal_device_unblock_nowait, drivers/scsi/scsi_lib.c), nor when its ALUA state changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from prtrace.errors import PrtraceError
from prtrace.linux.sysfs import SYS, read_bytes, read_text

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
_RMB: Final = 0x80


class PathState(NamedTuple):
    """How a path is at the moment of the call."""

    state: str
    """The midlayer's word, "" where the device is gone."""
    access: str = ""
    """The ALUA state of the target port, "" where the device has none."""

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
    directory = f"{sys}/bus/scsi/devices/{hctl}"
    try:
        state = read_text(f"{directory}/state", 32) or ""
        return PathState(state, read_text(f"{directory}/access_state", 32) or "")
    except PrtraceError:
        return PathState("")


def is_quiet(hctl: str, sys: Path = SYS) -> bool:
    """Whether the midlayer has no command under way for a device, in the error handler or not.

    scsi_finish_command() gives up what device_busy counts (drivers/scsi/scsi_sysfs.c).  A device
    that is gone has none.
    """
    try:
        return (read_text(sys / "bus/scsi/devices" / hctl / "device_busy", 32) or "0") == "0"
    except PrtraceError:
        return False


def is_removable(hctl: str, sys: Path = SYS) -> bool | None:
    """Whether the medium of a device can be changed; None where that is not known.

    RMB of the standard INQUIRY data (SPC-4 6.6.2), of which the kernel keeps a copy: it is there
    before the disk's own node is.
    """
    try:
        inquiry = read_bytes(sys / "bus/scsi/devices" / hctl / "inquiry") or b""
    except PrtraceError:
        return None
    return bool(inquiry[1] & _RMB) if len(inquiry) > 1 else None
