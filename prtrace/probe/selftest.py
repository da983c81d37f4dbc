"""What the programs see of known commands: a test at start, over each door.

INQUIRY is sent over every node of one device, by this process, whose INQUIRY commands the programs
watch for that long as if they were PR commands.  Then what they recorded is compared with what was
sent and answered: CDB, status, reply, process and node.  INQUIRY takes no unit attention from
anybody, no reservation refuses it, and every device answers it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from prtrace.errors import PrtraceError
from prtrace.linux.sgio import SG_IO, SgDevice
from prtrace.linux.sysfs import names, read_text
from prtrace.probe import libbpf
from prtrace.probe.programs import Programs, watch_inquiries
from prtrace.probe.record import PENDING, Record, RecordKind
from prtrace.probe.ring import Ring

_DEVICES: Final = Path("/sys/class/scsi_device")
_DEV: Final = Path("/dev")
_ROOM: Final = 36
"""Every device has that many bytes of INQUIRY data."""
_INQUIRY: Final = bytes((0x12, 0, 0, 0, _ROOM, 0))
_RECORDS: Final = 4096
_SUBMISSION: Final = "pr_submit"
"""The program that notes who asks; without it no record says whose command it was."""
_INITIAL_PID_NAMESPACE: Final = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h
_TIMEOUT_MS: Final = 60_000

_SG_IO_V4: Final = struct.Struct("=iIIIQQIIIIQIIIIQQIIQIIIIIIIIiiQII")
"""struct sg_io_v4 (include/uapi/linux/bsg.h)."""
_V4_STATUS: Final = 23
_GUARD: Final = ord("Q")


class SelfTestResult(NamedTuple):
    """How the test went."""

    result: str
    """"passed", "failed" or "not run"."""
    detail: str


class _Sent(NamedTuple):
    """One INQUIRY that was answered."""

    node: Path
    number: int
    """The node's, as the programs have it: 12 bits major, 20 bits minor."""
    reply: bytes


def run(programs: Programs) -> SelfTestResult:
    """Test attached programs; sends INQUIRY to one device.

    What waits in the ring of the samples is taken out of it: it is only an example of what the
    counters tell.
    """
    if os.stat("/proc/self/ns/pid").st_ino != _INITIAL_PID_NAMESPACE:
        return SelfTestResult(
            "not run", "the kernel knows this process by another number: a PID namespace"
        )
    if _SUBMISSION in programs.missing:
        return SelfTestResult("not run", "no program sees who submits a command on this kernel")
    sent: list[_Sent] = []
    problems: list[str] = []
    watch_inquiries(programs.maps, os.getpid())
    try:
        for node, send in _nodes():
            try:
                sent.append(_Sent(node, _number(node), send(node)))
            except (OSError, PrtraceError) as error:
                problems.append(f"{node} does not answer: {error}")
    finally:
        watch_inquiries(programs.maps, 0)
    if not sent:
        return SelfTestResult("not run", "; ".join(problems) or "there is no SCSI device to ask")
    seen = list(_recorded(programs))
    wrong = [text for each in sent if (text := _compared(each, seen))]
    wrong += _half_seen(programs)
    nodes = ", ".join(str(each.node) for each in sent)
    if wrong:
        return SelfTestResult("failed", "; ".join(wrong))
    return SelfTestResult("passed", f"INQUIRY over {nodes} was seen as it was sent and answered")


def _nodes() -> Iterator[tuple[Path, Callable[[Path], bytes]]]:
    """The nodes of one device that answers commands, a disk if there is one."""
    running = [
        name
        for name in names(_DEVICES)
        if (read_text(_DEVICES / name / "device/state") or "").strip() == "running"
    ]
    disks = [name for name in running if names(_DEVICES / name / "device/block")]
    for name in (disks or running)[:1]:
        device = _DEVICES / name / "device"
        for folder, at, send in (
            ("block", _DEV, _by_sg_io),
            ("scsi_generic", _DEV, _by_sg_io),
            ("bsg", _DEV / "bsg", _by_bsg),
        ):
            for node in names(device / folder)[:1]:
                if (at / node).exists():
                    yield at / node, send


def _by_sg_io(node: Path) -> bytes:
    with SgDevice(str(node)) as device:
        reply = device.send(_INQUIRY, b"", _ROOM)
    # This runs as root, which looks into no sense data.
    if reply.transport_fault or reply.status:
        raise OSError(0, f"INQUIRY: {reply.text}")
    return reply.received


def _by_bsg(node: Path) -> bytes:
    with mmap.mmap(-1, mmap.PAGESIZE) as memory:
        memory[: len(_INQUIRY)] = _INQUIRY
        at = libbpf.address_of(memory)
        reply, sense = at + 512, at + 1024
        header = bytearray(
            _SG_IO_V4.pack(
                *(_GUARD, 0, 0, len(_INQUIRY), at, 0, 0, 0, 0, 96, sense, 0, 0, 0, _ROOM),
                *(0, reply, _TIMEOUT_MS, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
            )
        )
        fd = os.open(node, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, SG_IO, header)
        finally:
            os.close(fd)
        if status := _SG_IO_V4.unpack(header)[_V4_STATUS]:
            raise OSError(0, f"INQUIRY: status {status:#04x}")
        return memory[512 : 512 + _ROOM]


def _number(node: Path) -> int:
    number = os.stat(node).st_rdev
    return os.major(number) << 20 | os.minor(number)


def _recorded(programs: Programs) -> Iterator[Record]:
    fd = programs.maps["pr_samples"]
    with Ring(fd, libbpf.bpf_map_get_info(fd).max_entries) as ring:
        for raw in ring.read(_RECORDS):
            record = Record.parse(raw)
            if record.header.kind == RecordKind.TEST and record.header.pid == os.getpid():
                yield record
        ring.commit()


def _compared(sent: _Sent, seen: list[Record]) -> str:
    """What is wrong with the record of a command, "" for nothing."""
    records = [each for each in seen if each.header.requested == sent.number]
    if len(records) != 1:
        return f"of one INQUIRY over {sent.node} there are {len(records)} records"
    (record,) = records
    if record.cdb != _INQUIRY or record.header.result:
        return f"INQUIRY over {sent.node} was recorded as {record.cdb.hex()}"
    if record.data != sent.reply[: len(record.data)] or len(record.data) < len(sent.reply):
        return f"the reply to INQUIRY over {sent.node} was recorded otherwise"
    return ""


def _half_seen(programs: Programs) -> list[str]:
    """Commands of the test whose end only one of the two programs saw."""
    if programs.fallback:
        return []
    fd = programs.maps["pr_pendings"]
    left = [key for key, value in libbpf.map_items(fd) if PENDING.parse(value).test]
    for key in left:
        libbpf.bpf_map_delete_elem(fd, key)
    return [f"{len(left)} ends were seen by one of two programs only"] if left else []
