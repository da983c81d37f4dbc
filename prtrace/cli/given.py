"""What commands are given to look at: recordings, or the agent of this host."""

from __future__ import annotations

import heapq
import json
import lzma
import os
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import click

from prtrace.api.client import Client
from prtrace.cli.options import FOLDER, Function
from prtrace.cli.rebuild import Rebuilt
from prtrace.cli.text import warn
from prtrace.errors import MalformedError, NoSuchDeviceError, UsageError
from prtrace.explain.joined import Joined, join
from prtrace.explain.ports import Ports, iscsi_name
from prtrace.explain.recording import Recording
from prtrace.explain.timeline import Step, begun, timeline
from prtrace.model import LocalNexus
from prtrace.paste import sosreport
from prtrace.state.event import Event, nanoseconds, path_from_json, rfc3339
from prtrace.state.view import unit_view

_LONGEST_FILE: Final = 1 << 30
"""Bytes of a recording."""
_LONGEST_LOG: Final = 64 << 20
"""Bytes of one file of a sosreport that are read."""
_COLLECTED: Final = re.compile(r"[^/]*sosreport-[^/]+\.tar(?:\.(?:xz|gz|bz2))?")
"""A host's report in what sos collect made, by its name in the folder there."""
_FROM_DESIGNATOR: Final = re.compile(
    r"(?:/dev/disk/by-id/|/dev/mapper/)?(?:wwn-0x|scsi-3|dm-uuid-mpath-3|3)"
    r"(?P<naa>[0-9a-f]{16}|[0-9a-f]{32})"
)
"""The names that udev and multipath give a unit with an NAA designator."""
PORTS_FOLDER: Final = Path("/etc/prtrace/ports.d")


def names_options(function: Function) -> Function:
    """--ports DIR and --keys FILE: whose the initiator ports and the reservation keys are."""
    ports = click.option(
        "--ports",
        "ports_folder",
        metavar="DIR",
        type=FOLDER,
        default=PORTS_FOLDER,
        help="files of prtrace ports --json of the hosts that may use the disks",
    )
    keys = click.option(
        "--keys",
        "keys_file",
        metavar="FILE",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="names of reservation keys: a JSON object of key and name",
    )
    return ports(keys(function))


def read_recordings(files: Iterable[Path]) -> list[Recording]:
    """What files have, in their order: see read_recording().

    What sos collect made has several hosts.  Hosts that have one name, as "localhost", are told
    apart where their ports are: an address in one of them is not the other's.
    """
    found: list[Recording] = []
    ports: dict[str, list[tuple[str, set[str]]]] = {}
    """By the name that a recording has: the hosts of it, each with its initiators."""
    for file in files:
        for each in read_recording(file):
            own = _initiators(each)
            hosts = ports.setdefault(each.host, [(each.host, set())])
            fits = (host for host in hosts if own & host[1])
            host = next(fits, hosts[0] if not own or not hosts[0][1] else None)
            if host is None:
                host = (f"{each.host} ({file})", set())
                hosts.append(host)
            host[1].update(own)
            found.append(replace(each, host=host[0]))
    return found


def _initiators(recording: Recording) -> set[str]:
    """The host's initiators: its ports' names, of iSCSI ones without the session."""
    paths = (*recording.paths, *(path for event in recording.events for path in event.paths))
    ports = {*recording.ports, *(path.initiator_port for path in paths)}
    return {iscsi_name(port) or port for port in ports if port}


def read_recording(file: Path) -> list[Recording]:
    """A recording, a gathered file or sosreports; UsageError where it cannot be read.

    A sosreport is its archive or the folder that it was unpacked to, or lies in the archive of
    several hosts that sos collect makes.
    """
    try:
        if file.is_dir() or tarfile.is_tarfile(file):
            return _sosreports(file)
        if file.stat().st_size > _LONGEST_FILE:
            raise UsageError(f"{file} is larger than {_LONGEST_FILE >> 30} GiB")
        with file.open("rb") as opened:
            return [Recording.parse(opened, str(file))]
    except OSError as error:
        named = file if error.filename is None else os.fsdecode(error.filename)
        raise UsageError(f"{named}: {os.strerror(error.errno or 0)}") from error
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise MalformedError(str(file), f"the archive cannot be read: {error}") from error


