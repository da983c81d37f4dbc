"""LuState as JSON and back, exactly: for the store, not for people (prtrace.show is for them).

Every field is written, so that a record says itself what it holds.  FORMAT is raised when a
reader of the old form would misread the new one; from_json knows only its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container
from dataclasses import replace
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Any, TypeVar

from prtrace.errors import MalformedError
from prtrace.model import Attention, Capabilities, IssuePath, Issuer, ReservationType
from prtrace.state.binding import isid_of
from prtrace.state.event import path_from_json, path_to_json
from prtrace.state.quirks import profile_of
from prtrace.state.unit import (
    Census,
    Confirmation,
    Doubt,
    Expected,
    Fact,
    LuState,
    Path,
    Registration,
    Reservation,
    Settled,
    Source,
    UnderWay,
)

FORMAT = 2

_TEXTS = 8192
"""Texts of settled commands kept: those of 256 busy units, 2 MiB."""

Item = TypeVar("Item")


def to_json(state: LuState) -> dict[str, Any]:
    """Return state as values that json.dumps takes; from_json gives an equal state back."""
    return {**_but_recent(state), "recent": [_settled(each) for each in state.recent]}


def to_text(state: LuState) -> str:
    """Return to_json() as text.

    Most of it is commands that settled earlier; their text is kept from the last time.
    """
    recent = ", ".join(map(_settled_text, state.recent))
    return f'{json.dumps(_but_recent(state))[:-1]}, "recent": [{recent}]}}'


def _but_recent(state: LuState) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "lu": state.lu,
        "target": state.target,
        "generation": state.generation,
        "spread": state.spread,
        "registrations": [_registration(each) for each in state.registrations.values()],
        "reservation": None if state.reservation is None else _reservation(state.reservation),
        "unattributed": list(state.unattributed),
        "legacy_holder": state.legacy_holder,
        "doubts": [
            {"what": doubt.what.value, "reason": doubt.reason, "since": doubt.since}
            for doubt in state.doubts
        ],
        "expected": {
            nexus: [[each.attention.name, each.since_ns] for each in expected]
            for nexus, expected in state.expected.items()
        },
        "settled_ns": state.settled_ns,
        "settled_by": state.settled_by,
        "floor_ns": state.floor_ns,
        "ordered": state.ordered,
        "anchor": state.anchor,
        "census": None
        if state.census is None
        else [
            state.census.generation,
            list(state.census.keys),
            state.census.done_ns,
            state.census.pid,
            _written_confirmation(state.census.confirmation),
        ],
        "seq": state.seq,
        "supported": state.supported,
        "aptpl": state.aptpl,
        "capabilities": None if state.capabilities is None else capabilities(state.capabilities),
        "names_nexuses": state.names_nexuses,
        "under_way": [_under_way(each) for each in state.under_way],
        # Beside them, so that programs of before there was this can read the others.
        "under_way_lives": [each.life for each in state.under_way],
        "gone_since": state.gone_since,
        "legacy_doubt": state.legacy_doubt,
        "surplus": state.surplus,
        "paths": [
            {**path_to_json(path.local), "since_ns": path.since_ns, "renewed": path.renewed}
            for path in state.paths.values()
        ],
        "confirmed": {
            fact.value: [each.at, each.by, each.nexus] for fact, each in state.confirmed.items()
        },
        # Beside them, so that programs of before there was this can read the others.
        "confirmed_ns": {fact.value: each.start_ns for fact, each in state.confirmed.items()},
    }


def from_json(document: Any) -> LuState:
    """Return the state that to_json wrote.

    Raises MalformedError where document is anything else: a missing field, a value of the
    wrong kind, another format.
    """
    try:
        return _state(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise MalformedError("stored state of a logical unit", problem) from error


def _state(document: Any) -> LuState:
    fields = _typed(document, dict)
    if fields["format"] == 1:
        # Of before an expectation had a beginning and PRGENERATION a spread.
        doubted = any(each["what"] == Fact.GENERATION.value for each in fields["doubts"])
        old: dict[str, Any] = {"spread": None if doubted else 0, "census": None, "expected": {}}
        fields = {**fields, "format": FORMAT, **old}
    if fields["format"] != FORMAT:
        raise ValueError(f"format {fields['format']!r} instead of {FORMAT}")
    registrations = _list(fields["registrations"], _read_registration)
    by_nexus = {each.nexus: each for each in registrations}
    if len(by_nexus) != len(registrations):
        raise ValueError("a nexus is registered twice")
    reservation = fields["reservation"]
    starts = {
        Fact(fact).value: _int(ns)
        for fact, ns in _typed(fields.get("confirmed_ns", {}), dict).items()
    }
    # Programs of before there was this wrote none.
    if "confirmed_ns" in fields and starts.keys() != fields.get("confirmed", {}).keys():
        raise ValueError("not one time for each confirmation")
    state = LuState(
        lu=_typed(fields["lu"], str),
        target=_typed(fields["target"], str),
        generation=_optional(fields["generation"], int),
        spread=_optional(fields["spread"], int),
        registrations=MappingProxyType(by_nexus),
        reservation=None if reservation is None else _read_reservation(reservation),
        unattributed=_list(fields["unattributed"], _int),
        legacy_holder=_optional(fields["legacy_holder"], str),
        doubts=_list(fields["doubts"], _read_doubt),
        expected=MappingProxyType(
            {
                _typed(nexus, str): _list(names, _read_expected)
                for nexus, names in _typed(fields["expected"], dict).items()
            }
        ),
        settled_ns=_int(fields["settled_ns"]),
        settled_by=_typed(fields["settled_by"], str),
        recent=_list(fields["recent"], _read_settled),
        floor_ns=_int(fields["floor_ns"]),
        ordered=_typed(fields["ordered"], bool),
        anchor=_optional(fields["anchor"], int),
        census=_census(fields["census"]),
        seq=_int(fields["seq"]),
        supported=_typed(fields["supported"], bool),
        # Documents from before there were such things have none.
        aptpl=_optional(fields.get("aptpl"), bool),
        capabilities=_read_capabilities(fields.get("capabilities")),
        names_nexuses=_typed(fields.get("names_nexuses", True), bool),
        under_way=_all_under_way(fields),
        gone_since=_optional(fields.get("gone_since"), int),
        legacy_doubt=_typed(fields.get("legacy_doubt", ""), str),
        surplus=_optional(fields.get("surplus"), int),
        paths=MappingProxyType(_paths(fields)),
        confirmed=MappingProxyType(
            {
                Fact(fact): _read_confirmation(each, starts.get(fact, 0))
                for fact, each in _typed(fields.get("confirmed", {}), dict).items()
            }
        ),
    )
    unseen = {each["nexus"] for each in fields["registrations"] if "overlooked" not in each}
    return _overlooked(state, unseen) if unseen else state


def _overlooked(state: LuState, unseen: Container[str]) -> LuState:
    """The state, where nobody looked whether the target may overlook these registrations.

    unseen: their nexuses, as programs of before there was this have stored them.
    """
    if profile_of(state.target).mixes_sessions is False:
        return state

    def may_be(each: Registration) -> bool:
        path = state.paths.get(each.nexus)
        port = each.initiator_port if path is None else path.local.initiator_port
        return each.nexus in unseen and bool(isid_of(port))

    marked = {
        nexus: replace(each, overlooked=True) if may_be(each) else each
        for nexus, each in state.registrations.items()
    }
    return replace(state, registrations=MappingProxyType(marked))


def capabilities(each: Capabilities) -> dict[str, Any]:
    """Capabilities as stored states and `show --json` write them."""
    return {
        "rlr_c": each.rlr_c,
        "crh": each.crh,
        "sip_c": each.sip_c,
        "atp_c": each.atp_c,
        "ptpl_c": each.ptpl_c,
        "ptpl_a": each.ptpl_a,
        "allow_commands": each.allow_commands,
        "types": None if each.types is None else [kind.name for kind in each.types],
    }


def _read_capabilities(value: Any) -> Capabilities | None:
    if value is None:
        return None
    fields = dict(_typed(value, dict))
    types = fields.pop("types")
    named = None if types is None else _list(types, lambda name: ReservationType[name])
    allow = _int(fields.pop("allow_commands"))
    flags = {str(name): _typed(bit, bool) for name, bit in fields.items()}
    return Capabilities(**flags, allow_commands=allow, types=named)


def _under_way(each: UnderWay) -> list[Any]:
    facts = sorted(fact.value for fact in each.facts)
    return [each.nexus, each.start_ns, each.reason, facts, each.unwatched]


def _all_under_way(fields: dict[str, Any]) -> tuple[UnderWay, ...]:
    found = _list(fields.get("under_way", []), _read_under_way)
    lives = _list(fields.get("under_way_lives", [0] * len(found)), _int)
    return tuple(each._replace(life=life) for each, life in zip(found, lives, strict=True))


def _read_under_way(value: Any) -> UnderWay:
    # Stores of before have no facts: then it is all of them.
    nexus, start_ns, reason, *more = _typed(value, list)
    known = UnderWay(_typed(nexus, str), _int(start_ns), _typed(reason, str))
    if not more:
        return known
    facts, unwatched = more
    return known._replace(
        facts=frozenset(map(Fact, _typed(facts, list))), unwatched=_typed(unwatched, bool)
    )


def _paths(fields: dict[str, Any]) -> dict[str, Path]:
    found = {}
    for each in _typed(fields.get("paths", []), list):
        value = _typed(each, dict)
        local = path_from_json(_typed(fields["lu"], str), value)
        found[local.nexus] = Path(
            local, _int(value["since_ns"]), renewed=_typed(value["renewed"], bool)
        )
    return found


def _written_confirmation(each: Confirmation | None) -> list[Any] | None:
    return None if each is None else [each.at, each.by, each.nexus, each.start_ns]


def _read_confirmation(value: Any, start_ns: int) -> Confirmation:
    at, by, nexus = _typed(value, list)
    return Confirmation(_int(at), _typed(by, str), _typed(nexus, str), start_ns)


def _settled(each: Settled) -> list[Any]:
    # Written with every batch that is stored, so as a list: shorter by a third.
    return [each.nexus, each.done_ns, _names(each.touched), each.commutes]


@lru_cache(_TEXTS)
def _settled_text(each: Settled) -> str:
    return json.dumps(_settled(each))


@cache
def _names(facts: frozenset[Fact]) -> list[str]:
    return sorted(fact.value for fact in facts)


def _census(value: Any) -> Census | None:
    if value is None:
        return None
    # Of an agent before 1.0.0rc2 without the last one.
    generation, keys, done_ns, pid, *confirmation = _typed(value, list)
    told = None
    if confirmation and confirmation != [None]:
        at, by, nexus, start_ns = _typed(confirmation[0], list)
        told = _read_confirmation([at, by, nexus], _int(start_ns))
    return Census(_int(generation), _list(keys, _int), _int(done_ns), _int(pid), told)


def _read_expected(value: Any) -> Expected:
    attention, since_ns = _typed(value, list)
    return Expected(Attention[_typed(attention, str)], _int(since_ns))


def _registration(each: Registration) -> dict[str, Any]:
    return {
        "nexus": each.nexus,
        "key": each.key,
        "local": each.local,
        "source": each.source.value,
        "at": each.at,
        "by": _issuer(each.by),
        "initiator_port": each.initiator_port,
        "relative_target_port": each.relative_target_port,
        "maybe_local": each.maybe_local,
        "all_ports": each.all_ports,
        "overlooked": each.overlooked,
    }


def _read_registration(value: Any) -> Registration:
    fields = _typed(value, dict)
    return Registration(
        nexus=_typed(fields["nexus"], str),
        key=_int(fields["key"]),
        local=_typed(fields["local"], bool),
        source=Source(fields["source"]),
        at=_int(fields["at"]),
        by=_read_issuer(fields["by"]),
        initiator_port=_optional(fields["initiator_port"], str),
        relative_target_port=_optional(fields["relative_target_port"], int),
        maybe_local=_typed(fields["maybe_local"], bool),
        all_ports=_typed(fields.get("all_ports", False), bool),
        overlooked=_typed(fields.get("overlooked", False), bool),
    )


def _reservation(each: Reservation) -> dict[str, Any]:
    return {
        "type": int(each.type),
        "scope": each.scope,
        "holder": each.holder,
        "key": each.key,
        "source": each.source.value,
        "at": each.at,
        "by": _issuer(each.by),
        "designated": each.designated,
    }


def _read_reservation(value: Any) -> Reservation:
    fields = _typed(value, dict)
    return Reservation(
        type=ReservationType(_int(fields["type"])),
        scope=_int(fields["scope"]),
        holder=_optional(fields["holder"], str),
        key=_optional(fields["key"], int),
        source=Source(fields["source"]),
        at=_int(fields["at"]),
        by=_read_issuer(fields["by"]),
        designated=_optional(fields["designated"], str),
    )


def _issuer(issuer: Issuer | None) -> dict[str, Any] | None:
    if issuer is None:
        return None
    return {
        "pid": issuer.pid,
        "comm": issuer.comm,
        "start_ns": issuer.start_ns,
        "cgroup": issuer.cgroup,
        "path": issuer.path.value,
        "requested": issuer.requested,
        "guest": issuer.guest,
        "uuid": issuer.uuid,
        "client_pid": issuer.client_pid,
        "client_comm": issuer.client_comm,
    }


def _read_issuer(value: Any) -> Issuer | None:
    if value is None:
        return None
    fields = _typed(value, dict)
    return Issuer(
        pid=_int(fields["pid"]),
        comm=_typed(fields["comm"], str),
        start_ns=_int(fields["start_ns"]),
        cgroup=_int(fields["cgroup"]),
        path=IssuePath(fields["path"]),
        requested=_typed(fields["requested"], str),
        guest=_typed(fields["guest"], str),
        # Documents from before there were clients have none.
        uuid=_typed(fields.get("uuid", ""), str),
        client_pid=_int(fields.get("client_pid", 0)),
        client_comm=_typed(fields.get("client_comm", ""), str),
    )


def _read_doubt(value: Any) -> Doubt:
    fields = _typed(value, dict)
    return Doubt(Fact(fields["what"]), _typed(fields["reason"], str), _int(fields["since"]))


def _read_settled(value: Any) -> Settled:
    nexus, done_ns, touched, commutes = _typed(value, list)
    return Settled(
        nexus=_typed(nexus, str),
        done_ns=_int(done_ns),
        touched=frozenset(_list(touched, Fact)),
        commutes=_typed(commutes, bool),
    )


def _list(value: Any, read: Callable[[Any], Item]) -> tuple[Item, ...]:
    return tuple(read(each) for each in _typed(value, list))


def _int(value: Any) -> int:
    return _typed(value, int)


def _optional(value: Any, kind: type[Item]) -> Item | None:
    return None if value is None else _typed(value, kind)


def _typed(value: Any, kind: type[Item]) -> Item:
    # bool is an int to isinstance, but "true" in place of a number is damage.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"{value!r} is not a {kind.__name__}")
    return value
