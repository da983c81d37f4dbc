"""prtrace replay."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from prtrace.cli.options import json_option
from prtrace.cli.rebuild import (
    Difference,
    Rebuilt,
    event_differences,
    read_lines,
    state_differences,
)
from prtrace.cli.text import document, line, plain, warn
from prtrace.cli.unit import unit_lines
from prtrace.errors import InDoubtError, MalformedError, PrtraceError, UsageError
from prtrace.state.event import Event
from prtrace.state.view import show_view, unit_view
from prtrace.store.database import Store

_SQLITE: Final = b"SQLite format 3\0"
_SHOWN: Final = 20
"""Differences that --check prints; the rest is counted."""

_TOLD_EVERY: Final = 0.5


@click.command(
    "replay",
    epilog="""\b
Exit status 1: --check found differences.  4: part of the state is in doubt.
\b
Examples:
  prtrace events --json | prtrace replay -
  prtrace replay events.jsonl --check
  prtrace replay /var/lib/prtrace/prtrace.db --json
""",
)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--check", is_flag=True, help="compare with what was recorded")
@json_option
def command(file: Path, *, check: bool, as_json: bool) -> int:
    """Rebuild the state from recorded events, and show it.

    FILE is what `prtrace events --json` printed, or a store (prtrace.db).
    Needs no agent, no device and no privilege.
    """
    rebuilt = Rebuilt()
    differences: list[Difference] = []
    counted = _replay_store if _is_store(file) else _replay_lines
    found = 0
    for difference in counted(file, rebuilt, check=check):
        found += 1
        if len(differences) < _SHOWN:
            differences.append(difference)
    units = [
        unit_view(state, rebuilt.unit(state), rebuilt.newest) for state in rebuilt.states.values()
    ]
    if as_json:
        document(show_view(units, ""))
    else:
        for unit in units:
            for text in unit_lines(unit):
                line(text)
            line()
        line(f"{rebuilt.events} events, {len(units)} logical units")
    if found:
        _report(differences, found)
        return PrtraceError.exit_code
    if check:
        warn("no differences")
    return InDoubtError.exit_code if any(unit["doubt"] for unit in units) else 0


def _replay_lines(file: Path, rebuilt: Rebuilt, *, check: bool) -> Iterator[Difference]:
    name = "standard input" if str(file) == "-" else plain(file)
    try:
        with open(0 if str(file) == "-" else file, "rb", closefd=str(file) != "-") as opened:
            size = os.fstat(opened.fileno()).st_size
            with _progress(size) as told:
                yield from _apply(read_lines(opened, name), rebuilt, told, check=check)
    except OSError as error:
        raise UsageError(f"{name}: {os.strerror(error.errno or 0)}") from error


def _replay_store(file: Path, rebuilt: Rebuilt, *, check: bool) -> Iterator[Difference]:
    with Store.open(file, readonly=True) as store, store.snapshot():
        base, rebuilt.states = store.base()
        rebuilt.last_seq = base
        with _progress(store.size().last - base) as told:
            stored = enumerate(store.events(since_seq=base), 1)
            yield from _apply(stored, rebuilt, told, check=check)
        if check:
            yield from state_differences(store.states(), rebuilt.states)


def _apply(
    events: Iterator[tuple[int, Event]], rebuilt: Rebuilt, told: _Told, *, check: bool
) -> Iterator[Difference]:
    for done, event in events:
        try:
            recomputed = rebuilt.add(event)
        except MalformedError as error:
            raise MalformedError(f"event {event.seq}", str(error)) from error
        told.note(done)
        if check:
            yield from event_differences(event, recomputed)


class _Told:
    """Progress on a terminal: a line that is written over, at most twice a second."""

    def __init__(self, total: int) -> None:
        self._total = total if sys.stderr.isatty() else 0
        self._next = time.monotonic() + 2 * _TOLD_EVERY
        self._shown = False

    def note(self, done: int) -> None:
        """done of the total have been read."""
        if self._total and time.monotonic() >= self._next:
            self._next = time.monotonic() + _TOLD_EVERY
            self._shown = True
            click.echo(f"\rreplaying: {100 * done // self._total} %", nl=False, err=True)

    def end(self) -> None:
        """Wipe the line."""
        if self._shown:
            click.echo("\r" + " " * 20 + "\r", nl=False, err=True)


@contextmanager
def _progress(total: int) -> Iterator[_Told]:
    told = _Told(total)
    try:
        yield told
    finally:
        told.end()


def _is_store(file: Path) -> bool:
    if str(file) == "-":
        return False
    try:
        # A pipe cannot be read twice.
        if not stat.S_ISREG(file.stat().st_mode):
            return False
        with open(file, "rb") as opened:
            return opened.read(len(_SQLITE)) == _SQLITE
    except OSError as error:
        raise UsageError(f"{plain(file)}: {os.strerror(error.errno or 0)}") from error


def _report(differences: list[Difference], found: int) -> None:
    for each in differences:
        where = f"event {each.seq}" if each.seq else "state"
        warn(f"{where}, {each.lu}: {each.what}:")
        warn(f"  recorded:   {each.recorded}")
        warn(f"  recomputed: {each.recomputed}")
    if found > len(differences):
        warn(f"... and {found - len(differences)} more")
    warn(f"prtrace: {found} differences between what was recorded and what is recomputed")
