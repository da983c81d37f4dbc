"""What an engine delivers: maps, attached programs, and what could not be attached."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from prtrace.probe import libbpf
from prtrace.probe.record import CALL, COUNT, LOSS, NEXUS, PENDING


class Engine(enum.Enum):
    """How the one C source reaches the kernel."""

    CORE = "core"
    """A CO-RE object, compiled when the package was built, loaded by libbpf."""
    BCC = "bcc"
    """Compiled on this host by the distribution's bcc."""


@dataclass(frozen=True, slots=True)
class Point:
    """One program and where it attaches.

    lost: what is not known where the point is missing; "" marks a point that prtrace
    cannot do without.
    """

    program: str
    section: str
    lost: str = ""


_MISSED: Final = "ends that a busy program missed"

POINTS: Final = (
    Point("pr_on_done", "tp_btf/scsi_dispatch_cmd_done"),
    Point("pr_on_timeout", "tp_btf/scsi_dispatch_cmd_timeout", "timeouts of PR commands"),
    Point("pr_on_error", "tp_btf/scsi_dispatch_cmd_error", "PR commands that a driver refused"),
    Point("pr_submit", "kprobe/blk_execute_rq"),
    Point("pr_submit_nowait", "kprobe/blk_execute_rq_nowait"),
    Point("pr_over_waited_for", "kprobe/blk_end_sync_rq", _MISSED),
    Point("pr_over_sg", "kprobe/sg_rq_end_io", f"{_MISSED}, of sg nodes"),
    Point("pr_block_ioctl", "fentry/blkdev_ioctl", "SG_IO told from IOC_PR; dm devices"),
    Point("pr_block_ioctl_return", "fexit/blkdev_ioctl", "SG_IO told from IOC_PR; dm devices"),
    Point("pr_bsg", "fentry/scsi_bsg_sg_io_fn", "bsg told from other paths"),
    Point("pr_bsg_return", "fexit/scsi_bsg_sg_io_fn", "bsg told from other paths"),
)
"""Every attach point of bpf/prtrace.bpf.c."""

WITHOUT_BTF: Final = Point("pr_on_start", "tp_btf/scsi_dispatch_cmd_start")
"""What stands in for the submission where nothing attaches to it."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How many bytes a map's keys and values have; both 0 for a ring."""

    key: int
    value: int


MAPS: Final = {
    "pr_events": Shape(0, 0),
    "pr_samples": Shape(0, 0),
    "pr_pendings": Shape(8, PENDING.size),
    "pr_calls": Shape(8, CALL.size),
    "pr_counts": Shape(NEXUS.size, COUNT.size),
    "pr_losses": Shape(NEXUS.size, LOSS.size),
    "pr_stats": Shape(4, 8),
    "pr_sequence": Shape(4, 8),
    "pr_active": Shape(4, 8),
}
"""Every map that outlives a loader."""


def activate(maps: Mapping[str, int], generation: int) -> None:
    """Let generation answer for every request submitted from now on."""
    libbpf.bpf_map_update_elem(
        maps["pr_active"], (0).to_bytes(4, "little"), generation.to_bytes(8, "little")
    )


@dataclass(frozen=True, slots=True)
class Programs:
    """Loaded and attached programs.  The descriptors belong to whoever holds this value.

    missing: program name -> why it is not attached.  digest: of the object or source, by
    which an agent knows whether pinned programs are its own.
    """

    engine: Engine
    digest: str
    generation: int
    maps: Mapping[str, int]
    links: Mapping[str, int]
    missing: Mapping[str, str]

    def close(self) -> None:
        """Close every descriptor; what is pinned stays attached."""
        for fd in (*self.maps.values(), *self.links.values()):
            os.close(fd)
