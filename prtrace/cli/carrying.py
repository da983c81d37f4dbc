"""What the verbs of a move have in common: the file, the options, the report."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.core import ParameterSource

from prtrace.cli.options import FOLDER, json_option
from prtrace.cli.text import document, flush, labelled, line, lose_output, plain, warn
from prtrace.errors import PrtraceError, UsageError
from prtrace.move import savefile
from prtrace.move.carry import MoveOptions
from prtrace.move.journal import STATE_DIR, stored_file
from prtrace.move.savefile import SaveFile
from prtrace.move.verbs import Moves, Report


def _there(context: click.Context, option: click.Parameter, value: Path) -> Path:
    """The folder; UsageError for a named one that is none: it would seem to have no moves."""
    named = context.get_parameter_source(option.name or "") is not ParameterSource.DEFAULT
    if named and not value.is_dir():
        raise UsageError(
            f"{value} is no folder", hint="name the one that the moves were made with"
        )
    return value


_STATE_DIR: dict[str, Any] = {
    "metavar": "DIR",
    "type": FOLDER,
    "default": STATE_DIR,
    "help": "where the journals are kept",
}
state_dir_option = click.option("--state-dir", **_STATE_DIR)
looking_state_dir_option = click.option("--state-dir", **_STATE_DIR, callback=_there)
"""Of a command that only looks: it makes no folder."""
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="look, say what comes next, send nothing"
)


class VerbCall(NamedTuple):
    """What every verb that sends commands is called with."""

    file: str
    state_dir: Path
    yes: bool
    hands_over: bool
    as_json: bool

    @property
    def saved(self) -> SaveFile:
        """The save file that it names."""
        return read_file(self.file, self.state_dir)

    def moves(self, question: str, *, dry_run: bool = False) -> Moves:
        """The verbs, as this call wants them; somebody at a terminal is asked question."""
        return Moves(
            MoveOptions(
                state_dir=self.state_dir,
                dry_run=dry_run,
                approve=lambda: _agreed(question, yes=self.yes),
                progress=(lambda _lu, _words: None) if self.as_json else say,
                hands_over=True if self.hands_over else None,
            )
        )


def verb(function: Callable[..., Report]) -> Callable[..., int]:
    """FILE and the options that all verbs have; prints the report that the verb ends with.

    function: takes a VerbCall, then its own options by name.
    """

    @click.argument("file")
    @state_dir_option
    @click.option("-y", "--yes", is_flag=True, help="do not ask, on a terminal either")
    @click.option(
        "--hands-over",
        is_flag=True,
        help="the array is known to keep a registrant that preempts its own key",
    )
    @json_option
    @wraps(function)
    def command(
        *,
        file: str,
        state_dir: Path,
        yes: bool,
        hands_over: bool,
        as_json: bool,
        **own: object,
    ) -> int:
        call = VerbCall(file, state_dir, yes, hands_over, as_json)
        return print_report(function(call, **own), as_json=as_json)

    return command


def _mapping(
    _context: click.Context, _option: click.Parameter, pairs: tuple[str, ...]
) -> dict[str, str]:
    found = {}
    for pair in pairs:
        old, equals, new = pair.partition("=")
        if not (old and equals and new):
            raise UsageError(f"{pair} is not OLD=NEW", hint="--device /dev/sda=/dev/sdb")
        found[old] = new
    return found


device_option = click.option(
    "--device",
    "mapped",
    metavar="OLD=NEW",
    multiple=True,
    callback=_mapping,
    help="the path or map to use for a unit; OLD as in the file, or a designator",
)
"""For verbs of the destination; gives {OLD: NEW}."""


def _agreed(question: str, *, yes: bool) -> bool:
    """Ask whoever sits at a terminal; a script has decided when it called."""
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    return click.confirm(question, err=True)


def read_file(name: str, state_dir: Path = STATE_DIR) -> SaveFile:
    """The save file called name, standard input for "-", or that of a move that is known here."""
    try:
        if name == "-":
            return savefile.parse(sys.stdin.read(savefile.MAX_SIZE + 1))
        path = Path(name)
        if not path.exists():
            path = stored_file(state_dir, name) or path
        with path.open(encoding="utf-8") as file:
            return savefile.parse(file.read(savefile.MAX_SIZE + 1))
    except OSError as error:
        raise PrtraceError(
            f"{name} cannot be read: {error.strerror}",
            hint="name the file of prtrace save, or a move that prtrace moves lists",
        ) from error
    except UnicodeDecodeError as error:
        raise PrtraceError(f"{name} is not text", hint="copy it again, or save anew") from error


def say(lu: str, words: str) -> None:
    """Print what was done for one unit, as it happens."""
    line(f"{plain(lu)}: {plain(words)}")


def print_report(report: Report, *, as_json: bool) -> int:
    """Print how it ended; the exit status, also where the output cannot be written.

    Any other status would tell a script that waits for it something that is not so: 1 is
    "refused", and the guest may run, or its key is in question.
    """
    try:
        if as_json:
            document(report.to_json())
        else:
            _print_units(report)
        flush()
    except OSError as error:
        lose_output()
        warn(f"prtrace: the report could not be written: {error.strerror}")
        warn("hint: the exit status tells how it ended; prtrace moves --all tells it again")
    return report.exit_code


def _print_units(report: Report) -> None:
    for unit in report.units:
        for text in unit.planned:
            say(unit.lu, f"would {text}")
        for attention in unit.attentions:
            for text in labelled("consumed", attention):
                line(text)
        for text in unit.removed:
            say(unit.lu, f"removed {text}")
        for text in unit.remains:
            say(unit.lu, f"note: {text}")
        say(unit.lu, f"{unit.word.value} ({unit.why})" if unit.why else unit.word.value)
