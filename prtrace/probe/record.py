"""The programs' records and counters, declared as bpf/pr_record.h has them (pure).

A test holds the declarations against the BTF of the compiled object.  Everything is
little-endian: the programs are built for that, on x86-64 and aarch64 alike.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

import construct as cs

from prtrace.errors import MalformedError
from prtrace.scsi.cdb import as_device_reads
from prtrace.scsi.form import Form
from prtrace.scsi.forms import INQUIRY_NAMES
from prtrace.scsi.inquiry import target_in

ABI: Final = 3

_COMM: Final = 16
_CDB: Final = 16
_SENSE: Final = 96
_HEAD: Final = 24
_INQUIRY: Final = INQUIRY_NAMES.size
_PAGE83: Final = 128
_EXE: Final = 128
_WALK: Final = 40

RECORD: Final = Form(
    "record",  # struct pr_record without its data
    "seq" / cs.Int64ul,
    "lost" / cs.Int64ul,
    "submit_ns" / cs.Int64ul,
    "start_ns" / cs.Int64ul,
    "done_ns" / cs.Int64ul,
    "lun" / cs.Int64ul,
    "life" / cs.Int64ul,
    "issuer_start_ns" / cs.Int64ul,
    "cgroup" / cs.Int64ul,
    "host" / cs.Int32ul,
    "channel" / cs.Int32ul,
    "target" / cs.Int32ul,
    "result" / cs.Int32ul,
    "pid" / cs.Int32ul,
    "ioctl" / cs.Int32ul,
    "requested" / cs.Int32ul,
    "transfer_length" / cs.Int32ul,
    "resid" / cs.Int32ul,
    "data_length" / cs.Int32ul,
    "attempt" / cs.Int32ul,
    "generation" / cs.Int32ul,
    "head_length" / cs.Int32ul,
    "abi" / cs.Int16ul,
    "kind" / cs.Int8ul,
    "flags" / cs.Int8ul,
    "issue" / cs.Int8ul,
    "page83_length" / cs.Int8ul,
    "cdb_length" / cs.Int8ul,
    "sense_length" / cs.Int8ul,
    "comm" / cs.Bytes(_COMM),
    "cdb" / cs.Bytes(_CDB),
    "sense" / cs.Bytes(_SENSE),
    "head" / cs.Bytes(_HEAD),
    "inquiry" / cs.Bytes(_INQUIRY),
    "page83" / cs.Bytes(_PAGE83),
    "exe" / cs.Bytes(_EXE),
)

NEXUS: Final = Form(
    "nexus",  # struct pr_nexus
    "lun" / cs.Int64ul,
    "host" / cs.Int32ul,
    "channel" / cs.Int32ul,
    "target" / cs.Int32ul,
    "reserved" / cs.Int32ul,
)

PENDING: Final = Form(
    "pending request",  # struct pr_pending
    "submit_ns" / cs.Int64ul,
    "start_ns" / cs.Int64ul,
    "issuer_start_ns" / cs.Int64ul,
    "cgroup" / cs.Int64ul,
    "life" / cs.Int64ul,
    "bio" / cs.Int64ul,
    "kernel" / cs.Int64ul,
    "pid" / cs.Int32ul,
    "ioctl" / cs.Int32ul,
    "requested" / cs.Int32ul,
    "attempt" / cs.Int32ul,
    "generation" / cs.Int32ul,
    "result" / cs.Int32ul,
    "data_length" / cs.Int32ul,
    "bio_index" / cs.Int32ul,
    "bio_skip" / cs.Int32ul,
    "page83_length" / cs.Int32ul,
    "issue" / cs.Int8ul,
    "state" / cs.Int8ul,
    "head_length" / cs.Int8ul,
    "opcode" / cs.Int8ul,
    "place" / cs.Int8ul,
    "seen" / cs.Int8ul,
    "refused" / cs.Int8ul,
    "test" / cs.Int8ul,
    "comm" / cs.Bytes(_COMM),
    "head" / cs.Bytes(_HEAD),
    "inquiry" / cs.Bytes(_INQUIRY),
    "reserved" / cs.Bytes(4),
    "page83" / cs.Bytes(_PAGE83),
    "exe" / cs.Bytes(_EXE),
    "nexus" / NEXUS.construct,
    "walk" / cs.Bytes(_WALK),
)

CAUSES: Final = 6
"""PR_CAUSES."""

COUNT: Final = Form(
    "counts",  # struct pr_count
    "count" / cs.Int64ul[2 * CAUSES],
    "first_ns" / cs.Int64ul[2 * CAUSES],
    "last_ns" / cs.Int64ul[2 * CAUSES],
    "window" / cs.Int64ul,
    "samples" / cs.Int64ul,
)

LOSS: Final = Form(
    "losses",  # struct pr_loss
    "count" / cs.Int64ul,
    "missed" / cs.Int64ul,
    "last_ns" / cs.Int64ul,
    "inquiry" / cs.Bytes(_INQUIRY),
    "page83_length" / cs.Int32ul,
    "page83" / cs.Bytes(_PAGE83),
)


class RecordKind:
    """enum pr_kind.  Plain numbers, compared for each record."""

    DONE: Final = 1
    TIMEOUT: Final = 2
    ERROR: Final = 3
    SAMPLE: Final = 4
    OVER: Final = 5
    TEST: Final = 6


class Flag:
    """enum pr_flag: masks of the record's flags."""

    TRUNCATED: Final = 1
    UNREADABLE: Final = 2
    NOT_SUBMITTED: Final = 4


