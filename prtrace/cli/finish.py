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
from prtrace.move.verbs import Moves


@click.command(
    "finish",
    epilog="""\b
Exit status: 0 done; 4 the source holds the reservation still, or something
is in doubt; 24 superseded by a newer move.
\b
Examples:
  prtrace finish db1.json                         after load
""",
)
@click.argument("file")
@verb_options
@json_option
def command(
    file: str,
    *,
    yes: bool,
    hands_over: bool,
    state_dir: Path,
    as_json: bool,
) -> int:
    """Give the guest's key up on the source, after a migration.

    The key that multipathd stores is forgotten, too: it would register it
    again on a path that returns.
    FILE is what prtrace save wrote, "-" standard input, or a move that
    prtrace moves lists.
    """
    question = "Has load ended well, and may the key go here?"
    how = options(state_dir, question, yes=yes, as_json=as_json, hands_over=hands_over)
    return print_report(Moves(how).finish(read_file(file, state_dir)), as_json=as_json)
