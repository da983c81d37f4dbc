"""What may be done: commands, and what each would cost whom (pure).

Nothing here is ever run.  A command that takes access away from somebody says from whom first, and
is left out where another way is known, and where it would repeat what did the harm: a fenced node
is not told to preempt its fencer, and a disk that somebody cleared is not told to be cleared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from prtrace.explain.incident import Incident, Lost, Moved
from prtrace.model import PREEMPTS, Action
from prtrace.state.event import key_text

_AGAIN: Final = (
    "multipathd registers again by itself where multipath.conf or /etc/multipath/prkeys has the "
    "key; cluster agents do so at their next monitor or start"
)
_TYPES: Final = {"WE": 1, "EA": 3, "WERO": 5, "EARO": 6, "WEAR": 7, "EAAR": 8}
_SHARED: Final = ("WEAR", "EAAR")
_TAKING: Final = (*PREEMPTS, Action.CLEAR)


@dataclass(frozen=True, slots=True)
class Remedy:
    """One thing that may be done."""

    what: str
    command: str
    """As it would be typed, "" where there is none."""
    costs: str
    """Who would lose what."""
    host: str = ""
    """On which host, "" where there is only one."""


def remedies(
    unit: Mapping[str, Any], found: Iterable[tuple[str, Incident]] = (), this: str = ""
) -> list[Remedy]:
    """What may be done about a unit: an object of prtrace.explain/1 as far as its paths.

    found: the incidents with the host of each, newest first.  this: the host that has the paths
    which have no host, "" where it has no name.
    """
    told = list(found)
    moved = [each.moved for _, each in told if each.moved is not None]
    keys = {each.key for each in moved if each.recorded}
    perhaps = {each.key for each in moved} - keys
    lost: dict[tuple[str, str], Lost] = {}
    for host, each in told:
        if each.lost is not None:
            # What a path lost before says nothing of its newest loss.
            lost.setdefault((host or this, each.nexus), each.lost)
    # A guest that moved has left, and nobody fenced it.
    left = {place for place, each in lost.items() if each.key in keys}
    lost = {place: each for place, each in lost.items() if place not in left}
    back = list(_back(unit, told))
    stranger = list(_stranger(unit))
    ways = [
        *_retype(unit, moved),
        *_return(unit, lost, left, this, perhaps),
    ]
    made = [*_look(unit), *back, *stranger, *_free(unit, lost.values()), *ways]
    held = unit["reservation"]
    shared = held is None or held["type"] not in ("WE", "EA")
    known = any("=KEY " not in each.command and (shared or ";" in each.command) for each in ways)
    harmed = any(each.by in _TAKING for each in lost.values() if not each.own)
    if not known and not harmed:
        made += _take(unit)
    return made


def _look(unit: Mapping[str, Any]) -> Iterator[Remedy]:
    """To ask the device, where something is in doubt."""
    if not unit["doubt"]:
        return
    path = next((path for path in unit["paths"] if path["device"]), None)
    node = "" if path is None else path["device"]
    yield Remedy(
        "Ask the device first: part of what is known is in doubt.  Where prtrace is not "
        "installed, sg_persist --in --read-full-status asks the same.",
        f"prtrace read {node}" if node else "",
        "nobody anything, but a unit attention that waits on that path is taken from whoever was "
        "to see it",
        (path or {}).get("host") or "",
    )
    yield Remedy(
        "Who did it is in what other hosts recorded or logged: collect it on each host that can "
        "reach the disk, and give explain all files at once.",
        "prtrace gather --no-device -o HOST.gathered",
        "nobody anything",
    )


def _stranger(unit: Mapping[str, Any]) -> Iterator[Remedy]:
    """To find out whose nexus it is that holds the reservation."""
    held = unit["reservation"]
    for each in () if held is None else unit["registrations"]:
        if _holds(held, each) and not each["local"] and not each["owner"]:
            yield Remedy(
                f"{each['nexus']} holds the reservation, and nobody has told whose port that is: "
                "find out first, by prtrace ports on every host that can reach the disk, or on "
                "the array: a registration of a port that is logged in nowhere, of a replaced "
                "adapter, say, is stale.  If that host is not to have the disk, have its program "
                "give it up; the programs here register again by themselves, or when they are "
                "started.",
                "prtrace ports --json",
                "nobody anything; giving it up, the holder its access",
            )


def _free(unit: Mapping[str, Any], lost: Iterable[Lost]) -> Iterator[Remedy]:
    """To keep those off that a fence kept off before a power loss ended it."""
    if any(each.reset for each in lost):
        yield Remedy(
            "A host that was fenced before the reset may write again: fence it anew, or keep it "
            "off the disk, before anybody goes on.",
            "",
            "that host its access",
        )


def _back(unit: Mapping[str, Any], told: Iterable[tuple[str, Incident]]) -> Iterator[Remedy]:
    """To keep a node off whose key came back after a fence."""
    there = {each["key"] for each in unit["registrations"]}
    keys = dict.fromkeys(each.returned for _, each in told if each.returned)
    for key in map(key_text, keys):
        if key in there:
            where = _list(_by_key(unit).get(str(key), []))
            yield Remedy(
                f"Key {key} was preempted, and {where} has it now.  Where its host was "
                "restarted since then, its cluster let it in.  Where that host had the key before "
                "and was not restarted, it writes what is older than the fence: cut it off first, "
                "by its power or at the switch, and stop what registers there by itself; fence it "
                "again then, from another host.",
                "",
                "that host its access",
            )


def _retype(unit: Mapping[str, Any], moved: Iterable[Moved]) -> Iterator[Remedy]:
    """To give a reservation the type again that it had before a move."""
    held = unit["reservation"]
    for was, now in {each.types for each in moved if all(each.types)}:
        if was == now or held is None or held["type"] != now:
            continue
        key = _holder_key(unit, held)
        if key is None:
            continue
        path = next((path for path in unit["paths"] if _holds(held, path)), None)
        name = "DEVICE" if path is None else path["device"]
        yield Remedy(
            f"A move made the type {now}, which was {was}: have the guest or its cluster release "
            f"the reservation and take it with {was} again.  By hand, on the path that holds it:",
            f"sg_persist --out --release --param-rk={key} --prout-type={_TYPES[now]} {name}; "
            f"sg_persist --out --reserve --param-rk={key} --prout-type={_TYPES[was]} {name}",
            "between the two nobody is kept from the disk; then registrants have the access again "
            f"that {was} gives them",
            "" if path is None else path.get("host") or "",
        )


def _holds(held: Mapping[str, Any], each: Mapping[str, Any]) -> bool:
    """Whether a path or a registration is of a nexus that holds the reservation.

    Several hosts may have paths of one address: in their common history the host's name follows.
    """
    name = f"{each['nexus']} of {each.get('host')}"
    return each["nexus"] in held["holders"] or name in held["holders"]


def _holder_key(unit: Mapping[str, Any], held: Mapping[str, Any]) -> str | None:
    """The key that the holder is registered with, by which a command names it; None if not known.

    Where targets are not known to agree on it, nothing is said of the reservation's own key.
    """
    keys = {each["key"] for each in unit["registrations"] if _holds(held, each)}
    key: str | None = keys.pop() if len(keys) == 1 else held["key"]
    return key


def _return(
    unit: Mapping[str, Any],
    lost: Mapping[tuple[str, str], Lost],
    left: Collection[tuple[str, str]],
    this: str,
    perhaps: Collection[int],
) -> Iterator[Remedy]:
    """To let paths in that are not registered.

    left: those whose guest moved away.
    perhaps: keys that another nexus has now, by a move or by a fence.
    """
    held = unit["reservation"]
    for path in unit["paths"]:
        if path.get("registered") is not False:
            continue
        host = path.get("host") or ""
        gone = lost.get((host or this, path["nexus"]))
        if (host or this, path["nexus"]) in left or (gone is not None and gone.own):
            continue
        name = path["device"] or path["sg"] or path["nexus"]
        named = f"{name} of {host}" if host else name
        if gone is not None and gone.key in perhaps:
            yield Remedy(
                f"{named} lost key {key_text(gone.key)}, and another nexus has that key now: the "
                "guest moved there, or this host was fenced by one that uses the same key.  Ask "
                "who has that nexus, and look at its recording, before anything is sent.",
                "",
                "nobody anything",
                host,
            )
        elif gone is not None and gone.by in PREEMPTS and _elsewhere(unit, path, gone.key):
            yield Remedy(
                f"{named} was fenced, and another path of the same host has the key "
                f"{key_text(gone.key)} again: do not register this one, before it is known that "
                "the host was let in.",
                "",
                "nobody anything",
                host,
            )
        elif gone is not None:
            yield _again(held, named, name, gone, host)
        elif held is not None:
            yield _register(unit, path, this)


def _elsewhere(unit: Mapping[str, Any], path: Mapping[str, Any], key: int) -> bool:
    """Whether another path of the path's host is registered with the key."""
    return any(
        other["key"] == key_text(key) and (other.get("host") or "") == (path.get("host") or "")
        for other in unit["paths"]
        if other is not path
    )


