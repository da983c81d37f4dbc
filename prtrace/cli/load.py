"""prtrace load."""

from __future__ import annotations

import click

from prtrace.cli.carrying import VerbCall, device_option, dry_run_option, verb
from prtrace.move.verbs import Report


@click.command(
    "load",
    epilog="""\b
Exit status: 0 the guest may run here. Otherwise it may not: 24 it was
fenced, or the move is spent; 4 in doubt; 1 refused, or a dry run.
\b
Examples:
  prtrace load db1.json                           in the pause
  prtrace load db1.json --dry-run
""",
)
@device_option
@click.option("--released", is_flag=True, help="the source has run prtrace release")
@dry_run_option
@verb
def command(call: VerbCall, *, mapped: dict[str, str], released: bool, dry_run: bool) -> Report:
    """Take the reservation over, on the destination, the guest being paused.

    Without prtrace prepare it registers the key by itself, if nothing has
    changed on the device since prtrace save. Called again after a crash it
    goes on.
    FILE is what prtrace save wrote, "-" standard input, or a move that
    prtrace moves lists.
    """
    moves = call.moves("Is the guest paused, and may its key be taken over?", dry_run=dry_run)
    return moves.load(call.saved, mapped, released=released)
