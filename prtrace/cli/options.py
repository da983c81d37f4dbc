"""Options that several commands have."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, TypeVar

import click

from prtrace.api.address import SOCKET, SOCKET_VARIABLE
from prtrace.linux import logs

_Function = TypeVar("_Function", bound=Callable[..., Any])

_AGO: Final = re.compile(r"(\d+)\s*(s|m|min|h|d)")
_SECONDS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}


def socket_option(function: _Function) -> _Function:
    """--socket PATH, for commands that ask the agent."""
    return click.option(
        "--socket",
        metavar="PATH",
        default=SOCKET,
        envvar=SOCKET_VARIABLE,
        show_envvar=True,
        help="the agent's socket",
    )(function)


def log_options(function: _Function) -> _Function:
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


def json_option(function: _Function) -> _Function:
    """--json, for commands that print."""
    return click.option("--json", "as_json", is_flag=True, help="print JSON")(function)


def max_age_option(function: _Function) -> _Function:
    """--max-age SECONDS, for commands that show or judge what the agent knows."""
    return click.option(
        "--max-age",
        metavar="SECONDS",
        type=click.IntRange(min=0),
        help="ask the devices first where what is known is older; 0: now",
    )(function)


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
