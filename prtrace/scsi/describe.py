"""A CDB, parameter list, reply, sense data or VPD page 83h as named fields, for people.

Names and places of fields come from the declarations (prtrace.scsi.forms); this module adds how
a value is written.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, assert_never

from prtrace.errors import MalformedError, UsageError
from prtrace.model import Action, ReservationType
from prtrace.scsi import forms
from prtrace.scsi.cdb import LegacyCdb, OtherCdb, PrInCdb, PrOutCdb, parse_cdb
from prtrace.scsi.codes import (
    SCOPE_LU,
    InAction,
    ReservedCode,
    in_action,
    out_action,
    reservation_type,
)
from prtrace.scsi.commands import medium_command
from prtrace.scsi.designator import (
    Association,
    Designator,
    IdentificationPage,
    Kind,
    designation_descriptors,
    lu_name_partial,
)
from prtrace.scsi.form import Form
from prtrace.scsi.meaning import asked_in, asked_out, lets_in, raised_by
from prtrace.scsi.parameter import BasicList, MoveList, transport_ids
from prtrace.scsi.recognise import CHOICES, HEADED, DecodeAs, recognise
from prtrace.scsi.reply import (
    FullStatusDescriptor,
    ReadFullStatus,
    ReadKeys,
    ReadReservation,
    ReportCapabilities,
    full_status_descriptors,
)
from prtrace.scsi.sense import DESCRIPTOR, UNIT_ATTENTION, Sense, attention

_TRUNCATED: Final = "truncated"
_WIDTH: Final = 80
_KEY_FIELDS: Final = ("reservation key", "service action reservation key", "keys")
_LONGEST_REPLY: Final = 0xFFFF
"""The most that ALLOCATION LENGTH can ask for, in bytes."""


@dataclass(frozen=True, slots=True)
class Group:
    """Fields that belong together, as those of one descriptor do."""

    fields: tuple[Field, ...]

    def as_json(self) -> dict[str, object]:
        """{"fields": [...]}."""
        return {"fields": [each.as_json() for each in self.fields]}


Value = str | tuple[str, ...] | tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Field:
    """A name as the standard has it, in lower case, and its value as text."""

    name: str
    value: Value
    offset: int | None = None
    """Of its first byte in what was decoded; None for what is said about several fields."""
    size: int | None = None
    """In bytes."""
    mask: int | None = None
    """Its bits in the number that the bytes make; None where it takes the bytes whole."""

    def as_json(self) -> dict[str, object]:
        """{"name", "value"} or {"name", "items"}; with the place where it has one."""
        found: dict[str, object] = {"name": self.name}
        if self.offset is not None:
            found["offset"] = self.offset
            found["size"] = self.size
        if self.mask is not None:
            found["mask"] = self.mask
        if isinstance(self.value, str):
            found["value"] = self.value
        else:
            found["items"] = [
                each if isinstance(each, str) else each.as_json() for each in self.value
            ]
        return found


@dataclass(frozen=True, slots=True)
class Explanation:
    """A sentence about what was decoded, which is no field of it."""

    kind: str
    """"meaning": what it does or tells, as the standard has it.  "refused": why a device may have
    refused it.  "remark": what is noteworthy.  "key": whose a reservation key may be."""
    text: str

    def as_json(self) -> dict[str, object]:
        """{"kind", "text"}."""
        return {"kind": self.kind, "text": self.text}

    def lines(self) -> list[str]:
        """ "kind: text" in the width of a terminal, indented like a field."""
        return textwrap.wrap(
            f"{self.kind}: {self.text}",
            _WIDTH,
            initial_indent="  ",
            subsequent_indent="    ",
            break_on_hyphens=False,
        )


@dataclass(frozen=True, slots=True)
class Described:
    """What bytes mean."""

    kind: str
    """One of recognise.CHOICES; "status" or "statement" for what was read from text."""
    title: str
    """The kind in words."""
    fields: tuple[Field, ...]
    explanations: tuple[Explanation, ...] = ()

    @property
    def truncated(self) -> bool:
        """Whether more exists than arrived."""
        return any(each.name == _TRUNCATED for each in self.fields)

    def as_json(self) -> dict[str, object]:
        """{"kind", "title", "fields", "explanations"}, as in prtrace/schema/decode.1.json."""
        return {
            "kind": self.kind,
            "title": self.title,
            **Group(self.fields).as_json(),
            "explanations": [each.as_json() for each in self.explanations],
        }

    def lines(self) -> list[str]:
        """The title, a line for each field, what belongs to it indented, then the explanations."""
        explanations = [line for each in self.explanations for line in each.lines()]
        return [self.title, *_lines(self.fields, "  "), *explanations]

    def reservation_keys(self) -> tuple[int, ...]:
        """The reservation keys in it but for 0, each once, in their order."""
        return tuple(key for key in dict.fromkeys(_keys_in(self.fields)) if key)


def describe(raw: bytes, kind: str | None = None, *, header: bool = True) -> Described:
    """Decode raw as kind, one of recognise.CHOICES, or as what it is beyond doubt.

    header: whether a reply of recognise.HEADED begins with its header.  UsageError when kind is
    unknown or None and raw could be several things; MalformedError when raw is not what kind says.
    """
    if kind is None:
        what = recognise(raw)
    elif kind in CHOICES:
        what = DecodeAs(kind)
    else:
        raise UsageError(f"{kind!r} is no form prtrace knows", hint=f"one of {', '.join(CHOICES)}")
    if not header:
        return _without_header(what, raw)
    title, fields = _describe(what, raw)
    return Described(what.value, title, tuple(fields), tuple(_explanations(what, raw)))


def _without_header(what: DecodeAs, raw: bytes) -> Described:
    """A reply of which the header is not there: everything but the header's fields."""
    if what not in HEADED:
        raise UsageError(
            f"{what.value} has no header to leave out",
            hint=f"--no-header is for {', '.join(form.value for form in HEADED)}",
        )
    unit = {DecodeAs.KEYS: 8, DecodeAs.RESERVATION: forms.RESERVATION.size}.get(what, 1)
    if len(raw) % unit or (what is DecodeAs.RESERVATION and len(raw) != unit):
        raise MalformedError(
            f"{what.value} without a header", f"{len(raw)} bytes are not {unit} bytes for each"
        )
    form = forms.READ_KEYS
    whole = form.build(prgeneration=0, additional_length=len(raw)) + raw
    title, fields = _describe(what, whole)
    kept = _moved(fields, -form.size)
    return Described(what.value, title, kept, tuple(_explanations(what, whole)))


