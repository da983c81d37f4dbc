"""prtrace moves."""

from __future__ import annotations

from pathlib import Path

import click

from prtrace.cli.carrying import looking_state_dir_option
from prtrace.cli.options import json_option
from prtrace.cli.text import document, labelled, line, plain
from prtrace.move.carry import MoveOptions
from prtrace.move.verbs import Moves, moves_view, next_step


@click.command(
    "moves",
    epilog="""\b
Exit status: 0 nothing is unfinished here; 4 something is, or a journal
cannot be read; 1 this user may not look.
\b
Examples:
  prtrace moves
""",
)
@click.option("--all", "everything", is_flag=True, help="list what has ended, too")
@looking_state_dir_option
@json_option
def command(*, everything: bool, state_dir: Path, as_json: bool) -> int:
    """List the moves that are unfinished on this host, with what to do."""
    moves = Moves(MoveOptions(state_dir))
    found, unreadable = moves.moves(), moves.unreadable()
    if as_json:
        document(moves_view(found))
    else:
        for entry in found:
            step = next_step(entry)
            if not step and not everything:
                continue
            verb = "save" if entry.verb is None else entry.verb.value
            end = "" if entry.end is None else f": {entry.end.value}"
            line(f"{entry.move} {plain(entry.lu)} ({entry.side})")
            for text in labelled("last", f"{entry.time} {verb}{end}"):
                line(text)
            for text in labelled("next", step) if step else ():
                line(text)
    for error in unreadable:
        for text in (error.message, error.hint):
            click.echo(plain(text), err=True)
    return 4 if unreadable or any(next_step(entry) for entry in found) else 0
