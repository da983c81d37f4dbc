"""prtrace check."""

from __future__ import annotations

import socket as sockets
from pathlib import Path

import click

from prtrace.cli.carrying import device_option, looking_state_dir_option, read_file
from prtrace.cli.knowledge import guest_options, observed_moves, read_option
from prtrace.cli.options import json_option, max_age_option, socket_option
from prtrace.cli.text import document, labelled, line, plain
from prtrace.errors import UsageError
from prtrace.move.carry import MoveOptions
from prtrace.move.journal import stored_file
from prtrace.move.verbs import Moves
from prtrace.move.verdict import UnitVerdict, check_view, overall


@click.command(
    "check",
    epilog="""\b
Exit status: 0 it may move, with or without something to move; 11 blocked;
12 in doubt, or older than --max-age allows.
\b
Examples:
  prtrace check /dev/mapper/mpatha --guest db1     before migrating db1
  prtrace check --read yes /dev/sda                ask the device as well
  prtrace check db1.json                           on the destination
  prtrace check --max-age 10 /dev/sda              have the agent ask it
""",
)
@click.argument("devices", metavar="DEVICE...|FILE", nargs=-1, required=True)
@guest_options
@read_option
@device_option
@click.option("--late", is_flag=True, help="FILE: the guest will go on before anything is loaded")
@looking_state_dir_option
@max_age_option
@json_option
@socket_option
def command(
    devices: tuple[str, ...],
    *,
    guest: str | None,
    pid: int | None,
    read: str,
    mapped: dict[str, str],
    late: bool,
    state_dir: Path,
    max_age: int | None,
    as_json: bool,
    socket: str,
) -> int:
    """Say whether the reservation state of DEVICE can move to another host now.

    A disk or sg node stands for that one path, a multipath map for its
    paths, a designator for all paths of this host.
    With the FILE of prtrace save, "-" for standard input: whether prepare
    would go well here, on the destination. The device is asked.
    """
    if _is_file(devices[0], state_dir):
        if len(devices) > 1 or guest or pid is not None:
            raise UsageError("a file of prtrace save stands alone", hint="check devices apart")
        file = read_file(devices[0], state_dir)
        verdicts = Moves(MoveOptions(state_dir)).check_arrival(file, mapped, late=late)
    else:
        if mapped or late:
            raise UsageError("--device and --late are about a file of prtrace save")
        moves, reads = observed_moves(MoveOptions(state_dir), socket, read, max_age)
        verdicts = moves.check(devices, guest=guest, pid=pid, read=reads)
    if as_json:
        document(check_view(verdicts, sockets.gethostname()))
    else:
        for verdict in verdicts:
            _show(verdict)
    return overall(verdicts).exit_code


def _is_file(name: str, state_dir: Path) -> bool:
    """Whether name is a save file: no device is a regular file."""
    return name == "-" or Path(name).is_file() or stored_file(state_dir, name) is not None


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