def _moved(fields: Iterable[Field], by: int) -> tuple[Field, ...]:
    """The fields at their place plus by, without those that lie before the beginning then."""
    found = []
    for each in fields:
        if each.offset is not None and each.offset + by < 0:
            continue
        value = each.value
        groups = tuple(Group(_moved(part.fields, by)) for part in value if isinstance(part, Group))
        offset = None if each.offset is None else each.offset + by
        found.append(replace(each, value=groups or value, offset=offset))
    return tuple(found)


def _describe(what: DecodeAs, raw: bytes) -> tuple[str, list[Field]]:
    match what:
        case DecodeAs.CDB:
            return _cdb(raw)
        case DecodeAs.OUT:
            return forms.BASIC_PARAMETER_LIST.what, _out(raw)
        case DecodeAs.OUT_MOVE:
            return forms.REGISTER_AND_MOVE_LIST.what, _out_move(raw)
        case DecodeAs.KEYS:
            return forms.READ_KEYS.what, _keys(raw)
        case DecodeAs.RESERVATION:
            return forms.READ_RESERVATION.what, _reservation(raw)
        case DecodeAs.CAPABILITIES:
            return forms.REPORT_CAPABILITIES.what, _capabilities(raw)
        case DecodeAs.FULL_STATUS:
            return forms.READ_FULL_STATUS.what, _full_status(raw)
        case DecodeAs.SENSE:
            return forms.FIXED_SENSE.what, _sense(raw)
        case DecodeAs.VPD83:
            return f"{forms.IDENTIFICATION_PAGE.what}, Device Identification", _vpd83(raw)
    assert_never(what)