def _again(held: Mapping[str, Any] | None, named: str, name: str, gone: Lost, host: str) -> Remedy:
    key = key_text(gone.key)
    if gone.by in PREEMPTS:
        return Remedy(
            f"{named} was fenced, or taken by the holder: its key {key} was preempted.  Let its "
            "cluster let it in again, "
            "once the node has been restarted or is known to be in order: what it has not written "
            "yet is older than the fence.  fence_scsi unfences a node when it joins; by hand:",
            f"fence_scsi -o on -n NODE -d {name}",
            _registering(held) + ".  Do not preempt whoever fenced it",
            host,
        )
    lost = "and has lost it" if gone.by is None else f"until a {gone.by.value} took it away"
    return Remedy(
        f"{named} had key {key} {lost}.  Let the program that registered it "
        "do so again: the guest, the cluster's resource, multipathd.  By hand:",
        f"sg_persist --out --register --param-sark={key} {name}",
        _registering(held),
        host,
    )


def _register(unit: Mapping[str, Any], path: Mapping[str, Any], this: str) -> Remedy:
    """To register a path that nobody saw registered."""
    held, host = unit["reservation"], path.get("host") or ""
    name = path["device"] or path["sg"] or path["nexus"]
    named = f"{name} of {host}" if host else name
    own = [each for each in unit["registrations"] if _same_host(unit, each, path, this)]
    beside = next((each for each in own if each["local"] or each["maybe_local"]), None)
    if beside is not None:
        other = beside["device"] or beside["nexus"]
        return Remedy(
            f"Register {named} with key {beside['key']}, which {other} of the same host has: a "
            "map sends commands over every path.  Let the program that registered the other path "
            "do it: multipathd (reservation_key), mpathpersist on the map, or the cluster.",
            f"sg_persist --out --register --param-sark={beside['key']} {name}",
            _registering(held),
            host,
        )
    keys = {each["key"] for each in own}
    shared = any(each["key"] in keys for each in unit["registrations"] if each not in own)
    if len(keys) == 1 and not shared:
        (key,) = keys
        former = _list([each["nexus"] for each in own])
        return Remedy(
            f"{former}, registered with key {key}, was a path of this host and is none now; "
            f"{named} is.  Start the program again that registered it; or register the new path "
            "with another key, NEWKEY, and preempt the old one's (some targets remove both where "
            "both have one key).  What the program sends with its own key is refused until it "
            "registers again.",
            f"sg_persist --out --register-ignore --param-sark=NEWKEY {name}; "
            f"sg_persist --out --preempt --param-rk=NEWKEY --param-sark={key} "
            f"--prout-type={_TYPES[held['type']]} {name}",
            f"{former} loses its registration, which no path of this host has now; nobody else "
            "loses anything",
            host,
        )
    return Remedy(
        f"Register {named} with its cluster's key, if its cluster wants it in.  Let the cluster "
        "software do it (unfence the node, start its resource), not by hand.",
        f"sg_persist --out --register --param-sark=KEY {name}",
        _registering(held) + ", which is what fencing was to prevent if this node was fenced",
        host,
    )


