"""prtrace gather."""

from __future__ import annotations

import os
import shutil
import socket as sockets
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import click

from prtrace.api.client import Client
from prtrace.cli.anonymise import anonymise_option, anonymous
from prtrace.cli.files import read_files
from prtrace.cli.history import paths_of
from prtrace.cli.options import output_option, socket_option
from prtrace.cli.output import write_whole
from prtrace.cli.ports import own_ports
from prtrace.cli.text import plain, warn
from prtrace.errors import AgentUnreachableError, PrtraceError
from prtrace.explain import configured
from prtrace.explain.recording import Gathered, Recording
from prtrace.linux.reader import Reader, ReadPolicy
from prtrace.linux.sgio import Reply, SgDevice
from prtrace.linux.units import scan
from prtrace.model import Issuer, LocalNexus, LogicalUnit
from prtrace.paste import kernel
from prtrace.paste.recorded import Import
from prtrace.paste.stamp import Clock
from prtrace.scsi.codes import Opcode, status_title
from prtrace.state.decode import NOT_WATCHED
from prtrace.state.event import Command, Event

_LONGEST: Final = 4 << 20
"""Characters of one program's output that are kept, the newest ones."""
_SECONDS: Final = 30
_TIMEOUT_MS: Final = 10_000
"""For a command to a device."""
_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
_LOG: Final = "kernel log"
_REMARKS: Final = ("-- ", "No journal files were found.")
"""How lines of journalctl begin that are no entries."""
_COMMANDS: Final = (
    (_LOG, ("journalctl", "-k", "-o", "short-iso-precise", "--no-pager", "-n", "50000")),
    (_LOG, ("dmesg", "--time-format", "iso")),
    ("kernel", ("uname", "-a")),
    ("disks", ("lsscsi", "-g", "-i", "-t")),
    ("multipath maps", ("multipathd", "show", "maps", "json")),
    (configured.MULTIPATH_CONFIGURATION, ("multipathd", "show", "config")),
    ("pacemaker fencing history", ("stonith_admin", "--history", "*", "--verbose")),
    ("pacemaker state", ("crm_mon", "-1", "-r", "-f")),
    ("LVM configuration", ("lvmconfig", "local/host_id", "global/use_lvmlockd")),
    ("LVM volume groups", ("vgs", "-o", "vg_name,vg_systemid,vg_lock_type,pv_name")),
    ("guests", ("virsh", "--readonly", "list", "--all")),
)
_FILES: Final = (
    *configured.FILES,
    "/var/run/cluster/fence_scsi.dev",
    "/etc/lvm/lvmlocal.conf",
    "/etc/iscsi/initiatorname.iscsi",
)


@click.command(
    "gather",
    epilog="""\b
Without an agent the disks are asked.  That takes a unit attention that waits
on the path which is asked; --no-device leaves them alone.
\b
Examples:
  prtrace gather -o node1.gathered            on each host
  prtrace gather -o node1.gathered --no-device
  prtrace explain /dev/sda node1.gathered node2.gathered
  prtrace gather -o for-a-friend.gathered --anonymise 'some words'
""",
)
@output_option(required=True)
@click.option("--no-device", is_flag=True, help="send no command to any disk")
@anonymise_option
@socket_option
def command(*, output: Path, no_device: bool, anonymise: str | None, socket: str) -> None:
    """Collect what this host knows of its reservations into one file.

    The agent's events where an agent runs; else what the disks answer and
    what the kernel's log has of conflicts.  Beside them the kernel's log and
    what multipathd, pacemaker, LVM and libvirt say, each with its command and
    exit status.  Programs that are not there are left out.  explain, events,
    report and replay take the file like a recording.
    """
    gathered = tuple(_programs())
    try:
        recording = _of_agent(Client(socket))
    except AgentUnreachableError:
        recording = _without_agent(gathered, ask=not no_device)
    recording = replace(recording, gathered=gathered)
    if anonymise is not None:
        recording = anonymous(recording, anonymise)
    write_whole(output, "".join(f"{text}\n" for text in recording.lines()))
    programs = len(recording.gathered)
    warn(f"{plain(str(output))}: {len(recording.events)} events, {programs} outputs")


def _of_agent(client: Client) -> Recording:
    ports = own_ports(client)
    events = (
        Event.from_json(each)
        for reply in client.stream("Events")
        for each in reply.get("events", ())
    )
    paths = (path for unit in client.call("Show")["units"] for path in paths_of(unit))
    return Recording(
        sockets.gethostname(), tuple(events), tuple(sorted(ports)), paths=tuple(paths)
    )