class Issue:
    """enum pr_issue: masks of the record's issue."""

    NOWAIT: Final = 1
    KTHREAD: Final = 2
    BSG: Final = 4
    BLOCK: Final = 8
    CHARACTER: Final = 16


class Stat(enum.IntEnum):
    """enum pr_stat: index into pr_stats."""

    SEEN = 0
    SUBMITTED = 1
    RING_FULL = 2
    LOST_MAP_FULL = 3
    SAMPLES = 4
    SAMPLES_LIMITED = 5
    SAMPLE_RING_FULL = 6
    COUNT_MAP_FULL = 7
    PENDING_FULL = 8
    UNREADABLE = 9
    NOT_SUBMITTED = 10
    MISSED = 11


class State(enum.IntEnum):
    """enum pr_state."""

    UNDER_WAY = 0
    ENDED = 1
    MAY_RETURN = 2
    TIMED_OUT = 3


class Cause(enum.IntEnum):
    """enum pr_cause: index into pr_count's arrays."""

    CONFLICT = 0
    RESERVATIONS_PREEMPTED = 1
    RESERVATIONS_RELEASED = 2
    REGISTRATIONS_PREEMPTED = 3
    RESET = 4
    INFORMATION_LOST = 5


class Record(NamedTuple):
    """One record of the ring."""

    header: Any
    """The fields of RECORD; bpf/pr_record.h says what they mean."""
    data: bytes
    """What was captured of the parameter list or of the reply."""

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Take a record as the ring held it.

        Raises MalformedError if it is of another ABI, or shorter than it says.
        """
        header = RECORD.parse(raw)
        if header.abi != ABI:
            raise MalformedError(RECORD.what, f"ABI {header.abi}, this program reads {ABI}")
        end = RECORD.size + header.data_length
        if end > len(raw):
            raise MalformedError(
                RECORD.what, f"claims {header.data_length} bytes of data in {len(raw)}"
            )
        return cls(header, raw[RECORD.size : end])

    @property
    def nexus(self) -> str:
        """The I_T nexus as "H:C:T:L"."""
        h = self.header
        return f"{h.host}:{h.channel}:{h.target}:{h.lun}"

    @property
    def cdb(self) -> bytes:
        """The CDB as the device reads it: as long as its operation code says.

        Its sender may have named another length; the kernel zeroes what lies behind it.
        """
        return as_device_reads(self.header.cdb, self.header.cdb_length)

    @property
    def sense(self) -> bytes:
        """The sense buffer, where the status was CHECK CONDITION."""
        found: bytes = self.header.sense[: self.header.sense_length]
        return found

    @property
    def page83(self) -> bytes:
        """The beginning of the unit's VPD page 83h, as the kernel has it."""
        found: bytes = self.header.page83[: self.header.page83_length]
        return found

    @property
    def target(self) -> str:
        """VENDOR/PRODUCT/REVISION of INQUIRY, printable ASCII."""
        return target_in(self.header.inquiry)

    @property
    def exe(self) -> str:
        """The path of the issuer's executable as the kernel has it, "" where it is not known."""
        exe: bytes = self.header.exe
        *names, last = exe.rstrip(b"\0").split(b"\0")
        if last != b"/":
            return ""
        return "".join(f"/{name.decode('utf-8', 'surrogateescape')}" for name in reversed(names))

    @property
    def comm(self) -> str:
        """The issuing task's name; it is the task's own choice, so escape it for people."""
        comm: bytes = self.header.comm
        return comm.split(b"\0")[0].decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Counts:
    """pr_counts of one nexus: how often each cause, first and last time (CLOCK_MONOTONIC).

    The first six of each count ordinary commands, by Cause; the other six count the same
    causes on PR commands.
    """

    nexus: str
    count: tuple[int, ...]
    first_ns: tuple[int, ...]
    last_ns: tuple[int, ...]

    @classmethod
    def parse(cls, key: bytes, value: bytes) -> Self:
        """Take a key and a value of pr_counts."""
        c = COUNT.parse(value)
        return cls(nexus_text(key), c.count, c.first_ns, c.last_ns)