def _sosreports(file: Path) -> list[Recording]:
    if file.is_dir():
        each_host = [dict(_unpacked(file))]
        for path in sorted(file.iterdir()):
            if _COLLECTED.fullmatch(path.name) and path.is_file():
                with tarfile.open(path) as archive:
                    each_host += _archived(archive)
    else:
        with tarfile.open(file) as archive:
            each_host = list(_archived(archive, collected=True))
    found = []
    for files in each_host:
        report = sosreport.read_report(files)
        for note in report.notes:
            warn(f"prtrace: {file}: {report.host}: {note}")
        if report.events:
            found.append(
                Recording(report.host, tuple(report.events), report.ports, names=report.names)
            )
    if not found:
        raise UsageError(
            f"{file}: there is no sosreport in it that says anything of reservations",
            hint="sos report --enable-plugins scsi,logs",
        )
    return found


def _unpacked(folder: Path) -> Iterator[tuple[str, sosreport.SosFile]]:
    for path in _below(folder):
        name = path.relative_to(folder).as_posix()
        # A link may lead out of the report.
        if sosreport.is_wanted(name) and path.is_file() and not path.is_symlink():
            status = path.stat()
            with path.open("rb") as opened:
                text = opened.read(_LONGEST_LOG).decode(errors="replace")
            yield name, sosreport.SosFile(text, int(status.st_mtime))


def _below(folder: Path) -> list[Path]:
    """All files below a folder.

    Raises OSError where this user may not look into a part of it, which Path.rglob() leaves out
    in silence.
    """

    def refuse(error: OSError) -> None:
        raise error

    walked = os.walk(folder, onerror=refuse)
    return sorted(Path(at, name) for at, _, names in walked for name in names)


def _archived(
    archive: tarfile.TarFile, *, collected: bool = False
) -> Iterator[dict[str, sosreport.SosFile]]:
    """The files of the report that an archive is.

    collected: whether reports may lie in it as archives; theirs come, too.
    """
    files = {}
    for member in archive:
        opened = archive.extractfile(member) if member.isfile() else None
        if opened is None:
            continue
        # Everything lies in a folder that has the report's name.
        name = member.name.removeprefix("./").partition("/")[2]
        if sosreport.is_wanted(name):
            text = opened.read(_LONGEST_LOG).decode(errors="replace")
            files[name] = sosreport.SosFile(text, int(member.mtime))
        elif collected and _COLLECTED.fullmatch(name):
            with tarfile.open(fileobj=opened) as inner:
                yield from _archived(inner)
    if files:
        yield files


def read_ports(folder: Path) -> list[Ports]:
    """The hosts' ports from the files of a folder.

    Only the folder that nobody has to name may be missing.  Raises UsageError where it cannot be
    read: hosts would be told as not known that somebody has named.
    """
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        if folder == PORTS_FOLDER:
            return []
        raise UsageError(f"{folder} is not there", hint="--ports takes a folder") from None
    except OSError as error:
        raise UsageError(f"{folder}: {os.strerror(error.errno or 0)}") from error
    files = [folder / name for name in names if name.endswith(".json")]
    return [Ports.from_json(_json(file), str(file)) for file in files]


def read_keys(file: Path | None) -> dict[int, str]:
    if file is None:
        return {}
    given = _json(file)
    try:
        return {int(key, 16): str(name) for key, name in given.items()}
    except (ValueError, AttributeError) as error:
        raise MalformedError(
            str(file), f"a JSON object of hexadecimal keys and names is expected: {error}"
        ) from error


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise UsageError(f"{file}: {os.strerror(error.errno or 0)}") from error
    except (ValueError, RecursionError) as error:
        raise MalformedError(str(file), f"this is not JSON: {error}") from error


def stored(client: Client, unit: Mapping[str, Any], newest: int) -> Recording:
    """The newest events of a unit that the agent has.  unit: what Show says of it."""
    lu = str(unit["lu"])
    events = (
        Event.from_json(each)
        for reply in client.stream("Events", devices=[lu], last=newest)
        for each in reply.get("events", ())
    )
    return Recording("", tuple(events), paths=paths_of(unit))


def paths_of(unit: Mapping[str, Any]) -> tuple[LocalNexus, ...]:
    """The paths of a unit that Show told."""
    return tuple(path_from_json(str(unit["lu"]), each) for each in unit["nexuses"])


