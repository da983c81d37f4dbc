"""prtrace decode."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import click

from prtrace.cli.options import json_option
from prtrace.cli.text import document, line, plain
from prtrace.errors import InDoubtError, MalformedError, UsageError
from prtrace.explain.owners import owners
from prtrace.paste import scst
from prtrace.paste.joined import joined
from prtrace.paste.reader import read_text
from prtrace.paste.seen import Seen
from prtrace.paste.shown import shown_in_order
from prtrace.scsi.commands import medium_command
from prtrace.scsi.describe import Described, Explanation, describe
from prtrace.scsi.recognise import CHOICES

SCHEMA: Final = "prtrace.decode/1"

_LARGEST: Final = 16 << 20
"""Bytes of a file."""
_HEX: Final = re.compile(r"(?:0x)?[0-9A-Fa-f]{1,2}")
_SUFFIXES: Final = (".bin", ".dat", ".hex", ".json", ".log", ".txt")


@dataclass(frozen=True, slots=True)
class _Found:
    """One thing that was decoded, and where it was."""

    described: Described
    file: str = ""
    """The file that has it, where several are read."""
    source: str = ""
    line: int = 0
    device: str = ""


@click.command(
    "decode",
    epilog="""\b
Exit status 4: a reply is cut off, so that more exists than is shown.
\b
Examples:
  prtrace decode 5f 00 05 00 00 00 00 00 18 00    a CDB
  prtrace decode --as keys reply.hex              hex of any form, # comments
  prtrace decode 70:00:06:00:00:00:00:0a:...      sense, as some logs write it
  prtrace decode 06/2a/03                         sense key, ASC, ASCQ
  prtrace decode cdb.txt data.txt                 a CDB, and what goes with it
  prtrace decode transcript.txt                   of sg_persist -vvv, sg_raw
  prtrace decode kernel.log                       the kernel's words on SCSI
  sg_raw ... | prtrace decode --as full-status -  bytes, from a program
