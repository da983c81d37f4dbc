"""prtrace prepare."""

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
@click.argument("file")
@device_option
@click.option("--late", is_flag=True, help="the guest will go on before anything is loaded")
@click.option("--dry-run", is_flag=True, help="look, say what comes next, send nothing")
@verb_options
@json_option
def command(
    file: str,
    *,
    mapped: tuple[str, ...],
    late: bool,
    dry_run: bool,
    yes: bool,
    hands_over: bool,
    state_dir: Path,
    as_json: bool,
) -> int:
    """Register the guest's key on the destination, beside the source.

    The guest goes on on the source meanwhile. A prepare that fails leaves
    everything as it was; so does prtrace rollback afterwards.
    FILE is what prtrace save wrote, "-" standard input, or a move that
    prtrace moves lists.
    """
    how = options(
        state_dir,
        "Register the guest's key here?",
        yes=yes,
        as_json=as_json,
        hands_over=hands_over,
        dry_run=dry_run,
    )
    report = Moves(how).prepare(read_file(file, state_dir), mapping(mapped), late=late)
    return print_report(report, as_json=as_json)
