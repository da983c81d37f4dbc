"""prtrace rollback."""

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
from prtrace.linux.units import scan
from prtrace.move.actions import MoveOptions, rollback
from prtrace.move.knowledge import witness
from prtrace.move.side import find_saved_sides


@click.command(
    "rollback",
    epilog="""\b
Exit status: 0 the guest may go on here; 24 it was fenced; 4 in doubt.
Make sure that no load of the file runs any more.
\b
Examples:
  prtrace rollback db1.json
""",
)
@click.argument("file")
@yes_option
@state_dir_option
@json_option
@socket_option
def command(file: str, *, yes: bool, state_dir: Path, as_json: bool, socket: str) -> int:
    """Take the reservations back on the source after a failed migration,
    however far the destination got.

    FILE is what prtrace save wrote; "-" is standard input.
    """
    saved = read_file(file)
    options = MoveOptions(
        state_dir=state_dir,
        approve=lambda: agreed("Send this, and take the key back?", yes=yes or as_json),
        progress=(lambda _lu, _words: None) if as_json else say,
        witness=witness(AgentObserver(socket)),
    )
    report = rollback(saved, find_saved_sides(scan(), saved), options)
    return print_report(report, as_json=as_json)
