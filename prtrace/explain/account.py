"""All that can be said of one unit, as the prtrace.explain/1 object (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from prtrace.explain.causes import incidents
from prtrace.explain.elsewhere import Elsewhere
from prtrace.explain.incident import Incident, Link
from prtrace.explain.moved import moves
from prtrace.explain.owners import owners
from prtrace.explain.ports import Ports, host_of
from prtrace.explain.remedies import remedies
from prtrace.explain.skew import apart
from prtrace.explain.timeline import Step
from prtrace.state.event import rfc3339

SCHEMA: Final = "prtrace.explain/1"


def account(
    unit: Mapping[str, Any],
    recordings: Sequence[tuple[str, Sequence[Step]]],
    *,
    ports: Sequence[Ports] = (),
    keys: Mapping[int, str] | None = None,
) -> dict[str, Any]:
    """The account of a unit.

    unit: what is known now, an element of prtrace.show/1's units.  recordings: (host, steps) of
    every recording; each is explained with what the others say.  ports: whose initiator ports
    are whose.  keys: names that somebody gave to keys.
    """
    known = [*ports, _own(unit), *_recorded_ports(recordings)]
    found: list[tuple[str, Incident]] = []
    for number, (host, steps) in enumerate(recordings):
        elsewhere = [each for place, each in enumerate(recordings) if place != number]
        others = Elsewhere(elsewhere, unit if number == 0 else None)
        found += ((host, each) for each in incidents(steps, others))
        found += ((host, each) for each in moves(steps, known))
    found.sort(key=lambda each: each[1].last, reverse=True)
    return {
        "schema": SCHEMA,
        "lu": unit["lu"],
        "target": unit["target"],
        "as_of": unit["as_of"],
        "doubt": unit["doubt"],
        "reservation": unit["reservation"],
        "registrations": [_registration(each, known, keys) for each in unit["registrations"]],
        "paths": unit["nexuses"],
        "incidents": [_incident(each, host) for host, each in found],
        "remedies": [
            {"what": each.what, "command": each.command or None, "costs": each.costs}
            for each in remedies(unit)
        ],
        "recorded": [_recorded(host, steps, recordings[0][1]) for host, steps in recordings],
    }


def _own(unit: Mapping[str, Any]) -> Ports:
    """The ports of the host that the unit was looked at from."""
    ports = (path["initiator_port"] for path in unit["nexuses"])
    return Ports("this host", frozenset(port for port in ports if port))


def _recorded_ports(recordings: Sequence[tuple[str, Sequence[Step]]]) -> Iterator[Ports]:
    """The ports that each host of a recording had while it recorded."""
    for host, steps in recordings:
        if host:
            paths = {id(step.after.paths): step.after.paths for step in steps}
            ports = {
                path.local.initiator_port for each in paths.values() for path in each.values()
            }
            yield Ports(host, frozenset(port for port in ports if port))


def _registration(
    each: Mapping[str, Any], ports: Iterable[Ports], keys: Mapping[int, str] | None
) -> dict[str, Any]:
    port = each["initiator_port"]
    return {
        **each,
        "host": str(host_of(port, ports)) if port and not each["local"] else None,
        "owners": [
            {"name": owner.name, "why": owner.why, "certain": owner.certain}
            for owner in owners(int(each["key"], 16), keys)
        ],
    }


def _incident(each: Incident, host: str) -> dict[str, Any]:
    return {
        "kind": each.kind.value,
        "host": host or None,
        "nexus": each.nexus,
        "device": each.device or None,
        "at": rfc3339(each.at),
        "last": rfc3339(each.last),
        "count": each.count,
        "title": each.title,
        "harmless": each.harmless or None,
        "chain": [_link(link, host) for link in each.chain],
    }


def _link(link: Link, host: str) -> dict[str, Any]:
    return {
        "text": link.text,
        "certainty": link.certainty.value,
        "at": rfc3339(link.at) if link.at else None,
        "seq": link.seq or None,
        "host": link.host or host or None,
    }


def _recorded(host: str, steps: Sequence[Step], first: Sequence[Step]) -> dict[str, Any]:
    bounds = None if steps is first else apart(first, steps)
    return {
        "host": host or None,
        "events": len(steps),
        "first": rfc3339(steps[0].event.time) if steps else None,
        "last": rfc3339(steps[-1].event.time) if steps else None,
        "ahead": None
        if bounds is None
        else {
            "least_s": _seconds(bounds.least),
            "most_s": _seconds(bounds.most),
            "contradict": bounds.contradict,
        },
    }


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else round(nanoseconds / 1e9, 3)
