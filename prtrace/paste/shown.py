"""From what a text says to named fields: the same words for a paste as for bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final, NamedTuple

from prtrace.errors import MalformedError, UsageError
from prtrace.model import Action, ReservationType
from prtrace.paste.seen import Seen, SenseTriple
from prtrace.scsi.cdb import PrOutCdb, as_device_reads, parse_cdb, service_action
from prtrace.scsi.codes import (
    OUT_ACTIONS,
    InAction,
    Opcode,
    OutCode,
    ReservedCode,
    Status,
    status_title,
)
from prtrace.scsi.commands import medium_command
from prtrace.scsi.describe import Described, Explanation, Field, describe, sense_explanations
from prtrace.scsi.meaning import asked_in, asked_out
from prtrace.scsi.parameter import ParameterList, parse_list
from prtrace.scsi.recognise import HEADED, DecodeAs
from prtrace.scsi.reply import ReadKeys
from prtrace.scsi.sense import FIXED, Sense
from prtrace.state.refusal import possible_refusals, possible_refusals_of

_TRIPLE: Final = "sense key, additional sense code and qualifier"
_BY_KEY_ALONE: Final = (Action.REGISTER, Action.RELEASE, Action.CLEAR)
"""What a device refuses, but for an SPC-2 reservation, for the sender's key and nothing else."""
_SPC2: Final = "another nexus has an SPC-2 reservation"
_IN_TOO: Final = "(PERSISTENT RESERVE IN is refused then, too)"


def shown_in_order(
    found: Iterable[Seen], kind: str | None, header: bool | None = None
) -> Iterator[tuple[Seen, Described]]:
    """As shown, for all that one text says, with what earlier lines say of later ones."""
    readings: dict[str, Seen] = {}
    for seen in found:
        earlier = readings.get(seen.device) if seen.device else None
        for described in shown(seen, kind, earlier, header):
            yield seen, described
        if seen.cdb and seen.cdb[0] == Opcode.PR_OUT and seen.status == Status.GOOD:
            readings.pop(seen.device, None)
        if seen.reply_kind == "keys" and seen.reply:
            readings[seen.device] = seen


def shown(
    seen: Seen, kind: str | None, keys_read: Seen | None = None, header: bool | None = None
) -> Iterator[Described]:
    """The command, its parameter list, status, sense and reply, as far as they are there.

    kind: what a reply is where the lines do not tell.  keys_read: a READ KEYS of the same device
    before it, None where there is none.  header: whether a reply begins with its header, where
    the lines do not tell.  UsageError where nobody tells what a reply is, or whether its header is
    there; MalformedError for bytes that are not what the lines call them.
    """
    asked = _asked(seen)
    if seen.cdb:
        command = describe(as_device_reads(seen.cdb, len(seen.cdb)), "cdb")
        # The parameter list tells it better.
        yield command if asked is None else replace(command, explanations=())
    elif seen.opcode is not None:
        name = medium_command(bytes((seen.opcode,))).name
        yield Described("statement", name, (Field("operation code", f"{seen.opcode:#04x}"),))
    elif seen.asks is not None:
        yield _named(seen.asks)
    if seen.parameter_list:
        listed = describe(seen.parameter_list, _list_kind(seen, kind))
        if asked is not None:
            explanations = Explanation(
                "meaning", asked_out(asked.action, asked.type, asked.listed)
            )
            listed = replace(listed, explanations=(*listed.explanations, explanations))
        yield listed
    if seen.status is not None or seen.host_byte or seen.timed_out:
        yield Described("status", _outcome(seen), (), tuple(_refusal(seen, asked, keys_read)))
    if seen.under_way:
        yield Described("status", "its end is not here: whether it took effect is not told", ())
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
        yield _reply(seen, kind, seen.header if header is None or seen.header else header)
    if seen.raw:
        yield _unnamed(seen, kind, seen.header if header is None else header)


class _Asked(NamedTuple):
    """A PERSISTENT RESERVE OUT of which the CDB and the parameter list are there."""

    action: Action
    type: ReservationType | ReservedCode | None
    listed: ParameterList


def _asked(seen: Seen) -> _Asked | None:
    if not seen.cdb or not seen.parameter_list:
        return None
    try:
        cdb = parse_cdb(as_device_reads(seen.cdb, len(seen.cdb)))
        if isinstance(cdb, PrOutCdb) and isinstance(cdb.action, Action):
            return _Asked(cdb.action, cdb.type, parse_list(seen.parameter_list, cdb.action))
    except MalformedError:
        pass  # describing the bytes tells it
    return None


