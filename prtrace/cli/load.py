"""prtrace load."""

from __future__ import annotations

from pathlib import Path

import click

from prtrace.cli.carrying import (
    device_option,
    mapping,
    options,
    print_report,
    read_file,
    verb_options,
)
from prtrace.cli.options import json_option
from prtrace.move.verbs import Moves


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
@click.argument("file")
@device_option
@click.option("--released", is_flag=True, help="the source has run prtrace release")
@click.option("--dry-run", is_flag=True, help="look, say what comes next, send nothing")
@verb_options
@json_option
def command(
    file: str,
    *,
    mapped: tuple[str, ...],
    released: bool,
    dry_run: bool,
    yes: bool,
    hands_over: bool,
    state_dir: Path,
    as_json: bool,
) -> int:
    """Take the reservation over, on the destination, the guest being paused.

    Without prtrace prepare it registers the key by itself, if nothing has
    changed on the device since prtrace save. Called again after a crash it
    goes on.
    FILE is what prtrace save wrote, "-" standard input, or a move that
    prtrace moves lists.
    """
    how = options(
        state_dir,
        "Is the guest paused, and may its key be taken over?",
        yes=yes,
        as_json=as_json,
        hands_over=hands_over,
        dry_run=dry_run,
    )
    report = Moves(how).load(read_file(file, state_dir), mapping(mapped), released=released)
    return print_report(report, as_json=as_json)
