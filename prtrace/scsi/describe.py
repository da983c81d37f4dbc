"""A CDB, parameter list, reply, sense data or VPD page 83h as named fields, for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from prtrace.errors import UsageError
from prtrace.model import Action, ReservationType
from prtrace.scsi.cdb import LegacyCdb, OtherCdb, PrInCdb, PrOutCdb, parse_cdb
from prtrace.scsi.codes import SCOPE_LU, InAction, ReservedCode
from prtrace.scsi.designator import Designator, IdentificationPage, Kind, lu_name_partial
from prtrace.scsi.parameter import BasicList, MoveList
from prtrace.scsi.recognise import CHOICES, Form, recognise
from prtrace.scsi.reply import (
    FullStatusDescriptor,
    ReadFullStatus,
    ReadKeys,
    ReadReservation,
    ReportCapabilities,
)
from prtrace.scsi.sense import Sense, attention


@dataclass(frozen=True, slots=True)
class Group:
    """Fields that belong together."""

    fields: tuple[Field, ...]

    def as_json(self) -> dict[str, object]:
        """The fields as an object; blanks in names become underscores."""
        return {each.name.replace(" ", "_"): _plain(each.value) for each in self.fields}


Value = str | Group | tuple[str, ...] | tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Field:
    """A name as the standard has it, in lower case, and its value as text."""

    name: str
    value: Value


@dataclass(frozen=True, slots=True)
class Described:
    """What bytes mean.  kind is one of recognise.CHOICES; title says it in words."""

    kind: str
    title: str
    fields: tuple[Field, ...]

    def as_json(self) -> dict[str, object]:
        """{"kind", "title", "fields"}, ready for json.dumps."""
        return {"kind": self.kind, "title": self.title, "fields": Group(self.fields).as_json()}

    def lines(self) -> list[str]:
        """The title, then a line for each field; what belongs to a field is indented."""
        return [self.title, *_lines(self.fields, "  ")]


def describe(raw: bytes, kind: str | None = None) -> Described:
    """Decode raw as kind, one of recognise.CHOICES, or as what it is beyond doubt.

    UsageError when kind is unknown or None and raw could be several things; MalformedError
    when raw is not what kind says.
    """
    if kind is None:
        form = recognise(raw)
    elif kind in CHOICES:
        form = Form(kind)
    else:
        raise UsageError(f"{kind!r} is no form prtrace knows", hint=f"one of {', '.join(CHOICES)}")
    title, fields = _describe(form, raw)
    return Described(form.value, title, tuple(fields))


def _describe(form: Form, raw: bytes) -> tuple[str, list[Field]]:
    match form:
        case Form.CDB:
            return _cdb(raw)
        case Form.OUT:
            return "PERSISTENT RESERVE OUT parameter list", _out(BasicList.parse(raw))
        case Form.OUT_MOVE:
            return "REGISTER AND MOVE parameter list", _out_move(MoveList.parse(raw))
        case Form.KEYS:
            return "READ KEYS reply", _keys(ReadKeys.parse(raw))
        case Form.RESERVATION:
            return "READ RESERVATION reply", _reservation(ReadReservation.parse(raw))
        case Form.CAPABILITIES:
            return "REPORT CAPABILITIES reply", _capabilities(ReportCapabilities.parse(raw))
        case Form.FULL_STATUS:
            return "READ FULL STATUS reply", _full_status(ReadFullStatus.parse(raw))
        case Form.SENSE:
            return "sense data", _sense(Sense.parse(raw))
        case Form.VPD83:
            return "VPD page 0x83, Device Identification", _vpd83(raw)
    assert_never(form)


def _cdb(raw: bytes) -> tuple[str, list[Field]]:
    cdb = parse_cdb(raw)
    match cdb:
        case PrOutCdb():
            return "PERSISTENT RESERVE OUT", [
                Field("service action", _action(cdb.action)),
                Field("scope", _scope(cdb.scope)),
                Field("type", _type(cdb.type)),
                Field("parameter list length", str(cdb.parameter_length)),
                Field("control", f"{cdb.control:#04x}"),
            ]
        case PrInCdb():
            return "PERSISTENT RESERVE IN", [
                Field("service action", _action(cdb.action)),
                Field("allocation length", str(cdb.allocation_length)),
                Field("control", f"{cdb.control:#04x}"),
            ]
        case LegacyCdb():
            return f"{'RELEASE' if cdb.release else 'RESERVE'}({cdb.length})", [
                Field("third party", _flag(cdb.third_party)),
                Field("third party device id", str(cdb.third_party_id)),
                Field("longid", _flag(cdb.long_id)),
                Field("extent", _flag(cdb.extent)),
                Field("reservation identification", str(cdb.reservation_id)),
                Field("parameter list length", str(cdb.parameter_length)),
                Field("control", f"{cdb.control:#04x}"),
            ]
        case OtherCdb():
            return f"CDB with operation code {cdb.opcode:#04x}", [Field("bytes", cdb.raw.hex(" "))]
    assert_never(cdb)


def _out(value: BasicList) -> list[Field]:
    fields = [
        Field("reservation key", _key(value.key)),
        Field("service action reservation key", _key(value.sa_key)),
        Field("spec_i_pt", _flag(value.spec_i_pt)),
        Field("all_tg_pt", _flag(value.all_tg_pt)),
        Field("aptpl", _flag(value.aptpl)),
    ]
    if value.spec_i_pt:
        fields.append(Field("transportids", tuple(port.text for port in value.transport_ids)))
    return fields + _problem(value.problem)


def _out_move(value: MoveList) -> list[Field]:
    port = value.transport_id
    return [
        Field("reservation key", _key(value.key)),
        Field("service action reservation key", _key(value.sa_key)),
        Field("unreg", _flag(value.unreg)),
        Field("aptpl", _flag(value.aptpl)),
        Field("relative target port", str(value.relative_target_port)),
        Field("transportid", "unreadable" if port is None else port.text),
        *_problem(value.problem),
    ]


def _keys(reply: ReadKeys) -> list[Field]:
    return [
        Field("generation", str(reply.generation)),
        Field("additional length", str(reply.additional_length)),
        Field("keys", tuple(_key(key) for key in reply.keys)),
        *_truncated(reply.truncated),
    ]


def _reservation(reply: ReadReservation) -> list[Field]:
    generation = Field("generation", str(reply.generation))
    held = reply.reservation
    if held is None:
        return [generation, Field("reservation", "none")]
    return [
        generation,
        Field("reservation key", _key(held.key)),
        Field("scope", _scope(held.scope)),
        Field("type", _type(held.type)),
    ]


def _capabilities(reply: ReportCapabilities) -> list[Field]:
    return [
        Field("rlr_c", _flag(reply.rlr_c)),
        Field("crh", _flag(reply.crh)),
        Field("sip_c", _flag(reply.sip_c)),
        Field("atp_c", _flag(reply.atp_c)),
        Field("ptpl_c", _flag(reply.ptpl_c)),
        Field("tmv", _flag(reply.tmv)),
        Field("allow commands", str(reply.allow_commands)),
        Field("ptpl_a", _flag(reply.ptpl_a)),
        Field("types", tuple(kind.name for kind in sorted(reply.types))),
    ]


def _full_status(reply: ReadFullStatus) -> list[Field]:
    return [
        Field("generation", str(reply.generation)),
        Field("additional length", str(reply.additional_length)),
        Field("registrations", tuple(Group(_registration(each)) for each in reply.descriptors)),
        *_truncated(reply.truncated),
    ]


def _registration(each: FullStatusDescriptor) -> tuple[Field, ...]:
    fields = [
        Field("reservation key", _key(each.key)),
        Field("transportid", each.transport_id.text),
        Field("all_tg_pt", _flag(each.all_tg_pt)),
        Field("relative target port", str(each.relative_target_port)),
        Field("r_holder", _flag(each.holder)),
    ]
    if each.holder:
        fields += [Field("scope", _scope(each.scope)), Field("type", _type(each.type))]
    return tuple(fields)


def _sense(sense: Sense) -> list[Field]:
    news = attention(sense)
    fields = [
        Field("response code", f"{sense.response_code:#04x}"),
        Field("sense", sense.text),
        Field("deferred", _flag(sense.deferred)),
    ]
    if news is not None:
        fields.append(Field("reservation news", news.name.replace("_", " ").lower()))
    return fields


def _vpd83(raw: bytes) -> list[Field]:
    page = IdentificationPage.parse(raw)
    return [
        Field("logical unit name", lu_name_partial(raw) or "none"),
        Field("designators", tuple(Group(_designator(each)) for each in page.designators)),
        *_problem(page.problem),
        *_truncated(page.truncated),
    ]


def _designator(each: Designator) -> tuple[Field, ...]:
    try:
        kind = Kind(each.kind).name.replace("_", " ").lower()
    except ValueError:
        kind = f"reserved {each.kind:#x}"
    return (
        Field("association", each.association.name.replace("_", " ").lower()),
        Field("type", kind),
        Field("designator", each.text or each.value.hex()),
    )


def _key(key: int) -> str:
    return f"0x{key:016x}"


def _flag(on: bool) -> str:
    return "1" if on else "0"


def _action(action: Action | InAction | ReservedCode) -> str:
    match action:
        case Action():
            return action.value
        case InAction():
            return action.title
        case ReservedCode():
            return action.text
    assert_never(action)


def _scope(scope: int) -> str:
    return "LU" if scope == SCOPE_LU else f"reserved {scope:#x}"


def _type(kind: ReservationType | ReservedCode | None) -> str:
    if kind is None:
        return "0 (none)"
    if isinstance(kind, ReservedCode):
        return kind.text
    return f"{kind.value} ({kind.title})"


def _problem(problem: str) -> list[Field]:
    return [Field("problem", problem)] if problem else []


def _truncated(truncated: bool) -> list[Field]:
    return [Field("truncated", "more exists than arrived")] if truncated else []


def _plain(value: Value) -> object:
    if isinstance(value, str):
        return value
    if isinstance(value, Group):
        return value.as_json()
    return [each if isinstance(each, str) else each.as_json() for each in value]


def _lines(fields: tuple[Field, ...], indent: str) -> list[str]:
    lines = []
    for each in fields:
        value = each.value
        if isinstance(value, str):
            lines.append(f"{indent}{each.name}: {value}")
            continue
        parts = value if isinstance(value, tuple) else (value,)
        lines.append(f"{indent}{each.name}:" + ("" if parts else " none"))
        for part in parts:
            if isinstance(part, str):
                lines.append(f"{indent}  {part}")
            else:
                first, *rest = _lines(part.fields, indent + "    ")
                lines += [f"{indent}  - {first.lstrip()}", *rest]
    return lines
