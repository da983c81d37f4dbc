"""prtrace release."""

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
    "release",
    epilog="""\b
Exit status: 0 released, load --released takes it; 24 fenced or gone; 4 in
doubt; 1 refused.
\b
Examples:
  prtrace release db1.json                        in the pause, before load
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
    """Release the reservation on the source, for targets that cannot hand over.

    prtrace check says where this is needed. Until prtrace load --released
    reserves on the destination, nothing is reserved.
    FILE is what prtrace save wrote, "-" standard input, or a move that
    prtrace moves lists.
    """
    question = "Is the guest paused, and may its reservation be released?"
    how = options(state_dir, question, yes=yes, as_json=as_json, hands_over=hands_over)
    return print_report(Moves(how).release(read_file(file, state_dir)), as_json=as_json)