def _same_host(
    unit: Mapping[str, Any], each: Mapping[str, Any], path: Mapping[str, Any], this: str
) -> bool:
    """Whether a registration is of the host that has the path."""
    host = path.get("host") or ""
    if each["local"]:
        return (each.get("host") or "") == host
    if each["owner"] and each["owner"] in (host or this, "" if host else "this host"):
        return True
    return each["initiator_port"] in {
        other["initiator_port"]
        for other in unit["paths"]
        if (other.get("host") or "") == host and other["initiator_port"]
    }


def _take(unit: Mapping[str, Any]) -> Iterator[Remedy]:
    """To take the reservation, or everything, away."""
    held = unit["reservation"]
    if held is None:
        return
    by_key = _by_key(unit)
    holder = _holder_key(unit, held)
    sender, first = _sender(unit)
    holding = [each for each in unit["registrations"] if _holds(held, each)]
    ours = bool(holding) and all(each["local"] or each["owner"] for each in holding)
    if ours or held["type"] in _SHARED:
        yield Remedy(
            "Have the program that reserved it release it, only when nobody is to be kept from "
            "the disk any more.",
            "",
            _releasing(held["type"]),
        )
    elif holder and holder != "0x0000000000000000":
        losing = _list(by_key.get(holder, []))
        yield Remedy(
            "Preempt the holder, only when you know whose it is, and that its host is off or must "
            f"not write.{first}",
            f"sg_persist --out --preempt --param-rk=YOURKEY --param-sark={holder} "
            f"--prout-type={_TYPES[held['type']]} {sender}",
            f"{losing or 'every nexus with that key'} loses its registration and its access; "
            + _AGAIN,
        )
    everybody = _list(sorted(nexus for each in by_key.values() for nexus in each))
    yield Remedy(
        f"Clear everything, only for a disk that no cluster uses any more.{first}",
        f"sg_persist --out --clear --param-rk=YOURKEY {sender}",
        f"{everybody or 'every registered nexus'} loses its registration, and nothing protects "
        "the disk; " + _AGAIN,
    )


