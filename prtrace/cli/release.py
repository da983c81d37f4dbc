"""prtrace release."""

from __future__ import annotations

import click

from prtrace.cli.carrying import VerbCall, verb
from prtrace.move.verbs import Report


@click.command(
    "release",
    epilog="""\b
Exit status: 0 released, load --released takes it; 24 fenced or gone; 4 in
doubt; 1 refused.
\b
Examples:
  prtrace release db1.json                        in the pause, before load
""",
)
@verb
def command(call: VerbCall) -> Report:
    """Release the reservation on the source, for targets that cannot hand over.

    prtrace check says where this is needed. Until prtrace load --released
    reserves on the destination, nothing is reserved.
    FILE is what prtrace save wrote, "-" standard input, or a move that
    prtrace moves lists.
    """
    moves = call.moves("Is the guest paused, and may its reservation be released?")
    return moves.release(call.saved)
