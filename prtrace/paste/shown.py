"""From what a text says to named fields: the same words for a paste as for bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prtrace.errors import UsageError
from prtrace.paste.seen import Seen, SenseTriple
from prtrace.scsi.cdb import as_device_reads, service_action
from prtrace.scsi.codes import Opcode, OutCode, status_title
from prtrace.scsi.commands import medium_command
from prtrace.scsi.describe import Described, Field, describe
from prtrace.scsi.sense import FIXED, Sense

_TRIPLE: Final = "sense key, additional sense code and qualifier"


def shown(seen: Seen, kind: str | None) -> Iterator[Described]:
    """The command, its parameter list, status, sense and reply, as far as they are there.

    kind: what a reply is where the lines do not tell.  UsageError where nobody does;
    MalformedError for bytes that are not what the lines call them.
    """
    if seen.cdb:
        yield describe(as_device_reads(seen.cdb, len(seen.cdb)), "cdb")
    elif seen.opcode is not None:
        name = medium_command(bytes((seen.opcode,))).name
        yield Described("statement", name, (Field("operation code", f"{seen.opcode:#04x}"),))
    if seen.parameter_list:
        yield describe(seen.parameter_list, _list_kind(seen, kind))
    if seen.status is not None or seen.host_byte or seen.timed_out:
        yield Described("status", _outcome(seen), ())
    if seen.sense:
        yield describe(seen.sense, "sense")
    elif seen.triple is not None:
        yield _triple(seen.triple)
    if seen.facts or seen.perhaps:
        fields = tuple(Field(name, value) for name, value in seen.facts)
        if seen.perhaps:
            fields += (Field("perhaps the command", f"that line {seen.perhaps} tells of"),)
        yield Described("statement", seen.source, fields)
    if seen.reply:
        yield _reply(seen, kind)


def _list_kind(seen: Seen, kind: str | None) -> str:
    if len(seen.cdb) > 1 and seen.cdb[0] == Opcode.PR_OUT:
        return "out-move" if service_action(seen.cdb) == OutCode.REGISTER_AND_MOVE else "out"
    return kind or "out"


def _outcome(seen: Seen) -> str:
    words = []
    if seen.timed_out:
        words.append("timed out")
    if seen.host_byte:
        words.append(f"host error {seen.host_byte}")
    if seen.status is not None:
        words.append(status_title(seen.status))
    return ", ".join(words)


def _triple(triple: SenseTriple) -> Described:
    text = Sense(FIXED, triple.key, triple.asc, triple.ascq).text
    return Described("sense", _TRIPLE, (Field("sense", text),))


def _reply(seen: Seen, kind: str | None) -> Described:
    wanted = seen.reply_kind or kind
    try:
        return describe(seen.reply, wanted)
    except UsageError as error:
        if wanted is not None:
            raise
        raise UsageError(
            f"line {seen.line}: a reply of {len(seen.reply)} bytes without its command",
            hint=error.hint,
        ) from error
