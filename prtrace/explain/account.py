"""All that can be said of one unit, as the prtrace.explain/1 object (pure)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from prtrace.explain.causes import incidents
from prtrace.explain.incident import Incident, Link
from prtrace.explain.joined import Joined, host_of_nexus
from prtrace.explain.links import pr_out, who
from prtrace.explain.memory import Memory
from prtrace.explain.moved import moves
from prtrace.explain.owners import Owner, owners
from prtrace.explain.ports import Ports, host_of
from prtrace.explain.remedies import remedies
from prtrace.explain.retold import end_by_clocks, retold
from prtrace.explain.skew import apart
from prtrace.explain.timeline import Step
from prtrace.model import Action, Nexus, Outcome
from prtrace.state.event import rfc3339

SCHEMA: Final = "prtrace.explain/1"
_THIS: Final = "this host"
_TOOLS: Final = ("sg_persist", "sg_raw", "mpathpersist", "blkpr")
"""Programs by which others register: fence_scsi calls sg_persist."""


def account(
    unit: Mapping[str, Any],
    recordings: Sequence[tuple[str, Sequence[Step]]],
    *,
    joined: Joined | None = None,
    ports: Sequence[Ports] = (),
    keys: Mapping[int, str] | None = None,
    configured: Mapping[int, Sequence[Owner]] | None = None,
) -> dict[str, Any]:
    """The account of a unit.

    unit: what is known now, an element of prtrace.show/1's units.  recordings: (host, steps) of
    every recording.  joined: their common history, where there are several; unit is its end then.
    ports: whose initiator ports are whose.  keys: names that somebody gave to keys.  configured:
    by key, whose configuration has it.
    """
    known = [*ports, *_recorded_ports(recordings)]
    if joined is None:
        own = _own(unit)
        # A file of this host's own ports says its name.
        if not any(own.ports & each.ports for each in ports):
            known.insert(len(ports), own)
        host, steps = recordings[0]
        found = [(host, each) for each in incidents(steps, Memory(unit))]
    else:
        found = list(retold(joined))
        unordered = end_by_clocks(joined)
        unit = {**unit, "doubt": [*unit["doubt"], *unordered]}
        if unordered:
            unit["nexuses"] = [_doubted(path) for path in unit["nexuses"]]
    for host, steps in recordings:
        found += ((host, each) for each in moves(steps, known))
    found.sort(key=lambda each: (each[1].last, each[0]), reverse=True)
    registered = list(_registered(recordings))
    registrations = [
        _registration(each, known, keys, registered, configured or {})
        for each in unit["registrations"]
    ]
    paths = [_of_host(each) for each in unit["nexuses"]]
    shown = {**unit, "registrations": registrations, "paths": paths}
    this = recordings[0][0] if joined is None else ""
    as_of, clock = unit["as_of"], None
    if joined is not None:
        as_of, clock = _by_its_clock(as_of, joined)
    return {
        "schema": SCHEMA,
        "lu": unit["lu"],
        "target": unit["target"],
        "as_of": as_of,
        "clock": clock,
        "doubt": unit["doubt"],
        "reservation": unit["reservation"],
        "legacy_reservation": unit["legacy_reservation"],
        "registrations": [
            {name: value for name, value in each.items() if name != "owner"}
            for each in registrations
        ],
        "unattributed_keys": unit["unattributed_keys"],
        "paths": paths,
        "incidents": [_incident(each, host) for host, each in found],
        "remedies": [
            {
                "what": each.what,
                "command": each.command or None,
                "costs": each.costs,
                "host": each.host or None,
            }
            for each in remedies(shown, found, this)
        ],
        "recorded": [_recorded(host, steps, recordings[0][1]) for host, steps in recordings],
    }


def _by_its_clock(as_of: str | None, joined: Joined) -> tuple[str | None, str]:
    """When the device confirmed it, by the clock of the host that asked, and that host.

    In the common history it is by one clock, as far as the difference of the two is known.
    """
    for step in reversed(joined.steps):
        event = step.event
        # The device answered at some time after the submission (state's confirmation_of).
        took = event.done_ns - event.start_ns if event.start_ns else 0
        origin = joined.origin(event.seq)
        if origin is not None and rfc3339(event.time - took) == as_of:
            return rfc3339(origin.event.time - took), origin.host
    return as_of, joined.reference


def _own(unit: Mapping[str, Any]) -> Ports:
    """The ports of the host that the unit was looked at from."""
    ports = (path["initiator_port"] for path in unit["nexuses"])
    return Ports(_THIS, frozenset(port for port in ports if port))


def _recorded_ports(recordings: Sequence[tuple[str, Sequence[Step]]]) -> Iterator[Ports]:
    """The ports that each host of a recording had while it recorded."""
    for host, steps in recordings:
        if host:
            paths = {id(step.after.paths): step.after.paths for step in steps}
            ports = {
                path.local.initiator_port for each in paths.values() for path in each.values()
            }
            yield Ports(host, frozenset(port for port in ports if port))


def _doubted(path: Mapping[str, Any]) -> dict[str, Any]:
    """A path of which it is not known what it may do."""
    why = "only the hosts' clocks order what was done"
    nothing: dict[str, Any] = dict.fromkeys(("registered", "key", "may_read", "may_write"))
    return {**path, **nothing, "why_read": why, "why_write": why}


def _of_host(each: Mapping[str, Any]) -> dict[str, Any]:
    """A path or a registration with its address, and the host that has it in a joined history."""
    address, host = host_of_nexus(each["nexus"])
    return {**each, "nexus": address, "host": host or None}


def _registration(
    each: Mapping[str, Any],
    ports: Collection[Ports],
    keys: Mapping[int, str] | None,
    registered: Sequence[_Registered],
    configured: Mapping[int, Sequence[Owner]],
) -> dict[str, Any]:
    """A registration with its host, and with whose key it may be.

    registered: who was seen to register a key; its form tells nothing more then, unless that is a
    tool, which others call.
    """
    address, host = host_of_nexus(each["nexus"])
    found = _of_host(each)
    port, key = each["initiator_port"], int(each["key"], 16)
    found["owner"] = ""
    if port and not each["local"]:
        owner = host_of(port, ports)
        found["host"], found["owner"] = str(owner), owner.name
        told = sorted({known.host for known in ports} - {_THIS})
        if told and not owner.names:
            found["host"] += f" (no port of {', '.join(told)}: another host's, or stale)"
    named = (*owners(key, keys), *configured.get(key, ()))
    seen = [made for made in registered if made.key == key]
    if seen:
        here = [made for made in seen if made.on(address, host or "", port)]
        made = (here or seen)[-1]
        # Hosts may share a key: who registered it elsewhere need not have done it here.
        why = f"it was seen to register this key{'' if here else ' on another nexus'}"
        owner_seen = Owner(made.who, why, certain=bool(here))
        certain = [owner for owner in named if owner.certain]
        inferred = [owner for owner in named if made.by_tool and not owner.certain]
        named = (*certain, owner_seen, *inferred)
    return {
        **found,
        "owners": [
            {"name": owner.name, "why": owner.why, "certain": owner.certain} for owner in named
        ],
    }


@dataclass(frozen=True, slots=True)
class _Registered:
    """A registration that a command was seen to make."""

    key: int
    who: str
    """The process, and the host where there are several."""
    host: str
    nexus: Nexus
    port: str
    """The nexus's initiator port then, "" where it is not known."""
    by_tool: bool
    """Whether the process is one of a tool, so that the key is somebody else's choice."""

    def on(self, nexus: Nexus, host: str, port: str | None) -> bool:
        """Whether it was made on this nexus: an address is one host's, a port everywhere."""
        return (
            self.port == port if self.port and port else (self.nexus, self.host) == (nexus, host)
        )


def _registered(recordings: Sequence[tuple[str, Sequence[Step]]]) -> Iterator[_Registered]:
    """The registrations that commands were seen to make, each host's in its order."""
    for host, steps in recordings:
        for step in steps:
            command = pr_out(step)
            if (
                command is not None
                and command.outcome is Outcome.DONE
                and command.action in (Action.REGISTER, Action.REGISTER_AND_IGNORE)
                and command.sa_key
                and step.event.issuer is not None
            ):
                path = step.before.paths.get(command.nexus)
                issuer = step.event.issuer
                yield _Registered(
                    command.sa_key,
                    f"{who(step.event)}{f' on {host}' if host else ''}",
                    host,
                    command.nexus,
                    "" if path is None else path.local.initiator_port or "",
                    who(step.event) == f"{issuer.comm}[{issuer.pid}]" and issuer.comm in _TOOLS,
                )


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
