"""prtrace save."""

from __future__ import annotations

import socket as sockets
from collections.abc import Callable
from pathlib import Path

import click

from prtrace.cli.carrying import state_dir_option
from prtrace.cli.knowledge import guest_options, observed_moves, read_option
from prtrace.cli.options import max_age_option, output_option, socket_option
from prtrace.cli.output import whole
from prtrace.errors import PrtraceError
from prtrace.move.carry import MoveOptions
from prtrace.move.savefile import SaveFile


@click.command(
    "save",
    epilog="""\b
Exit status: 11 it may not move, 12 in doubt; prtrace check says why.
\b
Examples:
  prtrace save /dev/sda -o db1.json              on the source
  prtrace save /dev/sda | ssh there prtrace prepare -
""",
)
@click.argument("devices", metavar="DEVICE...", nargs=-1, required=True)
@output_option(required=False)
@click.option(
    "--aptpl",
    type=click.Choice(("yes", "no")),
    help="whether registrations outlive a power loss, for an array that does not say it",
)
@guest_options
@read_option
@max_age_option
@state_dir_option
@socket_option
def command(
    devices: tuple[str, ...],
    *,
    output: Path | None,
    aptpl: str | None,
    guest: str | None,
    pid: int | None,
    read: str,
    max_age: int | None,
    state_dir: Path,
    socket: str,
) -> None:
    """Write down the reservation state of DEVICE, to be loaded on another host.

    Several devices go into one file, all or none.  It is kept on
    this host, too: prtrace moves lists it.
    """
    moves, reads = observed_moves(MoveOptions(state_dir), socket, read, max_age)
    persists = None if aptpl is None else aptpl == "yes"
    host = sockets.gethostname()

    def save() -> SaveFile:
        return moves.save(devices, guest=guest, pid=pid, read=reads, host=host, aptpl=persists)

    if output is None:
        click.echo(save().dump(), nl=False)
    else:
        _into(output, save)


def _into(output: Path, save: Callable[[], SaveFile]) -> None:
    """Save into output, which is opened first: a save makes an earlier file void, which may be on
    its way to the destination, and must not where no new file can be written.
    """
    file: SaveFile | None = None
    try:
        with whole(output) as write:
            file = save()
            write(file.dump())
    except PrtraceError as error:
        if file is None:
            raise
        raise PrtraceError(
            error.message,
            hint=f"move {file.id} was saved on this host all the same, and an older file is void: "
            "make room, and save again",
        ) from error
