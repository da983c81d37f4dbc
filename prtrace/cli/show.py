"""prtrace show."""

from __future__ import annotations

from typing import Any

import click

from prtrace.api.client import Client
from prtrace.cli.options import json_option, max_age_option, socket_option
from prtrace.cli.text import document, line
from prtrace.cli.unit import unit_lines
from prtrace.errors import InDoubtError


@click.command(
    "show",
    epilog="""\b
Exit status 4: part of it is in doubt (the lines IN DOUBT say what), or
older than --max-age allows.
\b
Examples:
  prtrace show                          every unit of this host
  prtrace show /dev/mapper/mpatha       by any of its names
  prtrace show /dev/sda --max-age 0     ask the device now (root)
  prtrace show 2:0:0:1 --json | jq .    for programs
""",
)
@click.argument("devices", metavar="[DEVICE]...", nargs=-1)
@max_age_option
@json_option
@socket_option
def command(devices: tuple[str, ...], *, max_age: int | None, as_json: bool, socket: str) -> int:
    """Show who is registered and who holds the reservation.

    DEVICE is a disk, sg or multipath node, an address H:C:T:L or a
    designator (naa.…); without one, every unit is shown.

    What other hosts did after the time "as of" is not in it.  Asking the
    device takes the unit attention that waits for the path that is asked.
    """
    client = Client(socket)
    named = list(devices) or None
    asked: dict[str, dict[str, Any]] = {}
    if max_age is not None:
        units = client.call("Refresh", devices=named, max_age=max_age)["units"]
        asked = {each["lu"]: each for each in units}
    shown = client.call("Show", devices=named)
    units = shown["units"]
    for unit in units:
        if (told := asked.get(unit["lu"])) is not None:
            unit["refresh"] = {"asked": told["asked"], "problem": told["problem"] or None}
    if as_json:
        document(shown)
    elif not units:
        line("This host has no SCSI logical units.")
    else:
        for number, unit in enumerate(units):
            if number:
                line()
            for text in unit_lines(unit):
                line(text)
    old = any(each["problem"] for each in asked.values())
    return InDoubtError.exit_code if old or any(unit["doubt"] for unit in units) else 0
