"""What the initiator and the target are doing, for an iscsiadm that does not end.  In the guest.

iscsiadm waits without limit for iscsid, and iscsid answers a login only after its child has
scanned the new host (open-iscsi 2.1.8, usr/initiator.c:session_scan_host).  So a login that does
not end may wait for the target, for the scan, for iscsid, or for the processor: each of these
shows elsewhere.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from labkit.lio import ISCSI

_TASKS: Final = ("iscsi", "scsi_eh", "kworker", "prtrace", "python")
"""How the names of those begin who may wait, or have others wait."""
_ASKED: Final = ("stat", "wchan", "schedstat", "stack")
"""Of /proc/PID/task/TID.  schedstat: nanoseconds on the processor, and waiting for it."""
_STATES: Final = (
    "/sys/class/iscsi_session/*/state",
    "/sys/class/iscsi_session/*/target_state",
    "/sys/class/iscsi_session/*/ifacename",
    "/sys/class/iscsi_connection/*/state",
    "/sys/class/scsi_host/*/state",
    "/sys/class/scsi_device/*/device/state",
    f"{ISCSI.parent}/fabric_statistics/iscsi_login_stats/*",
    f"{ISCSI}/dynamic_sessions",
    "/proc/net/tcp",
    "/proc/uptime",
    "/proc/stat",
)
_KERNEL_S_LINES: Final = 80


def standstill() -> str:
    """As text, a line or a few for each task and each state; what cannot be read is left out."""
    kernel = subprocess.run(("dmesg",), capture_output=True, text=True, check=False).stdout
    return "\n".join([*_states(), *_tasks(), *kernel.splitlines()[-_KERNEL_S_LINES:]])


def _states() -> Iterator[str]:
    for pattern in _STATES:
        for path in sorted(Path("/").glob(pattern.removeprefix("/"))):
            with contextlib.suppress(OSError):
                yield f"{path}: {path.read_text().strip()}"


def _tasks() -> Iterator[str]:
    for task in sorted(Path("/proc").glob("[0-9]*/task/[0-9]*")):
        with contextlib.suppress(OSError):  # it has ended by now
            if (task / "comm").read_text().startswith(_TASKS):
                told = " | ".join((task / name).read_text().strip() for name in _ASKED)
                yield f"{task}: {told}"
