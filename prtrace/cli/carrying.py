"""What load, rollback and finish have in common: the file, the options, the report."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from prtrace.cli.text import document, labelled, line, plain
from prtrace.errors import PrtraceError
from prtrace.move import savefile
from prtrace.move.actions import MoveReport
from prtrace.move.journal import STATE_DIR
from prtrace.move.savefile import SaveFile

_Function = TypeVar("_Function", bound=Callable[..., Any])


def state_dir_option(function: _Function) -> _Function:
    """--state-dir, where the journal is."""
    return click.option(
        "--state-dir",
        metavar="DIR",
        type=click.Path(path_type=Path),
        default=STATE_DIR,
        show_default=True,
        help="where the journal is kept",
    )(function)


def yes_option(function: _Function) -> _Function:
    """--yes, for what somebody at a terminal is asked about."""
    return click.option("-y", "--yes", is_flag=True, help="do not ask, on a terminal either")(
        function
    )


def agreed(question: str, *, yes: bool) -> bool:
    """Ask whoever sits at a terminal; a script has decided when it called."""
    if yes or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return True
    return click.confirm(question)


def read_file(name: str) -> SaveFile:
    """The save file called name, or standard input for "-"."""
    try:
        if name == "-":
            return savefile.parse(sys.stdin.read(savefile.MAX_SIZE + 1))
        with open(name, encoding="utf-8") as file:
            return savefile.parse(file.read(savefile.MAX_SIZE + 1))
    except OSError as error:
        raise PrtraceError(f"{name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PrtraceError(f"{name} is not text", hint="copy it again, or save anew") from error


def say(lu: str, words: str) -> None:
    """Print what was done for one unit, as it happens."""
    line(f"{plain(lu)}: {plain(words)}")


def print_report(report: MoveReport, *, as_json: bool) -> int:
    """Print how it ended; the exit status."""
    if as_json:
        document(report.to_json())
        return report.exit_code
    for unit in report.units:
        for text in unit.planned:
            say(unit.lu, f"would {text}")
        for attention in unit.attentions:
            for text in labelled("consumed", attention):
                line(text)
        say(unit.lu, f"{unit.end.result.value}{': ' if unit.end.why else ''}{unit.end.why}")
    return report.exit_code
