"""What an engine delivers: maps, attached programs, and what could not be attached."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from prtrace.probe import libbpf
from prtrace.probe.record import COUNT, LOSS, NEXUS, PENDING

_MODULES: Final = Path("/sys/module")
BTF: Final = Path("/sys/kernel/btf")
_BLOCK_LAYER: Final = ""


class Engine(enum.Enum):
    """How the one C source reaches the kernel."""

    CORE = "core"
    """A CO-RE object, compiled when the package was built, loaded by libbpf."""
    BCC = "bcc"
    """Compiled on this host by the distribution's bcc."""


class Point(NamedTuple):
    """One program and where it attaches."""

    program: str
    section: str
    lost: str = ""
    """What is not known where the point is missing; "" where prtrace cannot do without it."""

    @property
    def function(self) -> str:
        """The kernel's function or tracepoint."""
        return self.section.partition("/")[2]


class Door(NamedTuple):
    """One function that ends passthrough requests, and the two programs that see each end."""

    whose: str
    """Whose commands it ends."""
    function: str
    module: str
    """The kernel module that has it, "" for the block layer."""
    sign: str
    """A function that the kernel has wherever it has the door."""
    points: tuple[Point, Point]

    @property
    def here(self) -> bool:
        """Whether the module is live, or built in.

        One that is being loaded has its folder already, but the kernel attaches to it by BTF only
        once it is live (kernel/bpf/btf.c, btf_try_get_module).
        """
        if not self.module:
            return True
        state = _state(self.module)
        if state:
            return state == "live"
        # Built in; or so new that it has no state yet: its types come before its folder.
        return (_MODULES / self.module).exists() and not (BTF / self.module).exists()

    @property
    def untyped(self) -> bool:
        """Whether the module is here, but the kernel has no types of it, so that nobody knows."""
        return bool(_state(self.module)) and not (BTF / self.module).exists()

    @property
    def programs(self) -> frozenset[str]:
        """The names of both programs."""
        return frozenset(point.program for point in self.points)


def _state(module: str) -> str:
    """What the kernel says of a module; "" of one that is built in, or not there."""
    try:
        return (_MODULES / module / "initstate").read_text().strip()
    except OSError:
        return ""


def _door(
    whose: str, program: str, function: str, module: str, sign: str = "", twin: str = ""
) -> Door:
    lost = f"the ends of commands of {whose}"
    return Door(
        whose,
        function,
        module,
        sign or function,
        (
            Point(program, twin or f"kprobe/{function}", lost),
            Point(f"{program}_too", f"fentry/{function}", lost),
        ),
    )


DOORS: Final = (
    _door("SG_IO, IOC_PR and bsg", "pr_over_waited_for", "blk_end_sync_rq", _BLOCK_LAYER,
          twin="fexit/blk_execute_rq"),
    _door("sg nodes", "pr_over_sg", "sg_rq_end_io", "sg"),
    _door("bsg by io_uring", "pr_over_bsg_uring", "scsi_bsg_uring_cmd_done", "scsi_mod",
          "scsi_bsg_uring_cmd"),
    _door("LIO's pscsi", "pr_over_pscsi", "pscsi_req_done", "target_core_pscsi"),
)  # fmt: skip
"""Every rq->end_io of the kernel's that SCSI commands have."""

SUBMISSION: Final = (
    Point("pr_submit", "kprobe/blk_execute_rq"),
    Point("pr_submit_nowait", "kprobe/blk_execute_rq_nowait"),
)
"""Who asks.  SG_IO on a disk, a partition or a bsg node comes to the first, as IOC_PR does; SG_IO
and write() on an sg node come to the second.  A partition's request is its disk's."""

RETRY: Final = Point(
    "pr_on_retry", "fentry/__scsi_queue_insert", "attempts that the midlayer repeated"
)

ATTEMPTS: Final = (
    Point("pr_on_timeout", "tp_btf/scsi_dispatch_cmd_timeout", "timeouts of PR commands"),
    Point("pr_on_error", "tp_btf/scsi_dispatch_cmd_error", "PR commands that a driver refused"),
    RETRY,
)

SIGNS: Final = (
    Point("pr_on_sense", "fentry/scsi_check_sense", "unit attentions of other commands"),
    Point("pr_on_block_error", "tp_btf/block_rq_error", "conflicts of READ and WRITE"),
)
"""What reservations do to commands that are not PR commands."""

FALLBACK: Final = Point("pr_on_done", "tp_btf/scsi_dispatch_cmd_done", "ends of commands")
"""What every command passes.  Attached only where a door, or a sign on other commands, cannot be
hooked."""

POINTS: Final = (
    *SUBMISSION,
    *ATTEMPTS,
    *(point for door in DOORS for point in door.points),
    *SIGNS,
    FALLBACK,
)
"""Every attach point of bpf/prtrace.bpf.c."""

WITHOUT_BTF: Final = Point("pr_on_start", "tp_btf/scsi_dispatch_cmd_start")
"""bcc only: what stands in for the submission where nothing attaches to it."""


class Shape(NamedTuple):
    """How many bytes a map's keys and values have; both 0 for a ring."""

    key: int
    value: int


MAPS: Final = {
    "pr_events": Shape(0, 0),
    "pr_samples": Shape(0, 0),
    "pr_pendings": Shape(8, PENDING.size),
    "pr_counts": Shape(NEXUS.size, COUNT.size),
    "pr_losses": Shape(NEXUS.size, LOSS.size),
    "pr_stats": Shape(4, 8),
    "pr_sequence": Shape(4, 8),
    "pr_active": Shape(4, 8),
}
"""Every map that outlives a loader."""

_ACTIVE_GENERATION: Final = 0
_ACTIVE_TEST: Final = 1


def activate(maps: Mapping[str, int], generation: int) -> None:
    """Let generation answer for every request submitted from now on."""
    _set_active(maps, _ACTIVE_GENERATION, generation)


def watch_inquiries(maps: Mapping[str, int], pid: int) -> None:
    """Let the programs watch the INQUIRY commands of a process, too; of none with 0."""
    _set_active(maps, _ACTIVE_TEST, pid)


def _set_active(maps: Mapping[str, int], which: int, value: int) -> None:
    libbpf.bpf_map_update_elem(
        maps["pr_active"], which.to_bytes(4, "little"), value.to_bytes(8, "little")
    )


class Programs(NamedTuple):
    """Loaded and attached programs.  The descriptors belong to whoever holds this value."""

    engine: Engine
    digest: str
    """Of the object or source, by which an agent knows whether pinned programs are its own."""
    generation: int
    maps: Mapping[str, int]
    links: Mapping[str, int]
    """Program name -> descriptor of its link."""
    missing: Mapping[str, str]
    """Program name -> why it is not attached, where this kernel has something to attach it to."""
    fallback: str = ""
    """Why FALLBACK is attached, "" where nothing runs for an ordinary command."""

    @property
    def points(self) -> tuple[Point, ...]:
        """The attach points that matter on this kernel."""
        named = self.links.keys() | self.missing.keys()
        return tuple(point for point in POINTS if point.program in named)

    def close(self) -> None:
        """Close every descriptor; what is pinned stays attached."""
        for fd in (*self.maps.values(), *self.links.values()):
            if fd >= 0:  # another process has it
                os.close(fd)
