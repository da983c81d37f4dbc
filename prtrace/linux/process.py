"""Who a process is: program, command line, guest, systemd unit; kept after it is gone.

A process is named by its id and its start.  The kernel's start_boottime is in nanoseconds;
/proc/PID/stat shows the same instant in clock ticks (fs/proc/array.c, do_task_stat), so the
two agree to one tick.  The start must be that of the thread group's leader.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from prtrace.errors import UnavailableError
from prtrace.linux.qemu import GuestIdentity, guest_of
from prtrace.linux.text import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psutil

PROC: Final = Path("/proc")

_TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
COMM_LIMIT: Final = 64  # 15 bytes, each of which may need four characters
_PATH_LIMIT: Final = 512
_CMDLINE_LIMIT: Final = 4096
_STAT_LIMIT: Final = 4096
_START_FIELD: Final = 19  # field 22 of /proc/PID/stat, counted from the state behind comm


class ProcessIdentity(NamedTuple):
    """One process.  All text is cleaned and bounded, because the process chose it."""

    pid: int
    start_ns: int
    """Nanoseconds since boot (CLOCK_BOOTTIME), as the caller gave them."""
    comm: str
    exe: str = ""
    """The program file, "" where it cannot be read."""
    cmdline: tuple[str, ...] = ()
    """At most 4096 characters of it; the last argument is "…" where more was cut off."""
    unit: str = ""
    """The systemd unit that contains the process, "" for none."""
    guest: GuestIdentity | None = None


def start_of(pid: int) -> int | None:
    """When the process started, ns since boot, to a clock tick; None where it is gone."""
    try:
        # Without Path: a service asks this for each connection and each command.
        with open(f"{PROC}/{pid}/stat", "rb", 0) as file:
            line = file.read(_STAT_LIMIT)
    except (FileNotFoundError, ProcessLookupError):
        return None
    except PermissionError as error:
        raise UnavailableError(f"/proc/{pid} may not be read", hint="run as root") from error
    # comm is in parentheses and may itself contain parentheses and blanks.
    fields = line.rpartition(b")")[2].split()
    return int(fields[_START_FIELD]) * _TICK_NS


def identify(pid: int, start_ns: int, program: str = "") -> ProcessIdentity | None:
    """The process, None where it is gone or where another one has its id now.

    start_ns: nanoseconds since boot, as the kernel gives them, or from start_of.  program: its
    program file, where somebody knows it: who is not root may not read it of another user's.
    """
    if not same_start(start_of(pid), start_ns):
        return None
    found = _read(pid, start_ns, program)
    # Everything between the two looks at the start was about this very process.
    return found if same_start(start_of(pid), start_ns) else None


def same_start(one: int | None, other: int) -> bool:
    """Whether two starts of processes with one id, ns since boot, are the same process's.

    One may come from the kernel and the other from /proc, which counts ticks; None is no start.
    """
    return one is not None and abs(one // _TICK_NS - other // _TICK_NS) <= 1


def boot_id() -> str:
    """Which start of this host is running: a process number means one process until the next."""
    return (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class ProcessCache:
    """Identities by process, the least recently asked-for thrown out beyond capacity."""

    def __init__(self, capacity: int = 4096) -> None:
        self._capacity = capacity
        self._known: OrderedDict[tuple[int, int, str], ProcessIdentity] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def identify(
        self, pid: int, start_ns: int, comm: str = "", program: str = ""
    ) -> ProcessIdentity | None:
        """As the function identify, but remembered after the process is gone.

        comm: the name under which the process (or its thread) was seen, "" if unknown.  After
        an execve the same process has another name, and is looked at again.
        """
        key = (pid, start_ns // _TICK_NS, comm)
        known = self._known.get(key) or identify(pid, start_ns, program)
        if known is None:
            return None
        self._known[key] = known
        self._known.move_to_end(key)
        if len(self._known) > self._capacity:
            self._known.popitem(last=False)
        return known


def unit_of_cgroup(text: str) -> str:
    """The systemd unit in the content of /proc/PID/cgroup, "" for none.

    The outermost service or scope counts: "user@1000.service", not what runs below it.
    """
    for line in text.splitlines():
        hierarchy, controllers, path = (*line.split(":", 2), "", "")[:3]
        if (hierarchy == "0" and not controllers) or controllers == "name=systemd":
            for part in path.split("/"):
                if part.endswith((".service", ".scope")):
                    return clean(part, _PATH_LIMIT)
    return ""


def _read(pid: int, start_ns: int, program: str) -> ProcessIdentity | None:
    import psutil  # here: it is slow to import, and most commands do not need it

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            exe, arguments = _program(process)
            exe = program or exe
        comm = _comm(pid)
        cgroup = (PROC / str(pid) / "cgroup").read_bytes()
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return None
    except (psutil.AccessDenied, PermissionError) as error:
        raise UnavailableError(f"/proc/{pid} may not be read", hint="run as root") from error
    return ProcessIdentity(
        pid=pid,
        start_ns=start_ns,
        comm=comm,
        exe=clean(exe, _PATH_LIMIT),
        cmdline=_bounded(arguments),
        unit=unit_of_cgroup(cgroup.decode("utf-8", "surrogateescape")),
        guest=guest_of(exe or (arguments[0] if arguments else ""), arguments),
    )


def _program(process: psutil.Process) -> tuple[str, list[str]]:
    """Program file and arguments; a zombie has neither any more, a kernel thread never had.

    The file is "" too where it may not be read.
    """
    import psutil

    try:
        arguments = process.cmdline()
    except psutil.ZombieProcess:
        return "", []
    try:
        return process.exe(), arguments
    except (psutil.AccessDenied, psutil.ZombieProcess):
        return "", arguments


def _comm(pid: int) -> str:
    raw = (PROC / str(pid) / "comm").read_bytes().rstrip(b"\n")
    return clean(raw.decode("utf-8", "surrogateescape"), COMM_LIMIT)


def _bounded(arguments: Sequence[str]) -> tuple[str, ...]:
    kept: list[str] = []
    room = _CMDLINE_LIMIT
    for argument in arguments:
        if room <= 0:
            kept.append("…")
            break
        kept.append(clean(argument, room))
        room -= len(kept[-1]) + 1
    return tuple(kept)
