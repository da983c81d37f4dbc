"""Bytes that follow each other: a CDB says what the data behind it are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from prtrace.errors import MalformedError
from prtrace.model import Action
from prtrace.paste.seen import Seen
from prtrace.scsi.cdb import PrInCdb, PrOutCdb, parse_cdb
from prtrace.scsi.codes import InAction
from prtrace.scsi.describe import describe
from prtrace.scsi.parameter import parse_list
from prtrace.scsi.recognise import READ_AS, DecodeAs, plausible_forms


def joined(found: Iterable[Seen]) -> Iterator[Seen]:
    """Each thing that was seen; bytes that only a command before them explains are that command's.

    A PERSISTENT RESERVE OUT takes a parameter list of the length that its CDB has, a PERSISTENT
    RESERVE IN a reply that is none of another service action.  What could be sense data or a CDB
    as well is left as it is.
    """
    command: Seen | None = None
    for seen in found:
        if not seen.raw:
            if command is not None:
                yield command
            command = None
            yield seen
            continue
        forms = plausible_forms(seen.raw)
        if command is not None and (whole := _with(command, seen, forms)) is not None:
            yield whole
            command = None
            continue
        if command is not None:
            yield command
        command = None
        if forms == (DecodeAs.CDB,):
            command = replace(seen, raw=b"", cdb=seen.raw)
        elif forms == (DecodeAs.SENSE,):
            # It need not be the answer to the command before it.
            yield replace(seen, raw=b"", sense=seen.raw)
        else:
            yield seen
    if command is not None:
        yield command


def _with(command: Seen, seen: Seen, forms: tuple[DecodeAs, ...]) -> Seen | None:
    """The command with its parameter list or reply, None where that is neither or may be more."""
    raw, header = seen.raw, seen.header
    if {DecodeAs.CDB, DecodeAs.SENSE, DecodeAs.VPD83}.intersection(forms):
        return None
    try:
        match parse_cdb(command.cdb):
            case PrOutCdb(action=Action() as action, parameter_length=length):
                parse_list(raw, action)
                return replace(command, parameter_list=raw) if length == len(raw) else None
            case PrInCdb(action=InAction() as action, allocation_length=length):
                kind = READ_AS[action].value
                if header is not None:
                    describe(raw, kind)
                whole = replace(command, reply=raw, reply_kind=kind, header=header)
                return whole if len(raw) <= length else None
            case _:
                return None
    except MalformedError:
        return None
