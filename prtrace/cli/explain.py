"""prtrace explain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import click

from prtrace.api.client import Client
from prtrace.cli.given import (
    find_unit,
    look,
    moment,
    names_options,
    read_keys,
    read_ports,
    read_recordings,
    stored,
    units_of,
)
from prtrace.cli.options import json_option, socket_option
from prtrace.cli.text import document, labelled, line, plain, warn
from prtrace.errors import InDoubtError
from prtrace.explain.account import account
from prtrace.explain.incident import IncidentKind
from prtrace.explain.ports import Ports

EVENTS: Final = 2000
"""The newest events of a unit that are looked at: enough for a story, and bounded."""
_SHOWN: Final = 8
"""Incidents that are told in full; the rest is counted."""


@click.command(
    "explain",
    epilog="""\b
Exit status: 4, part of what is known is in doubt.
\b
Examples:
  prtrace explain /dev/sda                          what the agent knows
  prtrace explain /dev/sda a.jsonl b.jsonl          what two hosts recorded
  prtrace explain /dev/sda sosreport-a.tar.xz       what sos collected
  prtrace explain /dev/sda --at 2026-01-31T12:00    as it was then
""",
)
@click.argument("device")
@click.argument("recordings", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--at",
    metavar="TIME",
    help="as if nothing had happened after that time; the first RECORDING's clock",
)
@names_options
@json_option
@socket_option
def command(
    device: str,
    recordings: tuple[Path, ...],
    *,
    at: str | None,
    ports_folder: Path,
    keys_file: Path | None,
    as_json: bool,
    socket: str,
) -> int:
    """Say who holds the reservation of DEVICE, who was refused, and why.

    Without recordings the agent of this host is asked.  RECORDING is what
    prtrace record, gather or import wrote, on this host or on another, or a
    sosreport; several make one history.  Then DEVICE is the designator of
    the logical unit, or a device as the first of them names it.
    """
    until = moment(at) if at else None
    ports, keys = read_ports(ports_folder), read_keys(keys_file)
    if recordings:
        given = read_recordings(recordings)
        lu = find_unit(device, given)
        for each in given:
            units = units_of([each])
            if lu not in units:
                warn(
                    f"prtrace: {each.host or 'one of the recordings'} has nothing of {lu}, but "
                    f"of {', '.join(units[:4]) or 'no unit'}; prtrace import --unit names a log's"
                )
        looked = look(given, lu, until)
        ports += [Ports(each.host, frozenset(each.ports)) for each in given if each.ports]
    else:
        client = Client(socket)
        unit = client.call("Show", devices=[device])["units"][0]
        looked = look([stored(client, unit, EVENTS)], unit["lu"], until)
        if until is None:
            looked = replace(looked, unit=unit)
    told = account(looked.unit, looked.steps, joined=looked.joined, ports=ports, keys=keys)
    if as_json:
        document(told)
    else:
        for text in account_lines(told):
            line(text)
    return InDoubtError.exit_code if told["doubt"] else 0


def account_lines(told: Mapping[str, Any]) -> Iterator[str]:
    """The account in words, newest first."""
    yield plain(f"{told['lu']}  {told['target']}".rstrip())
    yield from labelled("times", f"in the zone {datetime.now().astimezone():%Z (UTC%z)}")
    yield from _now(told)
    yield from _paths(told)
    shown = [each for each in told["incidents"] if not each["harmless"]]
    harmless = sum(each["count"] for each in told["incidents"] if each["harmless"])
    yield ""
    if shown:
        yield "What happened, newest first"
    elif told["doubt"]:
        yield "Nothing was seen to go wrong; what is in doubt may hide it."
    else:
        yield "Nothing went wrong in what was recorded."
    for incident in shown[:_SHOWN]:
        yield ""
        yield from _incident(incident)
    if len(shown) > _SHOWN:
        yield ""
        yield f"  … and {len(shown) - _SHOWN} more: prtrace explain --json has them all"
    if harmless:
        yield ""
        yield from labelled("harmless", f"{harmless} conflicts of scans: see --json")
    if told["remedies"] and (shown or told["doubt"]):
        yield ""
        yield "What may be done; prtrace does nothing of it"
        for each in told["remedies"]:
            yield ""
            host = f"On {each['host']}: " if each["host"] else ""
            yield from labelled("-", plain(f"{host}{each['what']}"), column=4)
            for command in filter(None, (each["command"] or "").split("; ")):
                yield f"    {plain(command)}"
            yield from labelled("costs", plain(each["costs"]), indent=4, column=11)
    yield ""
    for each in told["recorded"]:
        host = f" of {each['host']}" if each["host"] else ""
        since = f" from {_clock(each['first'])} on" if each["first"] else ""
        yield from labelled(
            "seen", plain(f"{each['events']} events{host}{since}; what was before is not in it")
        )
        if each["ahead"] is not None:
            yield from labelled("clock", plain(_clocks(each, told["recorded"][0])))


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


def _now(told: Mapping[str, Any]) -> Iterator[str]:
    as_of = f"as of {_clock(told['as_of'])}" if told["as_of"] else "never confirmed by the device"
    if told["as_of"] and told["clock"]:
        as_of += f" by {told['clock']}'s clock"
    yield from labelled("known", f"{as_of}; what other hosts did since is not seen")
    for doubt in told["doubt"]:
        yield from labelled("IN DOUBT", plain(f"{doubt['what']}: {doubt['reason']}"))
    held = told["reservation"]
    doubted = any(doubt["what"] == "reservation" for doubt in told["doubt"])
    mark = " (in doubt)" if doubted else ""
    if told["legacy_reservation"] is not None:
        holder = told["legacy_reservation"]
        text = f"an SPC-2 RESERVE by {holder}{mark}; sg_persist does not show it"
        yield from labelled("reservation", plain(text))
    elif held is None:
        yield from labelled("reservation", "not known" if doubted else "none")
    else:
        who = "a nexus that is not known"
        if held["type"] in ("WEAR", "EAAR"):
            who = "every registered nexus"
        elif held["holders"]:
            who = ", ".join(held["holders"])
        yield from labelled("reservation", plain(f"{held['type']}, held by {who}{mark}"))
    for each in told["registrations"]:
        where = each["device"] or each["initiator_port"] or each["nexus"]
        words = f"{each['key']} on {where}"
        if each["host"]:
            words += f", {each['host']}"
        for owner in each["owners"]:
            words += f"; {'' if owner['certain'] else 'maybe '}{owner['name']}: {owner['why']}"
        yield from labelled("registered", plain(words))
    for key in told["unattributed_keys"]:
        yield from labelled("registered", f"{key} on a nexus that is not known")


def _paths(told: Mapping[str, Any]) -> Iterator[str]:
    words = {True: "yes", False: "NO", None: "not known"}
    for path in told["paths"]:
        if "may_write" in path:
            name = path["device"] or path["sg"] or path["nexus"]
            if path["host"]:
                name += f" of {path['host']}"
            text = f"{name}: read {words[path['may_read']]}, write {words[path['may_write']]}"
            why = path.get("why_write") or ""
            yield from labelled("path", plain(f"{text} ({why})" if why else text))


def _incident(incident: Mapping[str, Any]) -> Iterator[str]:
    times = f" x{incident['count']}" if incident["count"] > 1 else ""
    where = incident["device"] or incident["nexus"] or "the unit"
    host = f" on {incident['host']}" if incident["host"] else ""
    yield plain(f"{_clock(incident['last'])}  {where}{host}  {incident['kind']}{times}")
    if _clock(incident["at"]) != _clock(incident["last"]):
        yield from labelled("first at", _clock(incident["at"]))
    if incident["kind"] == IncidentKind.MOVED.value:
        yield from labelled("-", plain(incident["title"]), column=4)
    for link in incident["chain"]:
        by = f" by {link['host']}'s clock" if link["host"] != incident["host"] else ""
        when = f"{_clock(link['at'])}{by}  " if link["at"] else ""
        mark = "" if link["certainty"] == "observed" else f"[{link['certainty']}] "
        yield from labelled("-", plain(f"{when}{mark}{link['text']}"), column=4)


def _clock(time: str) -> str:
    return f"{datetime.fromisoformat(time).astimezone():%Y-%m-%d %H:%M:%S}"