def _programs() -> Iterator[Gathered]:
    """The output of every program and the content of every file that is there."""
    named: set[str] = set()
    for name, command in _COMMANDS:
        if name in named or shutil.which(command[0], path=_PATH) is None:
            continue
        found = _run(name, command)
        # A journal that has nothing of the kernel ends with 0, too: then the kernel is asked.
        if found.status == 0 and _has_lines(found.output):
            named.add(name)
        yield found
    yield from read_files(_FILES)


def _has_lines(output: str) -> bool:
    """Whether a program said more than that there is nothing."""
    return any(line and not line.startswith(_REMARKS) for line in output.splitlines())


def _run(name: str, command: tuple[str, ...]) -> Gathered:
    try:
        done = subprocess.run(  # noqa: S603  # programs of the list above
            command,
            env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Gathered(name, command, None, f"did not end within {_SECONDS} s")
    except OSError as error:
        return Gathered(name, command, None, os.strerror(error.errno or 0))
    output = done.stdout.decode(errors="replace")[-_LONGEST:]
    return Gathered(name, command, done.returncode, output)


def _without_agent(gathered: tuple[Gathered, ...], *, ask: bool) -> Recording:
    """The disks' answers, behind what the kernel's log tells."""
    units = scan().units
    events = _logged(gathered, units.values())
    for unit in units.values():
        events += _unit(unit, ask=ask)
    numbered = (event._replace(seq=seq) for seq, event in enumerate(events, 1))
    ports = {path.initiator_port for unit in units.values() for path in unit.nexuses}
    return Recording(
        sockets.gethostname(), tuple(numbered), tuple(sorted(port for port in ports if port))
    )


def _logged(gathered: Iterable[Gathered], units: Iterable[LogicalUnit]) -> list[Event]:
    """The conflicts that the kernel's log has, oldest first."""
    named: dict[str, str] = {}
    for unit in units:
        for path in unit.nexuses:
            named[path.nexus] = unit.lu
            named[path.device.removeprefix("/dev/")] = unit.lu
    found = Import()
    for each in gathered:
        if each.name != _LOG or each.status != 0:
            continue
        try:
            found.add(kernel.read(each.output.splitlines()), Clock(), named)
        except PrtraceError as error:
            warn(f"prtrace: the kernel's log is left out: {plain(error.message)}")
    for seen, reason in found.refused:
        warn(f"prtrace: line {seen.line} of the kernel's log is left out: {plain(reason)}")
    return found.numbered()


def _unit(unit: LogicalUnit, *, ask: bool) -> Iterator[Event]:
    """What is there of a unit now: its paths, and what it answers over one that is running."""
    now = time.time_ns()
    event = Event(command=Command.PATHS, time=now, lu=unit.lu, target=unit.target)
    # What was before this moment was not watched, whatever the log tells of it.
    yield event._replace(command=Command.LOST, problem=NOT_WATCHED)
    yield event._replace(paths=unit.nexuses)
    paths = sorted(unit.nexuses, key=lambda path: path.state != "running")
    if not ask or unit.kind != "disk" or not paths:
        return
    node = paths[0].device or paths[0].sg
    try:
        with SgDevice(node) as device:
            witness = _Witness(device, unit, paths[0])
            Reader(witness, ReadPolicy(timeout_ms=_TIMEOUT_MS, lu=unit.lu)).read()
    except PrtraceError as error:
        warn(f"prtrace: {plain(node)}: {plain(error.message)}")
        return
    yield from witness.events


@dataclass(slots=True)
class _Witness:
    """A device of a Reader that keeps each PERSISTENT RESERVE IN and its answer as an event."""

    device: SgDevice
    unit: LogicalUnit
    nexus: LocalNexus
    events: list[Event] = field(default_factory=list)

    @property
    def path(self) -> str:
        return self.device.path

    def send(self, cdb: bytes, data_out: bytes, room: int, timeout_ms: int) -> Reply:
        begun = time.monotonic_ns()
        answer = self.device.send(cdb, data_out, room, timeout_ms)
        if cdb[0] == Opcode.PR_IN:
            self.events.append(
                Event(
                    command=Command.PR_IN,
                    time=time.time_ns(),
                    start_ns=begun,
                    done_ns=time.monotonic_ns(),
                    lu=self.unit.lu,
                    nexus=self.nexus.nexus,
                    device=self.nexus.device,
                    target=self.unit.target,
                    status=status_title(answer.status),
                    host_byte=f"{answer.host_status:#x}" if answer.transport_fault else "",
                    cdb=cdb,
                    data=answer.received,
                    sense_bytes=answer.sense,
                    issuer=Issuer(os.getpid(), "prtrace"),
                    life=self.nexus.life,
                )
            )
        return answer
