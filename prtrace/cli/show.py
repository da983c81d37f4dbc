"""prtrace show."""

from __future__ import annotations

import click

from prtrace.api.client import Client
from prtrace.cli.options import json_option, socket_option
from prtrace.cli.text import document, line
from prtrace.cli.unit import unit_lines
from prtrace.errors import InDoubtError


@click.command(
    "show",
    epilog="""\b
Exit status 4: part of it is in doubt (the lines IN DOUBT say what).
\b
Examples:
  prtrace show                          every unit of this host
  prtrace show /dev/mapper/mpatha       by any of its names
  prtrace show 2:0:0:1 --json | jq .    for programs
""",
)
@click.argument("devices", metavar="[DEVICE]...", nargs=-1)
@json_option
@socket_option
def command(devices: tuple[str, ...], *, as_json: bool, socket: str) -> int:
    """Show who is registered and who holds the reservation.

    DEVICE is a disk, sg or multipath node, an address H:C:T:L or a
    designator (naa.…); without one, every unit is shown.
    """
    shown = Client(socket).call("Show", devices=list(devices) or None)
    units = shown["units"]
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
    return InDoubtError.exit_code if any(unit["doubt"] for unit in units) else 0
