"""prtrace prepare."""

from __future__ import annotations

import click

from prtrace.cli.carrying import VerbCall, device_option, dry_run_option, verb
from prtrace.move.verbs import Report


@click.command(
    "prepare",
    epilog="""\b
Exit status: 0 prepared; 24 the guest was fenced, or has changed what it
registered; 4 in doubt; 1 refused, nothing of this move is left here.
\b
Examples:
  prtrace prepare db1.json                        before or while it migrates
  prtrace prepare db1.json --device /dev/sda=/dev/mapper/mpathb
""",
)
@device_option
@click.option("--late", is_flag=True, help="the guest will go on before anything is loaded")
@dry_run_option
@verb
def command(call: VerbCall, *, mapped: dict[str, str], late: bool, dry_run: bool) -> Report:
    """Register the guest's key on the destination, beside the source.

    The guest goes on on the source meanwhile. A prepare that fails leaves
    everything as it was; so does prtrace rollback afterwards.
    FILE is what prtrace save wrote, "-" standard input, or a move that
    prtrace moves lists.
    """
    moves = call.moves("Register the guest's key here?", dry_run=dry_run)
    return moves.prepare(call.saved, mapped, late=late)