@dataclass(frozen=True, slots=True)
class Loss:
    """pr_losses of one nexus: PR records that found no room, and ends that were not seen."""

    nexus: str
    count: int
    missed: int
    last_ns: int
    target: str
    page83: bytes

    @classmethod
    def parse(cls, key: bytes, value: bytes) -> Self:
        """Take a key and a value of pr_losses."""
        c = LOSS.parse(value)
        target = target_in(c.inquiry)
        return cls(
            nexus_text(key), c.count, c.missed, c.last_ns, target, c.page83[: c.page83_length]
        )


class Pending(NamedTuple):
    """What pr_pendings remembers of a request, as far as anybody outside needs it."""

    start_ns: int
    """When it was submitted, or when its last attempt ended (CLOCK_MONOTONIC)."""
    generation: int
    """Of the programs that answer for it."""
    state: State
    opcode: int
    nexus: str
    page83: bytes
    """The beginning of the unit's VPD page 83h, as the kernel had it at the submission."""
    life: int
    """Of the scsi_device: see LocalNexus.life."""

    @classmethod
    def parse(cls, value: bytes) -> Self:
        """Take a value of pr_pendings."""
        c = PENDING.parse(value)
        page83 = c.page83[: c.page83_length]
        state, nexus = State(c.state), nexus_text(c.nexus)
        return cls(c.start_ns, c.generation, state, c.opcode, nexus, page83, c.life)

    def may_end(self, now_ns: int) -> bool:
        """Whether an end of it may be to come."""
        if self.state is State.MAY_RETURN:
            return now_ns - self.start_ns < _RETRIED_WITHIN_NS
        return self.state in (State.UNDER_WAY, State.TIMED_OUT)

    def forgettable(self, now_ns: int) -> bool:
        """Whether its end was told, and nothing is to come that would be told twice."""
        return not self.may_end(now_ns) and now_ns - self.start_ns > _RETRIED_WITHIN_NS


_RETRIED_WITHIN_NS = 60_000_000_000
"""The midlayer tries a command again at once, or when its error handler is through."""


def nexus_text(key: bytes) -> str:
    """Give struct pr_nexus as "H:C:T:L"."""
    c = NEXUS.parse(key)
    return f"{c.host}:{c.channel}:{c.target}:{c.lun}"
