"""A logical unit of a prtrace.show/1 object as text of 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import click

from prtrace.cli.text import WIDTH, age, clock, cut, labelled, plain, table
from prtrace.explain.ports import PortOwner, Ports, host_of
from prtrace.model import ReservationType

_HERE: Final = "this host"
_NEXUS: Final = 14
"""Columns for a nexus; a longer one gets a line of its own."""


def title_of(kind: str) -> str:
    """A reservation type's name in words; its code where this program does not know it."""
    known = ReservationType.__members__.get(kind)
    return kind if known is None else known.title


def unit_lines(unit: Mapping[str, Any]) -> list[str]:
    """The block of lines that tells everything about one unit."""
    doubted = {doubt["what"] for doubt in unit["doubt"]}
    lines = [_title(unit)]
    names = " ".join(unit["devices"])
    lines += labelled("devices", names or "none: the unit is not on this host (any more)")
    silent = not unit["doubt"] and not unit.get("legacy_reservation")
    if not unit.get("supported", True) and silent:
        lines += labelled("reservations", "the device has none (it does not know READ KEYS)")
        return lines
    lines += _age(unit)
    lines += _generation(unit, "generation" in doubted)
    lines += _reservation(unit, "reservation" in doubted)
    if unit.get("legacy_reservation"):
        lines += labelled(
            "SPC-2 reserve", f"by {unit['legacy_reservation']}{_mark('reservation' in doubted)}"
        )
    lines += _registrations(unit, "registrations" in doubted)
    keys = unit.get("unattributed_keys") or []
    if keys:
        lines += labelled("other keys", f"{' '.join(keys)} (whose is not known)")
    lines += [
        line
        for nexus, attentions in (unit.get("expected_attentions") or {}).items()
        for line in labelled("attention due", f"{nexus}: {', '.join(map(_words, attentions))}")
    ]
    lines += _paths(unit)
    lines += _power_loss(unit)
    lines += _capabilities(unit)
    for each in unit.get("unknowable") or ():
        lines += labelled("not knowable", f"{each['what']}: {each['reason']}")
    lines += _doubts(unit)
    return lines


def _title(unit: Mapping[str, Any]) -> str:
    target = " ".join(part for part in str(unit.get("target") or "").split("/") if part)
    return click.style(cut(plain(f"{unit['lu']}  {target}").rstrip(), WIDTH), bold=True)


def _age(unit: Mapping[str, Any]) -> list[str]:
    """As of when the device said it; fact by fact where that is not the same for all."""
    told: dict[str, list[str]] = {}
    for fact, each in (unit.get("confirmed") or {}).items():
        if each is not None:
            text = f"{clock(each['at'])}, {each['by']} over {each['nexus']}, {_ago(each['at'])}"
            told.setdefault(text, []).append(fact)
    if not unit.get("as_of"):
        told.setdefault("never confirmed by the device", []).extend(
            fact for fact, each in (unit.get("confirmed") or {}).items() if each is None
        )
    lines: list[str] = []
    refresh = unit.get("refresh")
    if refresh is not None and refresh["problem"]:
        lines += labelled("NOT ASKED", str(refresh["problem"]))
    label = "as of"
    for text, facts in told.items():
        what = "" if len(told) == 1 else f" ({', '.join(facts)})"
        lines += labelled(label, f"{text}{what}")
        label = ""
    if unit.get("as_of"):
        lines += labelled("", "what other hosts did since is not seen")
    return lines


def _ago(moment: str) -> str:
    told = age(moment)
    return "before the clock was set back" if told == "?" else f"{told} ago"


def _generation(unit: Mapping[str, Any], doubted: bool) -> list[str]:
    generation = unit["generation"]
    text = "not known" if generation is None else str(generation)
    return labelled("generation", text + _mark(doubted))


def _reservation(unit: Mapping[str, Any], doubted: bool) -> list[str]:
    held = unit["reservation"]
    if held is None:
        return labelled("reservation", _none(doubted))
    kind = held["type"]
    lines = labelled("reservation", f"{title_of(kind)} ({kind}){_mark(doubted)}")
    if kind in ("WEAR", "EAAR"):
        holder = "every registrant"
    else:
        holder = ", ".join(_holder(unit, nexus) for nexus in held["holders"])
    key = f", key {held['key']}" if held["key"] else ""
    return lines + labelled("", f"held by {holder or 'a nexus that is not known'}{key}")


def _holder(unit: Mapping[str, Any], nexus: str) -> str:
    for each in unit["registrations"]:
        if each["nexus"] == nexus:
            told = [text for text in (each["device"], _who(each["by"], guest_only=True)) if text]
            if not each["local"]:
                told = [_host(each, unit.get("nexuses") or ())]
            return f"{nexus} ({', '.join(told)})" if told else str(nexus)
    return str(nexus)


def _host(registration: Mapping[str, Any], paths: Iterable[Mapping[str, Any]]) -> str:
    """Which host the nexus is of that is no path of this one."""
    if registration.get("maybe_local"):
        return "here or elsewhere: port name not known"
    owner = _owner(registration, paths)
    if not owner.name or owner.session:
        return str(owner) if owner.name else "elsewhere"
    wild = registration.get("relative_target_port") is None
    return f"{_HERE}, {'over any port of the target' if wild else 'over no path that it has now'}"


