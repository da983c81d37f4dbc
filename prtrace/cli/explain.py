"""prtrace explain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import click

from prtrace.api.client import Client
from prtrace.cli.files import (
    configured_keys,
    names_options,
    read_keys,
    read_ports,
    read_recordings,
)
from prtrace.cli.history import find_unit, look, moment, stored, units_of
from prtrace.cli.options import json_option, socket_option
from prtrace.cli.text import document, labelled, line, plain, warn
from prtrace.errors import InDoubtError
from prtrace.explain.account import account
from prtrace.explain.incident import IncidentKind
from prtrace.explain.ports import Ports
from prtrace.explain.statement import (
    Moment,
    Statement,
    commands,
    nothing_wrong,
    offers,
    statements,
)
from prtrace.explain.statement import (
    recordings as of_recordings,
)

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
        looked, by_files = look(given, lu, until), configured_keys(given)
        ports += [Ports(each.host, frozenset(each.ports)) for each in given if each.ports]
    else:
        client = Client(socket)
        unit = client.call("Show", devices=[device])["units"][0]
        looked = look([stored(client, unit, EVENTS)], unit["lu"], until)
        by_files = configured_keys(())
        if until is None:
            looked = replace(looked, unit=unit)
    told = account(
        looked.unit,
        looked.steps,
        joined=looked.joined,
        ports=ports,
        keys=keys,
        configured=by_files,
    )
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
    for each in statements(told):
        yield from _stated(each)
    shown = [each for each in told["incidents"] if not each["harmless"]]
    harmless = sum(each["count"] for each in told["incidents"] if each["harmless"])
    yield ""
    yield nothing_wrong(told) or "What happened, newest first"
    for incident in shown[:_SHOWN]:
        yield ""
        yield from _incident(incident)
    if len(shown) > _SHOWN:
        yield ""
        yield f"  … and {len(shown) - _SHOWN} more: prtrace explain --json has them all"
    if harmless:
        yield ""
        yield from labelled("harmless", f"{harmless} conflicts of scans: see --json")
    if offered := offers(told):
        yield ""
        yield "What may be done; prtrace does nothing of it"
        for remedy in offered:
            yield ""
            host = f"On {remedy['host']}: " if remedy["host"] else ""
            yield from labelled("-", plain(f"{host}{remedy['what']}"), column=4)
            for text in commands(remedy):
                yield f"    {plain(text)}"
            yield from labelled("costs", plain(remedy["costs"]), indent=4, column=11)
    yield ""
    for each in of_recordings(told):
        yield from _stated(each)


def _stated(each: Statement) -> Iterator[str]:
    words = (_clock(word.at) if isinstance(word, Moment) else word for word in each.words)
    yield from labelled(each.label, plain("".join(words)))


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
