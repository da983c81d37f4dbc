"""prtrace finish."""

from __future__ import annotations

import click

from prtrace.cli.carrying import VerbCall, verb
from prtrace.errors import UsageError
from prtrace.move.verbs import Report


@click.command(
    "finish",
    epilog="""\b
Exit status: 0 done; 1 refused; 4 the destination has not taken the
reservation yet, or something is in doubt; 24 gone, changed since, or
superseded.
\b
Examples:
  prtrace finish db1.json                         after load
  prtrace finish db1.json --from-destination      the source's host is off
""",
)
@click.option(
    "--from-destination",
    is_flag=True,
    help="on the destination: the source's host is off, take its key away",
)
@click.option("--paused", is_flag=True, help="with --from-destination: the guest is paused")
@verb
def command(call: VerbCall, *, from_destination: bool, paused: bool) -> Report:
    """Give the guest's key up on the source, after a migration.

    The key that multipathd stores is forgotten, too: it would register it
    again on a path that returns.
    --from-destination takes away what a source that is off has left. That
    needs a reservation that the guest holds alone: its own key is preempted,
    and stays registered at every moment. With several paths the guest must be
    paused. Elsewhere what is left is named by check, and does no harm.
    FILE is what prtrace save wrote, "-" standard input, or a move that
    prtrace moves lists.
    """
    if paused and not from_destination:
        raise UsageError("--paused goes with --from-destination")
    if from_destination:
        moves = call.moves("Is the source's host off, and may its key go?")
        return moves.finish_from_destination(call.saved, paused=paused)
    return call.moves("Has load ended well, and may the key go here?").finish(call.saved)