def _explanations(what: DecodeAs, raw: bytes) -> Iterator[Explanation]:
    match what:
        case DecodeAs.CDB:
            yield from _asked(raw)
        case DecodeAs.KEYS:
            for key, count in Counter(ReadKeys.parse(raw).keys).items():
                if count > 1:
                    text = f"{_key(key)} is there {count} times: so many I_T nexuses (paths of one"
                    yield Explanation(
                        "remark", f"{text} host or of several) are registered with it"
                    )
        case DecodeAs.RESERVATION:
            yield from _held(raw)
        case DecodeAs.SENSE:
            yield from sense_explanations(Sense.parse(raw))
        case _:
            pass


def _asked(raw: bytes) -> Iterator[Explanation]:
    match parse_cdb(raw):
        case PrOutCdb(action=Action() as action, type=kind):
            yield Explanation("meaning", asked_out(action, kind))
        case PrInCdb(action=InAction() as action):
            yield Explanation("meaning", asked_in(action))
        case _:
            pass


def _held(raw: bytes) -> Iterator[Explanation]:
    held = ReadReservation.parse(raw).reservation
    if held is None or not isinstance(held.type, ReservationType):
        return
    yield Explanation("meaning", f"{held.type.name}: {lets_in(held.type)}")
    if held.type.all_registrants and held.key:
        yield Explanation(
            "remark",
            "the standard has key 0 here, for all registered nexuses are holders; the key that "
            "this device gives does not make its nexus the only holder",
        )


def sense_explanations(sense: Sense) -> tuple[Explanation, ...]:
    """What raised a unit attention that speaks of reservations; nothing for other sense data."""
    news = attention(sense)
    if news is None:
        return ()
    met = (
        ". The command that met it was not carried out, and the nexus is told once"
        if sense.key == UNIT_ATTENTION and not sense.deferred
        else ""
    )
    return (Explanation("meaning", raised_by(news) + met),)


def _keys_in(fields: tuple[Field, ...]) -> Iterator[int]:
    for each in fields:
        values = (each.value,) if isinstance(each.value, str) else each.value
        for value in values:
            if isinstance(value, Group):
                yield from _keys_in(value.fields)
            elif each.name in _KEY_FIELDS:
                yield int(value, 16)


def _declared(
    form: Form,
    raw: bytes,
    offset: int = 0,
    *,
    without: Collection[str] = (),
    writers: Mapping[str, Callable[[int], str]] | None = None,
) -> list[Field]:
    """The fields of the form that lies at offset in raw, but for obsolete ones and without."""
    values = form.parse(raw, offset)
    fields: list[Field] = []
    for declared, value in zip(form.declared, values, strict=True):
        at, size = offset + declared.offset, declared.size
        if declared.name in without or declared.name.startswith("obsolete_"):
            continue
        if not declared.bits:
            text = _text(declared.name, value, writers)
            fields.append(Field(_words(declared.name), text, at, size))
        fields += [
            Field(
                _words(bits.name), _text(bits.name, bits.of(value), writers), at, size, bits.mask
            )
            for bits in declared.bits
            if bits.name not in without
        ]
    return fields


def _words(name: str) -> str:
    """A declared name as the standard writes it; those that have underscores there keep them."""
    return name if name in _WITH_UNDERSCORE else name.replace("_", " ")


_WITH_UNDERSCORE: Final = {
    bits.name
    for form in (
        forms.BASIC_PARAMETER_LIST,
        forms.REPORT_CAPABILITIES,
        forms.FULL_STATUS_DESCRIPTOR,
    )
    for declared in form.declared
    for bits in declared.bits
    if bits.name != "allow_commands"
}


def _text(
    name: str, value: int | bytes, writers: Mapping[str, Callable[[int], str]] | None
) -> str:
    """A field's value as people read it."""
    if isinstance(value, bytes):
        return value.hex(" ")
    writer = (_WRITERS if writers is None else writers).get(name)
    return str(value) if writer is None else writer(value)


def _key(key: int) -> str:
    return f"0x{key:016x}"


