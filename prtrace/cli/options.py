"""Options that several commands have."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from prtrace.api.address import SOCKET, SOCKET_VARIABLE
from prtrace.linux import logs

Function = TypeVar("Function", bound=Callable[..., Any])
"""What an option is put on."""

_AGO: Final = re.compile(r"(\d+)\s*(s|m|min|h|d)")
_SECONDS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}


socket_option = click.option(
    "--socket",
    metavar="PATH",
    default=SOCKET,
    envvar=SOCKET_VARIABLE,
    show_envvar=True,
    help="the agent's socket",
)
"""For commands that ask the agent."""
json_option = click.option("--json", "as_json", is_flag=True, help="print JSON")
max_age_option = click.option(
    "--max-age",
    metavar="SECONDS",
    type=click.IntRange(min=0),
    help="ask the devices first where what is known is older; 0: now",
)
"""For commands that show or judge what the agent knows."""
output_option = click.option(
    "-o",
    "--output",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="the file to write, whole or not at all",
)


def log_options(function: Function) -> Function:
    """--log-level and --log-format, for services."""
    level = click.option(
        "--log-level",
        type=click.Choice(logs.LEVELS),
        default="info",
        help="what is logged, to standard error",
    )
    form = click.option(
        "--log-format",
        type=click.Choice(logs.FORMATS),
        default="text",
        help="text has the journal's priorities where the journal reads",
    )
    return level(form(function))


def parse_since(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[int, str | None]:
    """--since: (sequence number, RFC 3339 time or None) from 10m, a time, or a number."""
    if text is None:
        return 0, None
    if text.isdecimal():
        return int(text), None
    ago = _AGO.fullmatch(text)
    if ago is not None:
        seconds = int(ago[1]) * _SECONDS[ago[2]]
        return 0, _text(datetime.fromtimestamp(max(time.time() - seconds, 0)).astimezone())
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no age (10m, 2h, 3d), no time (2026-01-31T12:00) and no number",
            context,
            parameter,
        ) from None
    return 0, _text(moment.astimezone())


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")


since_option = click.option(
    "--since",
    metavar="AGE|TIME|SEQ",
    callback=parse_since,
    help="not older than 10m (s, h, d), a time as 2026-01-31T12:00, or after that number",
)
"""Gives (sequence number, RFC 3339 time or None)."""
