"""The four PR IN commands, sent to a device, as one prtrace.read/1 object."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from prtrace.errors import ConflictError, DeviceError, MalformedError
from prtrace.linux.sgio import Reply as Answer
from prtrace.linux.sgio import SgDevice
from prtrace.model import Outcome, ReservationType
from prtrace.scsi.cdb import PrInCdb
from prtrace.scsi.codes import InAction, ReservedCode
from prtrace.scsi.reply import (
    ReadFullStatus,
    ReadKeys,
    ReadReservation,
    Reply,
    ReportCapabilities,
    parse_reply,
)
from prtrace.scsi.sense import ILLEGAL_REQUEST, Sense
from prtrace.state.event import key_text

SCHEMA: Final = "prtrace.read/1"

_SIZE: Final = 8128
_LARGEST: Final = 65_472
"""Allocation lengths: nearly every reply fits the first; the field has 16 bits."""

_ATTENTIONS: Final = 4
"""Unit attentions to be collected on the way; a device that has more is in trouble."""

_OPTIONAL: Final = (InAction.READ_FULL_STATUS, InAction.REPORT_CAPABILITIES)


@dataclass(slots=True)
class Inquiry:
    """Asks one device; attentions and notes tell what happened on the way."""

    device: SgDevice
    timeout_ms: int
    attentions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    def run(self) -> dict[str, Any]:
        """Send everything, and once more where somebody changed something meanwhile.

        Raises ConflictError where the device refuses even reading, DeviceError, MalformedError.
        """
        replies = self._ask()
        if len(_generations(replies)) > 1:
            self.notes.append("the reservation state changed while it was read: read again")
            replies = self._ask()
        generations = _generations(replies)
        if len(generations) > 1:
            self.doubts.append("the state changes faster than it can be read")
        keys, held = replies[InAction.READ_KEYS], replies[InAction.READ_RESERVATION]
        status = replies.get(InAction.READ_FULL_STATUS)
        capabilities = replies.get(InAction.REPORT_CAPABILITIES)
        return {
            "schema": SCHEMA,
            "device": self.device.path,
            "generation": max(generations),
            "keys": _keys(keys),
            "reservation": _reservation(held),
            "registrations": None if status is None else _registrations(status),
            "capabilities": None if capabilities is None else _capabilities(capabilities),
            "attentions": self.attentions,
            "notes": self.notes,
            "doubt": self.doubts,
        }

    def _ask(self) -> dict[InAction, Reply]:
        self.doubts.clear()
        found = {}
        for action in InAction:
            reply = self._one(action)
            if reply is not None:
                found[action] = reply
        return found

    def _one(self, action: InAction) -> Reply | None:
        size = _SIZE
        while True:
            answer = self._send(action, size)
            if action in _OPTIONAL and _unsupported(answer):
                note = f"the device does not know {action.title}"
                if note not in self.notes:
                    self.notes.append(note)
                return None
            reply = parse_reply(action, self._good(action, answer))
            if not _cut(reply, size):
                return reply
            if size == _LARGEST:
                self.doubts.append(f"{action.title}: the reply is longer than {size} bytes")
                return reply
            size = _LARGEST

    def _send(self, action: InAction, size: int) -> Answer:
        cdb = PrInCdb(action, size).build()
        for _ in range(_ATTENTIONS):
            answer = self.device.pr_in(cdb, size, self.timeout_ms)
            if not answer.attention:
                return answer
            self.attentions.append(_sense(answer))
        raise DeviceError(
            f"{self.device.path}: unit attentions without end ({'; '.join(self.attentions)})"
        )

    def _good(self, action: InAction, answer: Answer) -> bytes:
        if answer.outcome is Outcome.CONFLICT:
            raise ConflictError(
                f"{self.device.path}: RESERVATION CONFLICT for {action.title}",
                hint="another nexus has an SPC-2 RESERVE (6 or 10) active, which shuts out even "
                "PERSISTENT RESERVE IN; it ends with RELEASE or a reset",
            )
        return answer.expect_good(f"{self.device.path}: {action.title}")


def _cut(reply: Reply, size: int) -> bool:
    match reply:
        case ReadKeys() | ReadFullStatus():
            return reply.may_be_cut(size)
        case ReadReservation() | ReportCapabilities():
            return False


def _unsupported(answer: Answer) -> bool:
    if answer.outcome is not Outcome.UNKNOWN or answer.transport_fault:
        return False
    try:
        return Sense.parse(answer.sense).key == ILLEGAL_REQUEST
    except MalformedError:
        return False


def _sense(answer: Answer) -> str:
    try:
        return Sense.parse(answer.sense).text
    except MalformedError as error:
        return str(error)


def _generations(replies: dict[InAction, Reply]) -> set[int]:
    return {
        reply.generation for reply in replies.values() if not isinstance(reply, ReportCapabilities)
    }


def _keys(reply: Reply) -> list[str | None]:
    return [key_text(key) for key in reply.keys] if isinstance(reply, ReadKeys) else []


def _type(kind: ReservationType | ReservedCode | None) -> dict[str, Any]:
    if kind is None:
        return {"type": None, "type_code": None}
    if isinstance(kind, ReservedCode):
        return {"type": None, "type_code": kind.code}
    return {"type": kind.name, "type_code": int(kind)}


def _reservation(reply: Reply) -> dict[str, Any] | None:
    held = reply.reservation if isinstance(reply, ReadReservation) else None
    if held is None:
        return None
    return {**_type(held.type), "scope": held.scope, "key": key_text(held.key)}


def _registrations(reply: Reply) -> list[dict[str, Any]]:
    descriptors = reply.descriptors if isinstance(reply, ReadFullStatus) else ()
    return [
        {
            "initiator_port": each.transport_id.text,
            "relative_target_port": None if each.all_tg_pt else each.relative_target_port,
            "all_target_ports": each.all_tg_pt,
            "key": key_text(each.key),
            "holder": each.holder,
            **_type(each.type),
        }
        for each in descriptors
    ]


def _capabilities(reply: Reply) -> dict[str, Any]:
    if not isinstance(reply, ReportCapabilities):
        return {}
    return {
        "replace_lost_reservation": reply.rlr_c,
        "compatible_reservation_handling": reply.crh,
        "specify_initiator_ports": reply.sip_c,
        "all_target_ports": reply.atp_c,
        "persist_through_power_loss": {"capable": reply.ptpl_c, "active": reply.ptpl_a},
        "allow_commands": reply.allow_commands,
        "types": [kind.name for kind in sorted(reply.types)] if reply.tmv else None,
    }