def _releasing(kind: str) -> str:
    everybody = "every host may write then, one that was fenced, too"
    if kind in _SHARED:
        return f"a RELEASE by any registrant ends {kind} for all of them: {everybody}"
    return f"that program its reservation: {everybody}"


def _registering(held: Mapping[str, Any] | None) -> str:
    """What it costs that one more path registers, under a reservation of that type."""
    if held is None:
        return "nobody anything: nothing is reserved"
    if held["type"] in ("WE", "EA"):
        return (
            "nobody loses access, and this path gains none: under "
            f"{held['type']} the holder alone may write, whoever else is registered"
        )
    return "nobody loses access; this path may then write beside the others"


def _by_key(unit: Mapping[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in unit["registrations"]:
        where = each["device"] or each["nexus"]
        host = each["host"] if each["local"] else each["owner"]
        if host and host != "this host":
            where += f" of {host}"
        found.setdefault(each["key"], []).append(where)
    return found


def _sender(unit: Mapping[str, Any]) -> tuple[str, str]:
    """The path to send a PREEMPT or CLEAR over, and what is to be said where none may.

    The device refuses both over a path that is not registered (SPC-6 5.14.11.3).
    """
    for path in unit["paths"]:
        if path.get("registered") and path["device"]:
            return path["device"], f"  On {path['host']}." if path.get("host") else ""
    node = next((path["device"] for path in unit["paths"] if path["device"]), "")
    return (
        node or "DEVICE",
        "  Only a path that is registered, with YOURKEY, may send it; none here is known to be.",
    )


def _list(names: list[str]) -> str:
    return ", ".join(names)
