"""prtrace report."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from importlib import resources
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
    split,
)
from prtrace.cli.history import Looked, find_unit, look, stored, units_of
from prtrace.cli.options import output_option, socket_option
from prtrace.cli.output import write_whole
from prtrace.cli.text import plain, warn
from prtrace.errors import UsageError
from prtrace.explain import page, perfetto
from prtrace.explain.account import account
from prtrace.explain.chart import Chart, chart
from prtrace.explain.ports import Ports
from prtrace.explain.recording import Recording
from prtrace.explain.statement import commands, nothing_wrong, offers, recordings, statements
from prtrace.explain.timeline import timeline
from prtrace.state.event import rfc3339

_EVENTS: Final = 50_000
"""The newest events of a unit that the page has; it stays fluid with so many."""
_READABLE: Final = 0o644


@click.command(
    "report",
    epilog="""\b
Examples:
  prtrace report -o report.html                       all units of this host
  prtrace report /dev/sda -o report.html              one of them
  prtrace report a.jsonl b.jsonl -o report.html       what two hosts recorded
  prtrace report /dev/sda --format perfetto -o t.json for ui.perfetto.dev
""",
)
@click.argument("words", metavar="[DEVICE|RECORDING]...", nargs=-1)
@output_option(required=True)
@click.option(
    "--format",
    "form",
    type=click.Choice(("html", "perfetto")),
    default="html",
    help="a page, or trace events as JSON",
)
@names_options
@socket_option
def command(
    words: tuple[str, ...],
    *,
    output: Path,
    form: str,
    ports_folder: Path,
    keys_file: Path | None,
    socket: str,
) -> None:
    """Draw what happened as one page that needs no network.

    A lane for each I_T nexus over time: registrations and the reservation as
    bands, commands, conflicts and unit attentions as marks, and beside them
    what prtrace explain says.  The newest 50,000 events of a unit are drawn.
    """
    devices, files = split(words)
    ports, keys = read_ports(ports_folder), read_keys(keys_file)
    if files:
        read = read_recordings(files)
        told = list(_recorded(read, devices))
        ports += [Ports(each.host, frozenset(each.ports)) for each in read if each.ports]
        by_files = configured_keys(read)
    else:
        told = list(_asked(Client(socket), devices))
        by_files = configured_keys(())
    if not told:
        raise UsageError("there is no logical unit to report on")
    charts = [_chart(each) for each in told]
    if form == "perfetto":
        text = json.dumps(perfetto.trace(charts), separators=(",", ":"))
    else:
        accounts = (
            account(
                each.unit,
                each.steps,
                joined=each.joined,
                ports=ports,
                keys=keys,
                configured=by_files,
            )
            for each in told
        )
        text = _page(charts, accounts)
    write_whole(output, text, _READABLE)
    marks = sum(len(each.marks) for each in charts)
    warn(f"{plain(str(output))}: {len(charts)} logical units, {marks} events")


def _chart(looked: Looked) -> Chart:
    joined = looked.joined
    if joined is None:
        return chart(looked.unit["lu"], looked.steps)
    return chart(looked.unit["lu"], looked.steps, joined.ahead, joined.reference)


def _page(charts: list[Chart], accounts: Iterator[dict[str, Any]]) -> str:
    folder = resources.files("prtrace.explain") / "report"
    frame, style, script = (
        (folder / f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")
    )
    units = [
        {
            "chart": each.to_json(),
            "account": told,
            "statements": [said.as_json() for said in (*statements(told), *recordings(told))],
            "nothing_wrong": nothing_wrong(told),
            "offers": [{**offer, "commands": commands(offer)} for offer in offers(told)],
        }
        for each, told in zip(charts, accounts, strict=True)
    ]
    return page.page(page.Parts(frame, style, script), units, rfc3339(time.time_ns()))


def _recorded(read: list[Recording], devices: list[str]) -> Iterator[Looked]:
    wanted = [find_unit(device, read) for device in devices] or units_of(read)
    for lu in dict.fromkeys(wanted):
        yield look(
            [each for each in read if any(event.lu == lu for event in each.events)],
            lu,
            newest=_EVENTS,
        )


def _asked(client: Client, devices: list[str]) -> Iterator[Looked]:
    units = client.call("Show", devices=devices) if devices else client.call("Show")
    for unit in units["units"]:
        recording = stored(client, unit, _EVENTS)
        steps = timeline(recording.events, unit["lu"], recording.paths_of(unit["lu"]))
        if steps:
            yield Looked(unit, [("", steps)], None)
