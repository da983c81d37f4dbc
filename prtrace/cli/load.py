"""prtrace load."""

from __future__ import annotations

from pathlib import Path

import click

from prtrace.cli.carrying import (
    agreed,
    print_report,
    read_file,
    say,
    state_dir_option,
    yes_option,
)
from prtrace.cli.knowledge import AgentObserver
from prtrace.cli.options import json_option, socket_option
from prtrace.errors import UsageError
from prtrace.linux.units import scan
from prtrace.move.actions import MAX_AGE_S, MoveOptions, load
from prtrace.move.knowledge import witness
from prtrace.move.side import find_loading_sides


@click.command(
    "load",
    epilog="""\b
Exit status: 0 the guest may run here; 24 it was fenced, or the source has
taken the key back; 4 in doubt; 1 refused, nothing was sent.
\b
Examples:
  prtrace load db1.json
  prtrace load db1.json --dry-run
  prtrace load db1.json --device naa.60014051=/dev/mapper/mpathb
""",
)
@click.argument("file")
@click.option(
    "--device",
    "devices",
    metavar="OLD=NEW",
    multiple=True,
    help="the path or map to use for a unit; OLD as in the file, or a designator",
)
@click.option("--dry-run", is_flag=True, help="look and plan, send nothing")
@click.option(
    "--max-age",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    default=MAX_AGE_S,
    show_default=True,
    help="refuse a file that is older",
)
@yes_option
@state_dir_option
@json_option
@socket_option
def command(
    file: str,
    *,
    devices: tuple[str, ...],
    dry_run: bool,
    max_age: float,
    yes: bool,
    state_dir: Path,
    as_json: bool,
    socket: str,
) -> int:
    """Take the saved reservations over, on the destination.

    FILE is what prtrace save wrote; "-" is standard input.  A load that
    was interrupted goes on where it was when it is given again.
    """
    saved = read_file(file)
    options = MoveOptions(
        state_dir=state_dir,
        max_age_s=max_age,
        dry_run=dry_run,
        approve=lambda: agreed("Send this, and take the key over?", yes=yes or as_json),
        progress=(lambda _lu, _words: None) if as_json else say,
        witness=witness(AgentObserver(socket)),
    )
    sides = find_loading_sides(scan(), saved, _mapping(devices))
    return print_report(load(saved, sides, options), as_json=as_json)


def _mapping(pairs: tuple[str, ...]) -> dict[str, str]:
    mapping = {}
    for pair in pairs:
        old, equals, new = pair.partition("=")
        if not (old and equals and new):
            raise UsageError(f"{pair} is not OLD=NEW", hint="--device /dev/sda=/dev/sdb")
        mapping[old] = new
    return mapping
