"""What an account says of now, in words: the same for a terminal and for the page (pure).

Times stay apart from the words: a terminal prints them in its zone, a browser in its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_MAY = {True: "yes", False: "NO", None: "not known"}


class Moment(NamedTuple):
    """A time inside a statement."""

    at: str
    """RFC 3339, as accounts have it."""


class Statement(NamedTuple):
    """One line about the unit, a path or a recording."""

    label: str
    words: tuple[str | Moment, ...]
    tone: str = ""
    """"bad": access that is refused.  "odd": what is in doubt.  "" for everything else."""

    def as_json(self) -> dict[str, Any]:
        """{"label", "tone", "words"}; a word is text, or {"at": a time}."""
        words = [each if isinstance(each, str) else {"at": each.at} for each in self.words]
        return {"label": self.label, "tone": self.tone, "words": words}


def statements(told: Mapping[str, Any]) -> Iterator[Statement]:
    """What is known of the unit, and each path's access.  told: the prtrace.explain/1 object."""
    yield _known(told)
    for doubt in told["doubt"]:
        yield Statement("IN DOUBT", (f"{doubt['what']}: {doubt['reason']}",), "odd")
    yield _reservation(told)
    for each in told["registrations"]:
        where = each["device"] or each["initiator_port"] or each["nexus"]
        words = f"{each['key']} on {where}"
        if each["host"]:
            words += f", {each['host']}"
        for owner in each["owners"]:
            words += f"; {'' if owner['certain'] else 'maybe '}{owner['name']}: {owner['why']}"
        yield Statement("registered", (words,))
    for key in told["unattributed_keys"]:
        yield Statement("registered", (f"{key} on a nexus that is not known",))
    for path in told["paths"]:
        if "may_write" in path:
            yield _path(path)


def recordings(told: Mapping[str, Any]) -> Iterator[Statement]:
    """What the account is made of, and how far the hosts' clocks are apart."""
    for each in told["recorded"]:
        host = f" of {each['host']}" if each["host"] else ""
        since = (" from ", Moment(each["first"]), " on") if each["first"] else ()
        words = (f"{each['events']} events{host}", *since, "; what was before is not in it")
        yield Statement("seen", words)
        if each["ahead"] is not None:
            yield Statement("clock", (_clocks(each, told["recorded"][0]),))


def nothing_wrong(told: Mapping[str, Any]) -> str | None:
    """The sentence for an account without incidents but harmless ones, None where there are."""
    if not all(each["harmless"] for each in told["incidents"]):
        return None
    if told["doubt"]:
        return "Nothing was seen to go wrong; what is in doubt may hide it."
    return "Nothing went wrong in what was recorded."


def offers(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The remedies that are worth a word: where something went wrong, or may have."""
    return list(told["remedies"]) if told["doubt"] or nothing_wrong(told) is None else []


def commands(remedy: Mapping[str, Any]) -> list[str]:
    """The commands of a remedy, one after the other."""
    return [each for each in (remedy["command"] or "").split("; ") if each]


def _known(told: Mapping[str, Any]) -> Statement:
    since = "; what other hosts did since is not seen"
    if not told["as_of"]:
        return Statement("known", ("never confirmed by the device", since))
    clock = f" by {told['clock']}'s clock" if told["clock"] else ""
    return Statement("known", ("as of ", Moment(told["as_of"]), clock, since))


def _reservation(told: Mapping[str, Any]) -> Statement:
    held = told["reservation"]
    doubted = any(doubt["what"] == "reservation" for doubt in told["doubt"])
    mark = " (in doubt)" if doubted else ""
    if told["legacy_reservation"] is not None:
        holder = told["legacy_reservation"]
        text = f"an SPC-2 RESERVE by {holder}{mark}; sg_persist does not show it"
    elif held is None:
        text = "not known" if doubted else "none"
    else:
        who = "a nexus that is not known"
        if held["type"] in ("WEAR", "EAAR"):
            who = "every registered nexus"
        elif held["holders"]:
            who = ", ".join(held["holders"])
        text = f"{held['type']}, held by {who}{mark}"
    return Statement("reservation", (text,), "odd" if doubted else "")


def _path(path: Mapping[str, Any]) -> Statement:
    name = path["device"] or path["sg"] or path["nexus"]
    if path["host"]:
        name += f" of {path['host']}"
    text = f"{name}: read {_MAY[path['may_read']]}, write {_MAY[path['may_write']]}"
    why = path.get("why_write") or ""
    refused = False in (path["may_read"], path["may_write"])
    return Statement("path", (f"{text} ({why})" if why else text,), "bad" if refused else "")


def _clocks(each: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """How far the clock of a recording is from the first one's, by PRGENERATION."""
    least, most = each["ahead"]["least_s"], each["ahead"]["most_s"]
    name, other = each["host"] or "this host", first["host"] or "the first host"
    if each["ahead"]["contradict"]:
        return (
            f"no difference of {name}'s and {other}'s clocks fits PRGENERATION: one was set "
            "meanwhile, or the disk began to count anew; do not compare their times"
        )
    if least is None and most is None:
        return f"nothing tells how far {name}'s clock is from {other}'s"
    between = {
        (True, True): f"between {least} and {most} s ahead of",
        (True, False): f"at least {least} s ahead of",
        (False, True): f"at most {most} s ahead of",
    }[least is not None, most is not None]
    return (
        f"by PRGENERATION {name}'s is {between} {other}'s (negative: behind), if neither was set "
        "meanwhile"
    )
