"""Text for terminals: what others chose is made harmless, columns are aligned, times are short."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click

from prtrace.linux.text import clean

WIDTH: Final = 80
_LONGEST: Final = 4000

_SKEW_S: Final = 5
"""How far two clocks may differ that are kept right."""
_UNITS: Final = ((86_400, "d"), (3600, "h"), (60, "min"))


def plain(text: object) -> str:
    """Text without control characters; names, targets and processes are chosen by others."""
    return clean(str(text), _LONGEST)


def line(text: str = "") -> None:
    """Print one line."""
    click.echo(text)


def warn(text: str) -> None:
    """Print one line on stderr; where that cannot be written, nobody can be told."""
    with contextlib.suppress(OSError):
        click.echo("\n".join(plain(part) for part in text.splitlines()), err=True)


def flush() -> None:
    """Have what was printed written; OSError where that fails."""
    if sys.stdout is not None:  # it is None where the caller closed it
        sys.stdout.flush()


def lose_output() -> None:
    """Throw away what is not printed yet: Python would report at its exit that it cannot be."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def document(value: Any) -> None:
    """Print value as JSON, readable."""
    click.echo(json.dumps(value, indent=2))


def width() -> int:
    """The columns there are: the terminal's, at least 80; 80 where there is none."""
    if not sys.stdout.isatty():
        return WIDTH
    # Brings archives and their compression along, and few commands ask for it.
    import shutil

    return max(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)


def cut(text: str, columns: int) -> str:
    """Text of at most so many columns; what is cut ends with an ellipsis."""
    return text if len(text) <= columns else text[: columns - 1] + "…"


def labelled(label: str, text: str, indent: int = 2, column: int = 16) -> list[str]:
    """ "label  text", wrapped to the width, further lines under the text."""
    first = f"{'':{indent}}{label:<{column - indent}}"
    return textwrap.wrap(
        plain(text),
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * column,
        break_on_hyphens=False,
    ) or [first.rstrip()]


def table(rows: Sequence[Sequence[str]], indent: int = 4) -> list[str]:
    """Rows with aligned columns, two blanks apart."""
    if not rows:
        return []
    clean_rows = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*clean_rows, strict=True)]
    return [
        " " * indent
        + "  ".join(f"{cell:<{size}}" for cell, size in zip(row, widths, strict=True)).rstrip()
        for row in clean_rows
    ]


def age(moment: str, now: datetime | None = None) -> str:
    """How long ago an RFC 3339 time was: "12 s", "5 min", "3 h", "2 d".

    "?" for a time that is still to come: the clock was set back since.
    """
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return plain(moment)
    seconds = int(((now or datetime.now(UTC)) - then).total_seconds())
    if seconds < -_SKEW_S:
        return "?"
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{max(seconds, 0)} s"


def clock(moment: str, now: datetime | None = None) -> str:
    """An RFC 3339 time in this machine's zone: "18:52:38", with its date if that is not today."""
    try:
        then = datetime.fromisoformat(moment).astimezone()
    except ValueError:
        return plain(moment)
    today = (now or datetime.now(UTC)).astimezone().date()
    return f"{then:%H:%M:%S}" if then.date() == today else f"{then:%Y-%m-%d %H:%M:%S}"


def amount(size: int) -> str:
    """Bytes with a binary unit: "512 B", "16 MiB", "1.5 GiB"."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if value == int(value) else f"{value:.1f} {unit}"
        value /= 1024
    return f"{size} B"