def find_unit(device: str, recordings: Sequence[Recording]) -> str:
    """The unit that device names; NoSuchDeviceError names those that are there.

    A designator, and what udev and multipath make of it, is the same everywhere; a node, an
    address or a map is the first recording's.  Raises UsageError where it named several units
    there, one after the other: which one is meant is not known.
    """
    made = _FROM_DESIGNATOR.fullmatch(device)
    if made is not None:
        device = f"naa.{made['naa']}"
    if recordings:
        known = recordings[0].names
        device = known.get(device) or known.get(device.removeprefix("/dev/mapper/")) or device
    units = units_of(recordings)
    if device in units:
        return device
    named = {
        event.lu: event.time
        for event in (recordings[0].events if recordings else ())
        if event.lu and device in _names(event)
    }
    if len(named) > 1:
        until = "; ".join(f"{lu} until {rfc3339(time)[:19]}Z" for lu, time in named.items())
        raise UsageError(
            f"{device} named {len(named)} logical units one after the other: {until}",
            hint="name the unit by its designator",
        )
    if named:
        return next(iter(named))
    there = ", ".join(units[:4]) or "none"
    raise NoSuchDeviceError(
        f"{device} names no logical unit of these recordings", hint=f"they have: {there}"
    )


def _names(event: Event) -> Iterator[str]:
    """The nodes and addresses that an event has for its unit; nodes without /dev/, too.

    The kernel's log has them so.
    """
    for nexus, node in (
        (event.nexus, event.device),
        *((path.nexus, path.device) for path in event.paths),
    ):
        yield from filter(None, (nexus, node, node.removeprefix("/dev/")))


def rebuilt_unit(recording: Recording, lu: str, until: int | None = None) -> dict[str, Any]:
    """The unit as a recording leaves it, an element of prtrace.show/1's units."""
    rebuilt = Rebuilt()
    for event in before(recording.events, until):
        if event.lu == lu:
            if not rebuilt.events and (paths := recording.paths_of(lu)):
                rebuilt.states[lu] = begun(event, paths)
            rebuilt.add(event)
    if lu not in rebuilt.states:
        raise NoSuchDeviceError(
            f"{recording.host or 'the first recording'} has nothing of {lu} up to then",
            hint="name the recording first whose host is asked about",
        )
    state = rebuilt.states[lu]
    return unit_view(state, rebuilt.unit(state), rebuilt.newest)


@dataclass(frozen=True, slots=True)
class Looked:
    """What recordings have of one unit, as account() takes it."""

    unit: dict[str, Any]
    """As they leave it, an element of prtrace.show/1's units."""
    steps: list[tuple[str, list[Step]]]
    """Each host's own; what an event changed, and why it was refused, is the common history's."""
    joined: Joined | None
    """The common history, where there are several hosts."""


def look(
    recordings: Sequence[Recording], lu: str, until: int | None = None, newest: int | None = None
) -> Looked:
    """What recordings have of a unit, up to a time of the first one's clock that has it.

    newest: how many events of each are looked at, the newest; all where it is None.
    NoSuchDeviceError where nothing of it is there up to then.
    """
    steps: dict[str, list[Step]] = {}
    each_host = by_host(recordings)
    for host, recording in each_host.items():
        events = [event for event in recording.events if event.lu == lu]
        found = timeline(events[-newest:] if newest else events, lu, recording.paths_of(lu))
        if found:
            steps[host] = found
    first = next(iter(steps or each_host))
    if len(steps) <= 1:
        kept = [step for step in steps.get(first, ()) if until is None or step.event.time <= until]
        return Looked(rebuilt_unit(each_host[first], lu, until), [(first, kept)], None)
    joined = join(list(steps.items()), lu)
    if until is not None:
        at = until - joined.ahead[first]
        steps = {
            host: [step for step in each if step.event.time - joined.ahead[host] <= at]
            for host, each in steps.items()
        }
        joined = joined.up_to(at)
    if not joined.steps:
        raise NoSuchDeviceError(f"{first} has nothing of {lu} up to then")
    rebuilt = Rebuilt()
    for step in joined.steps:
        rebuilt.add(step.event)
    state = rebuilt.states[lu]
    unit = unit_view(state, rebuilt.unit(state), rebuilt.newest)
    common = _worded(joined)
    return Looked(
        unit,
        [
            (
                host,
                [
                    replace(step, event=common.get((host, step.event.seq), step.event))
                    for step in each
                ],
            )
            for host, each in steps.items()
        ],
        joined,
    )


