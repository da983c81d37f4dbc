"""prtrace save."""

from __future__ import annotations

import socket as sockets
from pathlib import Path

import click

from prtrace.cli.knowledge import guest_options, learn, read_option
from prtrace.cli.options import socket_option
from prtrace.cli.output import write_whole
from prtrace.linux.units import scan
from prtrace.move import actions, saving
from prtrace.move.knowledge import asked_user
from prtrace.move.side import find_sides


@click.command(
    "save",
    epilog="""\b
Exit status: 11 it may not move, 12 in doubt; prtrace check says why.
\b
Examples:
  prtrace save /dev/sda -o db1.json              on the source, when paused
  prtrace save /dev/sda | ssh there prtrace load -
""",
)
@click.argument("devices", metavar="DEVICE...", nargs=-1, required=True)
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="not stdout")
@guest_options
@read_option
@socket_option
def command(
    devices: tuple[str, ...],
    *,
    output: Path | None,
    guest: str | None,
    pid: int | None,
    read: str,
    socket: str,
) -> None:
    """Write down the reservation state of DEVICE, to be loaded on another host.

    Several devices go into one file, all or none.  Save when the guest is
    paused: what it changes afterwards is not in the file.
    """
    sides = find_sides(scan(), devices)
    asked, itself = asked_user(guest, pid)
    known = learn(sides, socket, read)
    verdicts = actions.check(
        sides, known.units, asked=asked, users=known.users, moves_itself=itself
    )
    name = asked.guest if asked is not None else ""
    file = saving.save(
        known.units, verdicts, host=sockets.gethostname(), guest=name, aptpl=known.aptpl
    )
    if output is None:
        click.echo(file.dump(), nl=False)
    else:
        write_whole(output, file.dump())
