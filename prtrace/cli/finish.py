"""prtrace finish."""

from __future__ import annotations

from pathlib import Path

import click

from prtrace.cli.carrying import (
    options,
    print_report,
    read_file,
    verb_options,
)
from prtrace.cli.options import json_option
from prtrace.errors import UsageError
from prtrace.move.verbs import Moves


@click.command(
    "finish",
    epilog="""\b
Exit status: 0 done; 1 refused; 4 the source holds the reservation still,
or something is in doubt; 24 gone, changed since, or superseded.
\b
Examples:
  prtrace finish db1.json                         after load
  prtrace finish db1.json --from-destination      the source's host is off
""",
)
@click.argument("file")
@click.option(
    "--from-destination",
    is_flag=True,
    help="on the destination: the source's host is off, take its key away",
)
@click.option("--paused", is_flag=True, help="with --from-destination: the guest is paused")
@verb_options
@json_option
def command(
    file: str,
    *,
    from_destination: bool,
    paused: bool,
    yes: bool,
    hands_over: bool,
    state_dir: Path,
    as_json: bool,
) -> int:
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
    question = "Has load ended well, and may the key go here?"
    if from_destination:
        question = "Is the source's host off, and may its key go?"
    how = options(state_dir, question, yes=yes, as_json=as_json, hands_over=hands_over)
    saved = read_file(file, state_dir)
    if from_destination:
        report = Moves(how).finish_from_destination(saved, paused=paused)
    else:
        report = Moves(how).finish(saved)
    return print_report(report, as_json=as_json)