def _refusal(seen: Seen, asked: _Asked | None, keys_read: Seen | None) -> Iterator[Explanation]:
    """Why a device may have answered RESERVATION CONFLICT."""
    if seen.status != Status.RESERVATION_CONFLICT:
        return
    if isinstance(seen.asks, InAction) or (seen.cdb and seen.cdb[0] == Opcode.PR_IN):
        yield Explanation(
            "refused", f"{_SPC2}: no other reservation refuses PERSISTENT RESERVE IN"
        )
    elif asked is not None:
        reasons = possible_refusals(asked.action, asked.listed.key, asked.listed.sa_key)
        yield _one_of(*reasons, f"{_SPC2} {_IN_TOO}")
        yield from _registration(asked, keys_read)
    elif isinstance(action := seen.asks or _action(seen.cdb), Action):
        yield _one_of(*possible_refusals(action, None, None), f"{_SPC2} {_IN_TOO}")
    elif seen.cdb and seen.cdb[0] != Opcode.PR_OUT:
        reasons = possible_refusals_of(medium_command(seen.cdb).access)
        if reasons:
            yield _one_of(*reasons, _SPC2)


def _action(cdb: bytes) -> Action | None:
    """The service action of a PERSISTENT RESERVE OUT, None for other commands."""
    if len(cdb) < 2 or cdb[0] != Opcode.PR_OUT:
        return None
    return OUT_ACTIONS.get(service_action(cdb))


def _named(action: Action | InAction) -> Described:
    """A command of which only the service action was printed."""
    if isinstance(action, Action):
        title, name, note = "PERSISTENT RESERVE OUT", action.value, asked_out(action)
    else:
        title, name, note = "PERSISTENT RESERVE IN", action.title, asked_in(action)
    field = Field("service action", name)
    return Described("statement", title, (field,), (Explanation("meaning", note),))


def _one_of(*reasons: str) -> Explanation:
    if len(reasons) == 1:
        return Explanation("refused", f"it may be that {reasons[0]}")
    return Explanation("refused", f"one of these: {'; or '.join(reasons)}")


def _registration(asked: _Asked, keys_read: Seen | None) -> Iterator[Explanation]:
    """What a refused command tells of the registration that it lacked."""
    key = asked.listed.key
    if asked.action in (Action.REGISTER_AND_IGNORE, Action.REPLACE_LOST) or not key:
        return
    yield Explanation(
        "remark",
        "a registration of another path or host with that key does not count: it has to be that "
        "of the I_T nexus (initiator port and target port) that sends the command",
    )
    if keys_read is not None and asked.action in _BY_KEY_ALONE:
        count = ReadKeys.parse(keys_read.reply).keys.count(key)
        where = f"the READ KEYS of line {keys_read.line}"
        if count:
            yield Explanation(
                "remark",
                f"{where} lists 0x{key:016x} {count} time{'s' if count > 1 else ''}: unless "
                "something changed in between, other I_T nexuses are registered with it, and not "
                "this one",
            )
        else:
            yield Explanation(
                "remark", f"{where} does not list 0x{key:016x}: no nexus had it then"
            )
    if asked.action is Action.REGISTER:
        yield Explanation(
            "remark",
            "a nexus that is not registered registers with RESERVATION KEY 0; REGISTER AND IGNORE "
            "EXISTING KEY registers it in any case",
        )


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
    sense = Sense(FIXED, triple.key, triple.asc, triple.ascq)
    return Described("sense", _TRIPLE, (Field("sense", sense.text),), sense_explanations(sense))


def _unnamed(seen: Seen, kind: str | None, header: bool | None) -> Described:
    """Bytes of which no line says what they are: what they are beyond doubt, else of that kind."""
    try:
        if header:
            return describe(seen.raw)
    except UsageError as error:
        if kind is None:
            raise UsageError(f"{_place(seen)}{error.message}", hint=error.hint) from error
    if kind is None:
        raise UsageError(
            f"{_place(seen)}a dump as sg_persist -H prints it does not say what it is",
            hint="name it with --as",
        )
    return _described(seen, seen.raw, kind, header)


def _place(seen: Seen) -> str:
    return f"{seen.file}: " if seen.file else f"line {seen.line}: "


def _described(seen: Seen, raw: bytes, kind: str, header: bool | None) -> Described:
    """raw as kind.  UsageError where it is a reply that may lack its header."""
    if header is None and DecodeAs(kind) in HEADED:
        raise UsageError(
            f"{_place(seen)}sg_persist -H and -HH print this alike, and -H leaves out the reply's "
            "first 8 bytes, its header",
            hint="--header if it is of -HH, --no-header if it is of -H; "
            "-HHH prints what cannot be mistaken",
        )
    return describe(raw, kind, header=header is not False)


def _reply(seen: Seen, kind: str | None, header: bool | None) -> Described:
    wanted = seen.reply_kind or kind
    try:
        if wanted is not None:
            return _described(seen, seen.reply, wanted, header)
        return describe(seen.reply)
    except UsageError as error:
        if wanted is not None:
            raise
        raise UsageError(
            f"line {seen.line}: a reply of {len(seen.reply)} bytes without its command",
            hint=error.hint,
        ) from error