def _byte(value: int) -> str:
    return f"{value:#04x}"


def _scope(scope: int) -> str:
    return "LU" if scope == SCOPE_LU else f"reserved {scope:#x}"


def _type(code: int) -> str:
    if code == 0:
        return "0 (none)"
    kind = reservation_type(code)
    return kind.text if isinstance(kind, ReservedCode) else f"{code} ({kind.title})"


def _association(code: int) -> str:
    return Association(code).name.replace("_", " ").lower()


def _designator_type(code: int) -> str:
    try:
        return Kind(code).name.replace("_", " ").lower()
    except ValueError:
        return f"reserved {code:#x}"


_WRITERS: Final[dict[str, Callable[[int], str]]] = {
    "association": _association,
    "control": _byte,
    "designator_type": _designator_type,
    "operation_code": _byte,
    "page_code": _byte,
    "reservation_key": _key,
    "response_code": _byte,
    "scope": _scope,
    "service_action_reservation_key": _key,
    "type": _type,
}
"""How a field's number is written where it is not written in decimal."""


def _cdb(raw: bytes) -> tuple[str, list[Field]]:
    cdb = parse_cdb(raw)
    form = forms.CDBS.get(raw[0])
    actions = in_action if isinstance(cdb, PrInCdb) else out_action
    writers = {**_WRITERS, "service_action": lambda code: _action(actions(code))}
    fields = [] if form is None else _declared(form, raw, writers=writers)[1:]
    match cdb:
        case PrOutCdb():
            return "PERSISTENT RESERVE OUT", fields
        case PrInCdb():
            return "PERSISTENT RESERVE IN", fields
        case LegacyCdb():
            return f"{'RELEASE' if cdb.release else 'RESERVE'}({cdb.length})", fields
        case OtherCdb():
            command = medium_command(raw)
            if command.lba is not None:
                fields.append(Field("logical block address", str(command.lba)))
            if form is None:
                fields.append(Field("bytes", cdb.raw.hex(" "), 0, len(raw)))
            return command.name, fields
    assert_never(cdb)


def _action(action: Action | InAction | ReservedCode) -> str:
    match action:
        case Action():
            return action.value
        case InAction():
            return action.title
        case ReservedCode():
            return action.text
    assert_never(action)


def _out(raw: bytes) -> list[Field]:
    value = BasicList.parse(raw)
    form, behind = forms.BASIC_PARAMETER_LIST, forms.SPEC_I_PT_LIST
    fields = _declared(form, raw)
    if value.spec_i_pt:
        if len(raw) >= form.size + behind.size:
            fields += _declared(behind, raw, form.size)
        fields.append(Field("transportids", _ports(raw)))
    return fields + _problem(value.problem)


def _ports(raw: bytes) -> tuple[Group, ...]:
    found: list[Group] = []
    try:
        for offset, end, port in transport_ids(raw):
            found.append(Group((Field("transportid", port.text, offset, end - offset),)))
    except MalformedError:
        pass  # the parameter list's problem tells it
    return tuple(found)


def _out_move(raw: bytes) -> list[Field]:
    value = MoveList.parse(raw)
    form, port = forms.REGISTER_AND_MOVE_LIST, value.transport_id
    text = "unreadable" if port is None else port.text
    return [
        *_declared(form, raw),
        Field("transportid", text, form.size, len(raw) - form.size),
        *_problem(value.problem),
    ]


def _keys(raw: bytes) -> list[Field]:
    reply = ReadKeys.parse(raw)
    form = forms.READ_KEYS
    _believable(form, reply.additional_length, raw)
    keys = tuple(_key(key) for key in reply.keys)
    return [
        *_declared(form, raw),
        Field("keys", keys, form.size, 8 * len(keys)),
        *_truncated(reply.truncated),
    ]


def _reservation(raw: bytes) -> list[Field]:
    form = forms.READ_RESERVATION
    header = _declared(form, raw)
    held = ReadReservation.parse(raw).reservation
    _believable(form, 0 if held is None else forms.RESERVATION.size, raw)
    if held is None:
        return [*header, Field("reservation", "none")]
    return [*header, *_declared(forms.RESERVATION, raw, forms.READ_RESERVATION.size)]


