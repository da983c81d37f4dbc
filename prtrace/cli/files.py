"""Files that commands are given to look at: recordings, sosreports, ports and keys."""

from __future__ import annotations

import contextlib
import json
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from prtrace.cli.options import FOLDER, Function
from prtrace.cli.text import warn
from prtrace.errors import MalformedError, UsageError
from prtrace.explain.configured import FILES, configured
from prtrace.explain.owners import Owner
from prtrace.explain.ports import Ports, iscsi_name
from prtrace.explain.recording import Gathered, Recording
from prtrace.paste import sosreport

_LONGEST_FILE: Final = 1 << 30
"""Bytes of a recording."""
_LONGEST_OUTPUT: Final = 4 << 20
"""Characters of a file of this host that are read."""
_LONGEST_LOG: Final = 64 << 20
"""Bytes of one file of a sosreport that are read."""
_COLLECTED: Final = re.compile(r"[^/]*sosreport-[^/]+\.tar(?:\.(?:xz|gz|bz2))?")
"""A host's report in what sos collect made, by its name in the folder there."""
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


def read_files(files: Iterable[str]) -> Iterator[Gathered]:
    """The ends of this host's files, as gathered; those that are not there are left out."""
    for file in files:
        with contextlib.suppress(OSError):
            text = Path(file).read_text(errors="replace")[-_LONGEST_OUTPUT:]
            yield Gathered("file", (file,), 0, text)


def configured_keys(recordings: Sequence[Recording]) -> Mapping[int, Sequence[Owner]]:
    """Whose configuration has which key: by recordings, by this host's files where none is."""
    if recordings:
        return configured(recordings)
    return configured([Recording("", (), gathered=tuple(read_files(FILES)))])


def read_keys(file: Path | None) -> dict[int, str]:
    """Reservation keys and the names that somebody gave them; none without a file.

    Raises UsageError where the file cannot be read, MalformedError where it is something else.
    """
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
