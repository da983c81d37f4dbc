"""prtrace decode."""

from __future__ import annotations

import os
import stat
import sys
from typing import Final

import click

from prtrace.cli.options import json_option
from prtrace.cli.text import document, line, plain
from prtrace.errors import UsageError
from prtrace.scsi.describe import describe
from prtrace.scsi.hexfile import parse_hex
from prtrace.scsi.recognise import CHOICES

_LARGEST: Final = 1 << 20
"""Bytes of a file: four times the longest list there can be, written as hex with comments."""


@click.command(
    "decode",
    epilog="""\b
Examples:
  prtrace decode 5f 00 05 00 00 00 00 00 18 00    a CDB
  prtrace decode --as keys reply.hex              hex text, # comments allowed
  prtrace decode 70:00:06:00:00:00:00:0a:...      sense, as some logs write it
  sg_raw ... | prtrace decode --as full-status -  bytes, from a program
""",
)
@click.argument("parts", metavar="HEX... | FILE | -", nargs=-1, required=True)
@click.option("--as", "kind", type=click.Choice(CHOICES), help="what the bytes are")
@json_option
def command(parts: tuple[str, ...], *, kind: str | None, as_json: bool) -> None:
    """Say what the bytes of a SCSI command, list, reply or sense mean.

    A file holds hex text or the bytes themselves.  CDBs and sense data are
    recognised; lists and replies look alike, so --as has to name them.
    """
    found = describe(_bytes(parts), kind)
    if as_json:
        document(found.as_json())
        return
    for text in found.lines():
        line(plain(text))


def _bytes(parts: tuple[str, ...]) -> bytes:
    if parts == ("-",):
        return _of_file(sys.stdin.buffer.read(_LARGEST + 1), "standard input")
    if len(parts) == 1 and os.path.exists(parts[0]):
        return _of_file(_content(parts[0]), parts[0])
    return parse_hex(" ".join(parts).replace(":", " "))


def _content(path: str) -> bytes:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UsageError(f"{plain(path)} is no file", hint="prtrace read asks a device")
        with open(path, "rb") as file:
            return file.read(_LARGEST + 1)
    except OSError as error:
        raise UsageError(f"{plain(path)}: {os.strerror(error.errno or 0)}") from error


def _of_file(content: bytes, name: str) -> bytes:
    """Hex text's bytes; content itself where it is no text."""
    if len(content) > _LARGEST:
        raise UsageError(f"{plain(name)} has more than {_LARGEST} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return content
    if "\0" in text or any(ord(char) < 9 for char in text):
        return content
    # Only in what is no comment: a comment may hold a time.
    lines = [
        code.replace(":", " ") + mark + comment
        for code, mark, comment in (each.partition("#") for each in text.splitlines())
    ]
    return parse_hex("\n".join(lines))