""",
)
@click.argument("parts", metavar="HEX... | FILE... | -", nargs=-1, required=True)
@click.option("--as", "kind", type=click.Choice(CHOICES), help="what the bytes are")
@click.option(
    "--header/--no-header", default=None,
    help="whether the first 8 bytes of keys, reservation or full-status are there: "
    "sg_persist -H leaves them out",
)  # fmt: skip
@json_option
def command(
    parts: tuple[str, ...], *, kind: str | None, header: bool | None, as_json: bool
) -> int:
    """Say what the bytes of a SCSI command, list, reply or sense mean.

    A file holds bytes, hex text or dumps of any common form, or what other
    programs printed or keep: sg_persist, sg_raw, the kernel's log and
    tracepoints, ESXi, QEMU, LIO, SCST, tshark -x of iSCSI.  CDBs and sense
    data are recognised; lists and replies look alike: the CDB in front of
    them names them, or else --as has to.

    Below the fields stand what the command does, why it may have been refused,
    what raised a unit attention, and whose a reservation key may be.
    """
    found = list(_with_owners(_found(parts, kind, header)))
    if as_json:
        document({"schema": SCHEMA, "found": [_as_json(each) for each in found]})
    else:
        _print(found)
    cut = any(each.described.truncated for each in found)
    return InDoubtError.exit_code if cut else 0


def _found(parts: tuple[str, ...], kind: str | None, header: bool | None) -> Iterator[_Found]:
    """What the arguments say: one file, several one after the other, or hex."""
    if len(parts) > 1 and _are_files(parts):
        yield from _shown(
            joined(each for name in parts for each in _of_file_of_several(name)), kind, header
        )
        return
    read = _read(_content(parts))
    if isinstance(read, bytes):
        yield _Found(_described(read, kind, header=header is not False))
    else:
        yield from _shown(read, kind, header)


def _read(content: bytes | str) -> bytes | tuple[Seen, ...]:
    """What a file or an argument says; bytes that say nothing of themselves as they are."""
    if isinstance(content, str):
        return read_text(content)
    return tuple(scst.read(content)) if scst.is_file(content) else content


def _of_file_of_several(name: str) -> Iterator[Seen]:
    """What one of several files says."""
    content = read_file(name)
    try:
        read = _read(content)
    except MalformedError as error:
        what = f"{plain(name)}: {error.what}"
        raise MalformedError(what, error.problem, hint=error.hint) from error
    if isinstance(read, bytes):
        yield Seen(source="", line=1, raw=read, file=name)
    else:
        for each in read:
            yield replace(each, file=name)


def _shown(read: Iterable[Seen], kind: str | None, header: bool | None) -> Iterator[_Found]:
    for each, described in shown_in_order(read, kind, header):
        device = each.lu or each.nexus
        if each.device:
            device = f"{device} ({each.device})" if device else each.device
        yield _Found(described, each.file, each.source, each.line, device)


def _described(raw: bytes, kind: str | None, *, header: bool) -> Described:
    if kind is None and len(raw) == 1:
        name = medium_command(raw).name
        raise UsageError(
            f"one byte is no CDB; {raw[0]:#04x} is the operation code of {name}",
            hint="give the whole CDB",
        )
    return describe(raw, kind, header=header)


def _with_owners(found: Iterable[_Found]) -> Iterator[_Found]:
    """With whose each reservation key may be, where it is first met."""
    told: set[int] = set()
    for each in found:
        explanations = [
            Explanation(
                "key", f"0x{key:016x} may be of {owner.name}: {owner.why}; that is no proof"
            )
            for key in each.described.reservation_keys()
            if key not in told
            for owner in owners(key)
        ]
        told.update(each.described.reservation_keys())
        described = replace(
            each.described, explanations=(*each.described.explanations, *explanations)
        )
        yield replace(each, described=described)


def _as_json(found: _Found) -> dict[str, object]:
    place = {"source": found.source or None, "line": found.line or None}
    device = {"device": found.device or None}
    return {"file": found.file or None, **place, **device, **found.described.as_json()}


def _print(found: list[_Found]) -> None:
    place = None
    several = len({(each.file, each.line) for each in found}) > 1
    for each in found:
        here = each.file, each.source, each.line
        if here != place and (several or each.source):
            if place is not None:
                line()
            place = here
            line(plain(f"{', '.join(_where(each))}:"))
        for text in each.described.lines():
            line(plain(text))


def _where(found: _Found) -> Iterator[str]:
    """The words on where it was found."""
    if found.file:
        yield found.file
    yield f"line {found.line}"
    if found.source:
        yield found.source
    if found.device:
        yield found.device


def _content(parts: tuple[str, ...]) -> bytes | str:
    if parts == ("-",):
        return _of_file(sys.stdin.buffer.read(_LARGEST + 1), "standard input")
    if len(parts) == 1 and _is_name(parts[0]):
        return read_file(parts[0])
    return " ".join(parts)


def _are_files(parts: tuple[str, ...]) -> bool:
    """Whether several arguments are files: a file may have a name that is hex, as 00 is."""
    return any(_is_name(each) and not _HEX.fullmatch(each) for each in parts)


def _is_name(text: str) -> bool:
    """Whether a single argument can only be a file's name."""
    if os.path.exists(text):
        return True
    return text.endswith(_SUFFIXES) or text.startswith(("/", "./", "../", "~/"))


def read_file(path: str) -> bytes | str:
    """A regular file's text, or its bytes where it is no text; UsageError says what is wrong."""
    try:
        if not os.path.isfile(path) and os.path.exists(path):
            raise UsageError(f"{plain(path)} is no file", hint="prtrace read asks a device")
        with open(path, "rb") as file:
            return _of_file(file.read(_LARGEST + 1), path)
    except OSError as error:
        raise UsageError(f"{plain(path)}: {os.strerror(error.errno or 0)}") from error


def _of_file(content: bytes, name: str) -> bytes | str:
    if len(content) > _LARGEST:
        raise UsageError(f"{plain(name)} has more than {_LARGEST} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return content
    # LIO ends its aptpl files with a NUL.
    lines = text.rstrip("\0")
    if "\n" in lines and all(char.isprintable() or char.isspace() for char in lines):
        return lines
    if any(ord(char) < 9 for char in text):
        return content
    return text