def _owner(registration: Mapping[str, Any], paths: Iterable[Mapping[str, Any]]) -> PortOwner:
    """Whether the port of a nexus that is no path of this host is this host's all the same."""
    own = (path.get("initiator_port") for path in paths)
    known = Ports(_HERE, frozenset(port for port in own if port))
    return host_of(registration.get("initiator_port") or "", [known])


def _where(registration: Mapping[str, Any], paths: Iterable[Mapping[str, Any]]) -> str:
    """Where a registration without a disk's node is."""
    if registration["local"]:
        # Tapes, enclosures and what no driver is bound to have other nodes.
        own = (each for each in paths if each["nexus"] == registration["nexus"])
        return next((each["sg"] or each["bsg"] or "here" for each in own), "gone")
    if registration.get("maybe_local"):
        return "here?"
    owner = _owner(registration, paths)
    if not owner.name:
        return "elsewhere"
    if owner.session:
        return "former"
    return "here" if registration.get("relative_target_port") is None else "gone"


def _registrations(unit: Mapping[str, Any], doubted: bool) -> list[str]:
    found = unit["registrations"]
    if not found:
        return labelled("registrations", _none(doubted))
    count = f"{len(found)}{_mark(doubted)}"
    holders = set((unit["reservation"] or {}).get("holders", ()))
    rows = [("", "KEY", "NEXUS", "DEVICE", "BY", "SOURCE", "AGE")]
    long_names: dict[int, str] = {}
    for each in found:
        nexus = each["nexus"]
        if len(nexus) > _NEXUS:
            long_names[len(rows)] = nexus
            nexus = "(below)"
        rows.append(
            (
                "*" if each["nexus"] in holders else "",
                str(each["key"]),
                nexus,
                each["device"] or _where(each, unit.get("nexuses") or ()),
                cut(_who(each["by"]), 16),
                each["source"],
                age(each["at"]),
            )
        )
    lines = labelled("registrations", count)
    for number, text in enumerate(table(rows, indent=2)):
        lines.append(cut(text, WIDTH))
        if number in long_names:
            lines += labelled("", long_names[number], column=5)
    if holders:
        lines.append("  * holds the reservation")
    return lines


_WORDS: Final = {True: "yes", False: "no", None: "?"}


def _paths(unit: Mapping[str, Any]) -> list[str]:
    """One row for each path of this host, registered or not."""
    found = unit.get("nexuses") or ()
    if not found or "may_read" not in found[0]:
        return []
    rows = [("", "NEXUS", "DEVICE", "REGISTERED", "READ", "WRITE", "STATE")]
    rows += (
        (
            "",
            cut(each["nexus"], _NEXUS),
            str(each["device"] or each["sg"] or ""),
            each["key"] or _WORDS[each["registered"]],
            _WORDS[each["may_read"]],
            _WORDS[each["may_write"]],
            _takes(each),
        )
        for each in found
    )
    return labelled("paths", str(len(found))) + [cut(text, WIDTH) for text in table(rows, 2)]


def _takes(path: Mapping[str, Any]) -> str:
    """The path's state; of one that runs, which access the target port gives (ALUA)."""
    state = str(path["state"] or "")
    return str(path.get("alua") or state) if state == "running" else state


def _power_loss(unit: Mapping[str, Any]) -> list[str]:
    if not unit["registrations"] and not unit.get("unattributed_keys"):
        return []
    fate = {
        True: "registrations and reservation survive it (APTPL)",
        False: "registrations and reservation are lost (no APTPL)",
        None: "not known: no command that was seen tells it for certain",
    }
    return labelled("power loss", fate[unit.get("aptpl")])


def _capabilities(unit: Mapping[str, Any]) -> list[str]:
    found = unit.get("capabilities")
    if not found:
        return []
    bits = [name.upper() for name, bit in found.items() if bit is True]
    types = found["types"]
    kinds = "no type mask" if types is None else f"types {' '.join(types)}"
    return labelled("capabilities", f"{' '.join(bits) or 'none'}; {kinds}")


def _doubts(unit: Mapping[str, Any]) -> list[str]:
    """One entry for each reason, with everything that is in doubt for it."""
    whats: dict[tuple[str, str], list[str]] = {}
    for doubt in unit["doubt"]:
        whats.setdefault((doubt["reason"], doubt["since"]), []).append(doubt["what"])
    return [
        click.style(line, fg="red")
        for (reason, since), what in whats.items()
        for line in labelled("IN DOUBT", f"{', '.join(what)}: {reason} (for {age(since)})")
    ]


def _none(doubted: bool) -> str:
    return f"none known{_mark(doubted)}" if doubted else "none"


def _mark(doubted: bool) -> str:
    return " (in doubt, see below)" if doubted else ""


def _who(by: Mapping[str, Any] | None, *, guest_only: bool = False) -> str:
    if by is None:
        return ""
    if by.get("guest"):
        return f"guest {by['guest']}"
    if guest_only:
        return ""
    if by.get("client_pid"):
        return f"{by['client_comm']}[{by['client_pid']}]"
    return f"{by['comm']}[{by['pid']}]"


def _words(attention: str) -> str:
    return attention.replace("_", " ").lower()