def in_order(recordings: Sequence[Recording], wanted: Collection[str]) -> list[tuple[str, Event]]:
    """(host, event) of the wanted units, of all where none is: each with the words it gives.

    One host's are in the order of its recording, several hosts' as join() orders them.
    """
    found: list[tuple[int, str, int, Event]] = []
    each_host = list(by_host(recordings).items())
    # Each host is one recording now, with a name: telling them apart again changes nothing.
    hosts = [replace(each, host=host) for host, each in each_host]
    units = {each.host: set(units_of([each])) for each in hosts}
    events = {each.host: each.events for each in hosts}
    for lu in units_of(hosts):
        if wanted and lu not in wanted:
            continue
        looked = look([each for each in hosts if lu in units[each.host]], lu)
        ahead = {} if looked.joined is None else looked.joined.ahead
        for host, steps in looked.steps:
            worded = {step.event.seq: step.event for step in steps}
            newest = -(1 << 62)
            for event in events[host]:
                if event.lu == lu:
                    newest = max(newest, event.time - ahead.get(host, 0))
                    found.append((newest, host, event.seq, worded.get(event.seq, event)))
    return [(host, event) for _, host, _, event in sorted(found, key=lambda each: each[:3])]


def _worded(joined: Joined) -> dict[tuple[str, int], Event]:
    """By host and number: its events with what they changed in the common history."""
    found: dict[tuple[str, int], Event] = {}
    for step in joined.steps:
        origin = joined.origins[step.event.seq - 1]
        found[origin.host, origin.event.seq] = origin.event._replace(
            effect=step.event.effect, reason=step.event.reason
        )
    return found


def by_host(recordings: Sequence[Recording]) -> dict[str, Recording]:
    """Each host's recordings as one, in which an event that several have is once.

    A host that has no name is told by its place, or by the events that another recording has.
    """
    if len(recordings) == 1:
        return {recordings[0].host: recordings[0]}
    found: dict[str, Recording] = {}
    hosts: dict[tuple[Hashable, ...], str] = {}
    for number, each in enumerate(recordings, 1):
        recorded = {_identity(event) for event in each.events if event.record}
        known = next((hosts[identity] for identity in recorded if identity in hosts), "")
        host = each.host or known or f"recording {number}"
        hosts.update(dict.fromkeys(recorded, host))
        found[host] = _merged(found[host], each) if host in found else each
    return found


def _identity(event: Event) -> tuple[Hashable, ...]:
    """What makes an event the same one in another recording of its host."""
    if event.record:
        return event.epoch, event.record
    # What it changed, and why it was refused, was derived from what that recording began with.
    return event._replace(seq=0, effect="", reason="")


def _merged(one: Recording, other: Recording) -> Recording:
    """Two recordings of one host: each keeps its order, where the host's clock jumped, too."""
    left = Counter(map(_identity, one.events))
    more = []
    for event in other.events:
        identity = _identity(event)
        if left[identity]:
            left[identity] -= 1
        else:
            more.append(event)
    events = heapq.merge(_by_time(one.events), _by_time(more), key=lambda each: each[0])
    return replace(
        one,
        events=tuple(event._replace(seq=seq) for seq, (_, event) in enumerate(events, 1)),
        ports=tuple(dict.fromkeys((*one.ports, *other.ports))),
        paths=tuple(dict.fromkeys((*one.paths, *other.paths))),
    )


def _by_time(events: Iterable[Event]) -> Iterator[tuple[int, Event]]:
    """Each event with the latest time up to it: a clock that was set back changes no order."""
    latest = 0
    for event in events:
        latest = max(latest, event.time)
        yield latest, event


def before(events: Sequence[Event], until: int | None) -> Iterator[Event]:
    """The events that happened up to a time, all where it is None."""
    return (event for event in events if until is None or event.time <= until)


def moment(text: str) -> int:
    """--at TIME as nanoseconds since the epoch."""
    try:
        return nanoseconds(datetime.fromisoformat(text).astimezone().isoformat())
    except (ValueError, OverflowError) as error:
        raise UsageError(f"--at {text}: {error}", hint="as in 2026-01-31T12:00") from error


def split(words: Iterable[str]) -> tuple[list[str], list[Path]]:
    """The devices and the recordings among arguments.

    A recording is a regular file or a folder; devices are neither.
    """
    devices, files = [], []
    for word in words:
        path = Path(word)
        if path.is_file() or path.is_dir():
            files.append(path)
        else:
            devices.append(word)
    return devices, files


def units_of(recordings: Sequence[Recording]) -> list[str]:
    """The units that recordings have events of, in their order."""
    return list(
        dict.fromkeys(event.lu for each in recordings for event in each.events if event.lu)
    )