def _capabilities(raw: bytes) -> list[Field]:
    ReportCapabilities.parse(raw)
    return _declared(forms.REPORT_CAPABILITIES, raw)


def _full_status(raw: bytes) -> list[Field]:
    reply = ReadFullStatus.parse(raw)
    _believable(forms.READ_FULL_STATUS, reply.additional_length, raw)
    registrations = tuple(
        _registration(raw, offset, end, each) for offset, end, each in full_status_descriptors(raw)
    )
    return [
        *_declared(forms.READ_FULL_STATUS, raw),
        Field("registrations", registrations),
        *_truncated(reply.truncated),
    ]


def _registration(raw: bytes, offset: int, end: int, each: FullStatusDescriptor) -> Group:
    form = forms.FULL_STATUS_DESCRIPTOR
    # The standard leaves SCOPE and TYPE undefined where the nexus does not hold.
    fields = _declared(form, raw, offset, without=() if each.holder else ("scope_type",))
    at = offset + form.size
    return Group((*fields, Field("transportid", each.transport_id.text, at, end - at)))


def _sense(raw: bytes) -> list[Field]:
    sense = Sense.parse(raw)
    news = attention(sense)
    form = forms.FIXED_SENSE if sense.response_code < DESCRIPTOR else forms.DESCRIPTOR_SENSE
    places = {each.name: each for each in _declared(form, raw.ljust(form.size, b"\0"))}
    fields = [
        places["response code"],
        places["sense key"],
        Field("sense", sense.text),
        Field("deferred", "1" if sense.deferred else "0"),
    ]
    if news is not None:
        fields.append(Field("reservation news", news.name.replace("_", " ").lower()))
    return fields


def _vpd83(raw: bytes) -> list[Field]:
    page = IdentificationPage.parse(raw)
    designators = tuple(
        _designator(raw, offset, end, each) for offset, end, each in designation_descriptors(raw)
    )
    return [
        Field("logical unit name", lu_name_partial(raw) or "none"),
        Field("designators", designators),
        *_problem(page.problem),
        *_truncated(page.truncated),
    ]


def _designator(raw: bytes, offset: int, end: int, each: Designator) -> Group:
    form = forms.DESIGNATION_DESCRIPTOR
    fields = _declared(form, raw, offset, without=("protocol_identifier", "code_set", "piv"))
    at = offset + form.size
    return Group((*fields, Field("designator", each.text or each.value.hex(), at, end - at)))


def _problem(problem: str) -> list[Field]:
    return [Field("problem", problem)] if problem else []


def _truncated(truncated: bool) -> list[Field]:
    return [Field(_TRUNCATED, "more exists than arrived")] if truncated else []


def _believable(form: Form, additional_length: int, raw: bytes) -> None:
    """MalformedError where the bytes cannot be the reply's.

    No reply has such a length; or more follows than the length says, and not as an empty buffer.
    """
    size = form.size + additional_length
    if size > _LONGEST_REPLY:
        problem = f"ADDITIONAL LENGTH {additional_length} is more than any reply has"
    elif any(raw[size:]):
        problem = f"ADDITIONAL LENGTH is {additional_length}, {len(raw) - form.size} bytes follow"
    else:
        return
    raise MalformedError(
        form.what,
        problem,
        hint="an offset column in front of the bytes is no part of the reply, "
        "and the reply's first 8 bytes are: --no-header if they are not there",
    )


def _lines(fields: tuple[Field, ...], indent: str) -> list[str]:
    lines = []
    for each in fields:
        if isinstance(each.value, str):
            lines.append(f"{indent}{each.name}: {each.value}")
            continue
        lines.append(f"{indent}{each.name}:" + ("" if each.value else " none"))
        for part in each.value:
            if isinstance(part, str):
                lines.append(f"{indent}  {part}")
            else:
                first, *rest = _lines(part.fields, indent + "    ")
                lines += [f"{indent}  - {first.lstrip()}", *rest]
    return lines
