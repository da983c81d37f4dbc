"""The fields of a PERSISTENT RESERVE command that an event shows beside what everybody asks for.

They follow from the bytes that an event keeps, so they are read when it is shown, not stored.
"""

from __future__ import annotations

from typing import Any, Final

from prtrace.errors import MalformedError
from prtrace.model import Action
from prtrace.scsi.cdb import PrInCdb, PrOutCdb, parse_cdb
from prtrace.scsi.codes import InAction
from prtrace.scsi.parameter import BasicList, MoveList, parse_list
from prtrace.scsi.reply import ReadFullStatus, ReadKeys, ReadReservation, parse_reply

NAMES: Final = (
    "aptpl", "spec_i_pt", "all_tg_pt", "unreg", "transport_ids", "relative_target_port",
    "parameter_list_length", "generation", "keys",
)  # fmt: skip


def fields_of(cdb: bytes, data: bytes, *, good: bool) -> dict[str, Any]:
    """The fields by their names in NAMES, None for each that the command has not.

    cdb: b"" for what is no command.  data: the parameter list, or the reply.  good: whether the
    command was answered GOOD, so that data is a reply.  Bytes that cannot be read have no fields.
    """
    found: dict[str, Any] = dict.fromkeys(NAMES)
    try:
        command = parse_cdb(cdb)
        if isinstance(command, PrOutCdb):
            found["parameter_list_length"] = command.parameter_length
            if isinstance(command.action, Action):
                found |= _of_list(parse_list(data, command.action))
        elif isinstance(command, PrInCdb) and isinstance(command.action, InAction) and good:
            found |= _of_reply(parse_reply(command.action, data))
    except MalformedError:
        pass
    return found


def _of_list(sent: BasicList | MoveList) -> dict[str, Any]:
    if isinstance(sent, MoveList):
        ports = () if sent.transport_id is None else (sent.transport_id,)
        return {
            "aptpl": sent.aptpl,
            "unreg": sent.unreg,
            "relative_target_port": sent.relative_target_port,
            "transport_ids": [port.text for port in ports],
        }
    return {
        "aptpl": sent.aptpl,
        "spec_i_pt": sent.spec_i_pt,
        "all_tg_pt": sent.all_tg_pt,
        "transport_ids": [port.text for port in sent.transport_ids] if sent.spec_i_pt else None,
    }


def _of_reply(reply: object) -> dict[str, Any]:
    match reply:
        case ReadKeys():
            return {"generation": reply.generation, "keys": len(reply.keys)}
        case ReadFullStatus():
            return {"generation": reply.generation, "keys": len(reply.descriptors)}
        case ReadReservation():
            return {"generation": reply.generation}
        case _:
            return {}
