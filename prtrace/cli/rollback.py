"""prtrace rollback."""

from __future__ import annotations

import click

from prtrace.cli.carrying import VerbCall, verb
from prtrace.move.verbs import Report


@click.command(
    "rollback",
    epilog="""\b
Exit status: on the source: 0 the guest may go on; 24 it was fenced, or
the move is spent; 4 in doubt. On the destination: 0 nothing is left.
\b
Examples:
  prtrace rollback db1.json                      on the destination first
  prtrace rollback db1.json                      then on the source, paused
  prtrace rollback db1.json --destination-is-off  its host was fenced
""",
)
@click.option(
    "--as",
    "side",
    type=click.Choice(["source", "destination"]),
    help="which side this host is, where its journal does not say",
)
@click.option("--runs", is_flag=True, help="the guest runs on the source: nothing to do there")
@click.option(
    "--destination-is-off",
    is_flag=True,
    help="its host was fenced or its guest seen dead: what is left there is named",
)
@verb
def command(call: VerbCall, *, side: str | None, runs: bool, destination_is_off: bool) -> Report:
    """Abort a move: this host's part of it.

    On the destination the guest must not run; what the move registered
    there is taken away. On the source the guest must be paused; afterwards
    it may go on if the exit status is 0.
    FILE is what prtrace save wrote, "-" standard input, or a move that
    prtrace moves lists.
    """
    moves = call.moves("Does the guest run nowhere, and may the move be undone here?")
    return moves.rollback(
        call.saved, side=side or "", runs=runs, destination_is_off=destination_is_off
    )
