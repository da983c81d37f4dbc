"""The programs' records and counters, as bpf/pr_record.h lays them out (pure).

A test holds the layout below against the BTF of the compiled object.  Everything is
little-endian: the programs are built for that, on x86-64 and aarch64 alike.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Self

from prtrace.errors import MalformedError

ABI = 2

HEADER = struct.Struct("<8Q12IH6B16s16s96s24s28s128sI")
"""struct pr_record without its data."""

COUNT = struct.Struct("<12Q12Q12QQQ")
"""struct pr_count."""

LOSS = struct.Struct("<QQQ28sI128s")
"""struct pr_loss."""

PENDING = struct.Struct("<4Q7I4B16s24sQIIII")
"""struct pr_pending."""

CALL = struct.Struct("<II")
"""struct pr_call."""

NEXUS = struct.Struct("<QIIII")
"""struct pr_nexus: LUN, host, channel, target, reserved."""


class Kind(enum.IntEnum):
    """enum pr_kind."""

    DONE = 1
    TIMEOUT = 2
    ERROR = 3
    SAMPLE = 4
    OVER = 5


class Flag(enum.IntFlag):
    """enum pr_flag."""

    TRUNCATED = 1
    UNREADABLE = 2
    NOT_SUBMITTED = 4


class Issue(enum.IntFlag):
    """enum pr_issue."""

    NOWAIT = 1
    KTHREAD = 2
    BSG = 4
    BLOCK = 8


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


class Cause(enum.IntEnum):
    """enum pr_cause: index into pr_count's arrays."""

    CONFLICT = 0
    RESERVATIONS_PREEMPTED = 1
    RESERVATIONS_RELEASED = 2
    REGISTRATIONS_PREEMPTED = 3
    RESET = 4
    INFORMATION_LOST = 5


class Header(NamedTuple):
    """struct pr_record, field for field; see the header for their meaning."""

    seq: int
    lost: int
    submit_ns: int
    start_ns: int
    done_ns: int
    lun: int
    issuer_start_ns: int
    cgroup: int
    host: int
    channel: int
    target: int
    result: int
    pid: int
    ioctl: int
    requested: int
    transfer_length: int
    resid: int
    data_length: int
    attempt: int
    generation: int
    abi: int
    kind: int
    flags: int
    issue: int
    page83_length: int
    cdb_length: int
    sense_length: int
    comm: bytes
    cdb: bytes
    sense: bytes
    head: bytes
    inquiry: bytes
    page83: bytes
    head_length: int


@dataclass(frozen=True, slots=True)
class Record:
    """One record: the fixed header, and the data that was captured."""

    header: Header
    data: bytes

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Take a record as the ring held it.

        Raises MalformedError if it is of another ABI, or shorter than it says.
        """
        if len(raw) < HEADER.size:
            raise MalformedError("record", f"{len(raw)} bytes, the header alone has {HEADER.size}")
        header = Header._make(HEADER.unpack_from(raw))
        if header.abi != ABI:
            raise MalformedError("record", f"ABI {header.abi}, this program reads {ABI}")
        if header.data_length > len(raw) - HEADER.size:
            raise MalformedError(
                "record", f"claims {header.data_length} bytes of data in {len(raw)}"
            )
        return cls(header, raw[HEADER.size : HEADER.size + header.data_length])

    @property
    def nexus(self) -> str:
        """The I_T nexus as "H:C:T:L"."""
        h = self.header
        return f"{h.host}:{h.channel}:{h.target}:{h.lun}"

    @property
    def cdb(self) -> bytes:
        """The CDB as the midlayer sent it, at most 16 bytes."""
        return self.header.cdb[: self.header.cdb_length]

    @property
    def sense(self) -> bytes:
        """The sense buffer, where the status was CHECK CONDITION."""
        return self.header.sense[: self.header.sense_length]

    @property
    def page83(self) -> bytes:
        """The beginning of the unit's VPD page 83h, as the kernel has it."""
        return self.header.page83[: self.header.page83_length]

    @property
    def target(self) -> str:
        """VENDOR/PRODUCT/REVISION of INQUIRY, printable ASCII."""
        return target_text(self.header.inquiry)

    @property
    def comm(self) -> str:
        """The issuing task's name; it is the task's own choice, so escape it for people."""
        return self.header.comm.split(b"\0")[0].decode("utf-8", "replace")


@lru_cache(256)
def target_text(inquiry: bytes) -> str:
    """VENDOR/PRODUCT/REVISION from 28 bytes of INQUIRY data (bytes 8 to 35)."""
    fields = inquiry[:8], inquiry[8:24], inquiry[24:28]
    return "/".join(
        "".join(chr(c) if 0x20 <= c < 0x7F else "?" for c in raw.rstrip(b"\0 ")) for raw in fields
    ).rstrip("/")


@dataclass(frozen=True, slots=True)
class Counts:
    """pr_counts of one nexus: how often each cause, first and last time (CLOCK_MONOTONIC).

    The first six of each are commands that are none of ours, by Cause; the other six the
    same causes on PR commands.
    """

    nexus: str
    count: tuple[int, ...]
    first_ns: tuple[int, ...]
    last_ns: tuple[int, ...]

    @classmethod
    def parse(cls, key: bytes, value: bytes) -> Self:
        """Take a key and a value of pr_counts."""
        numbers = COUNT.unpack(value)
        return cls(nexus_text(key), numbers[0:12], numbers[12:24], numbers[24:36])


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
        count, missed, last_ns, inquiry, length, page83 = LOSS.unpack(value)
        target = target_text(inquiry)
        return cls(nexus_text(key), count, missed, last_ns, target, page83[:length])


@dataclass(frozen=True, slots=True)
class Pending:
    """What pr_pendings remembers of a request, as far as anybody outside needs it.

    start_ns: when it was submitted, or when its last attempt ended (CLOCK_MONOTONIC).
    generation: of the programs that answer for it.
    """

    start_ns: int
    generation: int
    state: State
    opcode: int
    nexus: str

    @classmethod
    def parse(cls, value: bytes) -> Self:
        """Take a value of pr_pendings."""
        fields = PENDING.unpack(value)
        nexus = nexus_text(NEXUS.pack(*fields[17:]))
        return cls(fields[1], fields[8], State(fields[12]), fields[14], nexus)

    def may_end(self, now_ns: int) -> bool:
        """Whether an end of it may be to come."""
        if self.state is State.MAY_RETURN:
            return now_ns - self.start_ns < _RETRIED_WITHIN_NS
        return self.state is State.UNDER_WAY


_RETRIED_WITHIN_NS = 60_000_000_000
"""The midlayer tries a command again at once, or when its error handler is through."""


def nexus_text(key: bytes) -> str:
    """Give struct pr_nexus as "H:C:T:L"."""
    lun, host, channel, target, _ = NEXUS.unpack(key)
    return f"{host}:{channel}:{target}:{lun}"
