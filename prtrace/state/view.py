"""The state of logical units as the prtrace.show/1 object (pure).

What is in doubt stands in "doubt", by the name of the fact; a reader that wants certainty
looks there.  Text is as it came: escape it before it goes to a terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from prtrace.model import Access, Issuer, LocalNexus, LogicalUnit, Nexus
from prtrace.state.access import Standing, may, standing
from prtrace.state.codec import capabilities
from prtrace.state.event import key_text, path_to_json, rfc3339
from prtrace.state.unit import Doubt, Fact, LuState, Registration, Reservation

SCHEMA: Final = "prtrace.show/1"

_SCOPES: Final = {0: "LU", 2: "ELEMENT"}


def show_view(units: Iterable[dict[str, Any]], host: str) -> dict[str, Any]:
    """The prtrace.show/1 object with units as unit_view() gives them."""
    return {"schema": SCHEMA, "host": host, "units": list(units)}


def unit_view(
    state: LuState,
    unit: LogicalUnit | None,
    now_ns: int,
    alua: Mapping[Nexus, str] | None = None,
) -> dict[str, Any]:
    """One element of "units".

    alua: the asymmetric access state of paths, "" where a path has none.
    unit: the logical unit as it is here now, None where it is not here any more.  now_ns:
    nanoseconds since the epoch, the "since" of doubts that nobody dated.
    """
    paths = {} if unit is None else {path.nexus: path for path in unit.nexuses}
    return {
        "lu": state.lu,
        "target": state.target or ("" if unit is None else unit.target),
        "kind": None if unit is None else unit.kind,
        "present": unit is not None,
        "supported": state.supported,
        "as_of": None if state.as_of is None else rfc3339(state.as_of),
        "confirmed": {fact.value: _confirmation(state, fact) for fact in Fact},
        "devices": [] if unit is None else list(unit.devices),
        "nexuses": [
            {
                **path_to_json(path),
                **_access(state, path.nexus),
                "alua": (alua or {}).get(path.nexus) or None,
            }
            for path in paths.values()
        ],
        "generation": state.generation,
        "reservation": _reservation(state),
        "registrations": [_registration(each, paths) for each in state.registrations.values()],
        "aptpl": state.aptpl,
        "capabilities": None if state.capabilities is None else capabilities(state.capabilities),
        "unattributed_keys": [key_text(key) for key in state.unattributed],
        "legacy_reservation": state.legacy_holder,
        "expected_attentions": {
            nexus: [each.attention.name for each in expected]
            for nexus, expected in state.expected.items()
            if expected
        },
        "doubt": [_doubt(each) for each in (*state.doubts, *_undated(state, now_ns))],
        "unknowable": _unknowable(state),
    }


def in_doubt(view: dict[str, Any]) -> bool:
    """Whether any fact of a unit_view() is in doubt."""
    return bool(view["doubt"])


def _undated(state: LuState, now_ns: int) -> list[Doubt]:
    """What the state knows that it does not know, where no doubt says it already."""
    if not state.supported and not state.doubts:
        return []
    held = state.reservation
    unknown = held is not None and not held.type.all_registrants and held.holder is None
    found = []
    if state.generation is None and not state.doubted(Fact.GENERATION):
        found.append(Doubt(Fact.GENERATION, "never read", now_ns))
    if not state.names_nexuses:
        return found
    if unknown and not state.doubted(Fact.RESERVATION):
        found.append(Doubt(Fact.RESERVATION, "which nexus holds it is not known", now_ns))
    if state.unattributed and not state.doubted(Fact.REGISTRATIONS):
        found.append(Doubt(Fact.REGISTRATIONS, "which nexus has which key is not known", now_ns))
    return found


def _unknowable(state: LuState) -> list[dict[str, Any]]:
    """What no command can tell on this host: not in doubt, and not known either."""
    found = []
    if not state.names_nexuses and (state.unattributed or state.anchor != state.generation):
        why = "whose the keys are: the device does not know READ FULL STATUS"
        found.append({"what": Fact.REGISTRATIONS.value, "reason": why})
    held = state.reservation
    if held is None or held.type.all_registrants:
        return found
    holder = None if held.holder is None else state.registrations.get(held.holder)
    if held.holder is None and not state.names_nexuses:
        why = "which nexus holds it: the device does not know READ FULL STATUS"
        found.append({"what": Fact.RESERVATION.value, "reason": why})
    elif holder is not None and holder.maybe_local:
        why = f"whether {held.holder} is a nexus of this host: a port name is not known"
        found.append({"what": Fact.RESERVATION.value, "reason": why})
    return found


def _access(state: LuState, nexus: Nexus) -> dict[str, Any]:
    """Whether a path is registered, and whether it may read and write; null where not known."""
    place = standing(state, nexus)
    own = state.registrations.get(nexus)
    read, write = (may(state, nexus, access) for access in (Access.READ, Access.WRITE))
    return {
        "registered": None if place is Standing.UNKNOWN else own is not None,
        "key": None if place is Standing.UNKNOWN or own is None else key_text(own.key),
        "may_read": read.allowed,
        "may_write": write.allowed,
        "why_read": read.why,
        "why_write": write.why,
    }


def _doubt(doubt: Doubt) -> dict[str, Any]:
    return {"what": doubt.what.value, "reason": doubt.reason, "since": rfc3339(doubt.since)}


def _reservation(state: LuState) -> dict[str, Any] | None:
    held = state.reservation
    if held is None:
        return None
    return {
        "type": held.type.name,
        "type_code": int(held.type),
        "scope": _SCOPES.get(held.scope, str(held.scope)),
        "key": key_text(held.key),
        "holders": list(state.holders),
        "source": held.source.value,
        "at": rfc3339(held.at),
        "by": _by(held),
    }


def _registration(each: Registration, paths: dict[Nexus, LocalNexus]) -> dict[str, Any]:
    path = paths.get(each.nexus)
    port = each.initiator_port
    relative = each.relative_target_port
    if path is not None:
        port = path.initiator_port if port is None else port
        relative = path.relative_target_port if relative is None else relative
    return {
        "nexus": each.nexus,
        "local": each.local,
        "key": key_text(each.key),
        "device": (path.device or None) if path is not None else None,
        "initiator_port": port,
        "relative_target_port": relative,
        "source": each.source.value,
        "at": rfc3339(each.at),
        "by": _by(each),
        "maybe_local": each.maybe_local,
    }


def _by(fact: Registration | Reservation) -> dict[str, Any] | None:
    issuer: Issuer | None = fact.by
    if issuer is None:
        return None
    return {
        "pid": issuer.pid,
        "comm": issuer.comm,
        "process_start_ns": issuer.start_ns or None,
        "guest": issuer.guest or None,
        "uuid": issuer.uuid or None,
        "client_pid": issuer.client_pid or None,
        "client_comm": issuer.client_comm or None,
        "path": issuer.path.value,
        "requested": issuer.requested or None,
    }


def _confirmation(state: LuState, fact: Fact) -> dict[str, Any] | None:
    each = state.confirmed.get(fact)
    if each is None:
        return None
    return {"at": rfc3339(each.at), "by": each.by, "nexus": each.nexus}
