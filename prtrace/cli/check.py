"""prtrace check."""

from __future__ import annotations

import socket as sockets

import click

from prtrace.cli.knowledge import guest_options, observed_moves, read_option
from prtrace.cli.options import json_option, socket_option
from prtrace.cli.text import document, labelled, line, plain
from prtrace.move.carry import MoveOptions
from prtrace.move.verdict import UnitVerdict, check_view, overall


@click.command(
    "check",
    epilog="""\b
Exit status: 0 it may move, with or without something to move; 11 blocked;
12 in doubt.
\b
Examples:
  prtrace check /dev/mapper/mpatha --guest db1     before migrating db1
  prtrace check --read yes /dev/sda                ask the device as well
""",
)
@click.argument("devices", metavar="DEVICE...", nargs=-1, required=True)
@guest_options
@read_option
@json_option
@socket_option
def command(
    devices: tuple[str, ...],
    *,
    guest: str | None,
    pid: int | None,
    read: str,
    as_json: bool,
    socket: str,
) -> int:
    """Say whether the reservation state of DEVICE can move to another host now.

    A disk or sg node stands for that one path, a multipath map for its
    paths, a designator for all paths of this host.
    """
    moves, reads = observed_moves(MoveOptions(), socket, read)
    verdicts = moves.check(devices, guest=guest, pid=pid, read=reads)
    if as_json:
        document(check_view(verdicts, sockets.gethostname()))
    else:
        for verdict in verdicts:
            _show(verdict)
    return overall(verdicts).exit_code


def _show(verdict: UnitVerdict) -> None:
    line(f"{plain(verdict.side.name)}: {verdict.verdict.value}")
    for reason in verdict.reasons:
        for text in labelled("because", f"{reason.obstacle.value}: {reason.fact}"):
            line(text)
    for place, step in enumerate(verdict.would):
        for text in labelled("" if place else "would", step):
            line(text)
    for note in verdict.notes:
        for text in labelled("note", note):
            line(text)
