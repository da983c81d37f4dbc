"""What may be done about it: commands, and what each would cost whom (pure).

Nothing here is ever run.  A command that takes access away from somebody says from whom first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_AGAIN: Final = (
    "multipathd registers again by itself where multipath.conf or /etc/multipath/prkeys has the "
    "key; cluster agents do so at their next monitor or start"
)


@dataclass(frozen=True, slots=True)
class Remedy:
    """One thing that may be done."""

    what: str
    command: str
    """As it would be typed, "" where there is none."""
    costs: str
    """Who would lose what."""


def remedies(unit: Mapping[str, Any]) -> list[Remedy]:
    """What may be done about the state of a unit (an element of prtrace.show/1's units)."""
    found: list[Remedy] = []
    node = _node(unit)
    if unit["doubt"]:
        found.append(
            Remedy(
                "Ask the device first: part of what is known is in doubt.",
                f"prtrace read {node}" if node else "",
                "nobody anything, but a unit attention that waits on that path is taken from "
                "whoever was to see it",
            )
        )
    held = unit["reservation"]
    if held is None:
        return found
    by_key = _by_key(unit)
    holder = held.get("key")
    shut_out = [path for path in unit["nexuses"] if path.get("registered") is False]
    for path in shut_out:
        name = path["device"] or path["sg"] or path["nexus"]
        found.append(
            Remedy(
                f"Register {name} with its cluster's key, if its cluster wants it in.  Let the "
                "cluster software do it (unfence the node, start its resource), not by hand.",
                f"sg_persist --out --register --param-sark=KEY {name}",
                _registering(held["type"]),
            )
        )
    if held["type"] in ("WEAR", "EAAR"):
        losing = _list(sorted(nexus for each in by_key.values() for nexus in each))
    else:
        losing = _list(by_key.get(holder or "", []))
    sender, first = _sender(unit)
    own = [each["nexus"] for each in unit["registrations"] if each["local"]]
    ours = bool(held["holders"]) and set(held["holders"]) <= set(own)
    if holder and holder != "0x0000000000000000" and not ours:
        found.append(
            Remedy(
                "Preempt the holder, only when you know whose it is, and that its host is off or "
                f"must not write.{first}",
                f"sg_persist --out --preempt --param-rk=YOURKEY --param-sark={holder} "
                f"--prout-type={_TYPES[held['type']]} {sender}",
                f"{losing or 'every nexus with that key'} loses its registration and its access; "
                + _AGAIN,
            )
        )
    if ours:
        found.append(
            Remedy(
                "The holder is a path of this host: have the program that reserved it release it.",
                "",
                "that program alone its reservation",
            )
        )
    everybody = _list(sorted(nexus for each in by_key.values() for nexus in each))
    found.append(
        Remedy(
            f"Clear everything, only for a disk that no cluster uses any more.{first}",
            f"sg_persist --out --clear --param-rk=YOURKEY {sender}",
            f"{everybody or 'every registered nexus'} loses its registration, and nothing "
            "protects the disk; " + _AGAIN,
        )
    )
    return found


def _registering(kind: str) -> str:
    """What it costs that one more path registers, under a reservation of that type."""
    if kind in ("WE", "EA"):
        return (
            f"nobody loses access, and this path gains none: under {kind} the holder alone may "
            "write, whoever else is registered"
        )
    return (
        "nobody loses access; this path may then write beside the others, which is what fencing "
        "was to prevent if this node was fenced"
    )


_TYPES: Final = {"WE": 1, "EA": 3, "WERO": 5, "EARO": 6, "WEAR": 7, "EAAR": 8}


def _by_key(unit: Mapping[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in unit["registrations"]:
        found.setdefault(each["key"], []).append(each["device"] or each["nexus"])
    return found


def _sender(unit: Mapping[str, Any]) -> tuple[str, str]:
    """The path to send a PREEMPT or CLEAR over, and what is to be said where none may.

    The device refuses both over a path that is not registered (SPC-6 5.14.11.3).
    """
    for path in unit["nexuses"]:
        if path.get("registered") and path["device"]:
            return path["device"], ""
    return (
        _node(unit) or "DEVICE",
        "  Only a path that is registered, with YOURKEY, may send it; none here is known to be.",
    )


def _node(unit: Mapping[str, Any]) -> str:
    return next((path["device"] for path in unit["nexuses"] if path["device"]), "")


def _list(names: list[str]) -> str:
    return ", ".join(names)
