"""Options that several commands have."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from prtrace.api.address import SOCKET, SOCKET_VARIABLE
from prtrace.cli.output import require_replaceable
from prtrace.linux import logs

Function = TypeVar("Function", bound=Callable[..., Any])
"""What an option is put on."""

MOST: Final = (1 << 53) - 1
"""The greatest number that an option takes: every reader of JSON has it exactly (RFC 8259)."""
_SEQ: Final = re.compile(r"[0-9]{1,18}")
_AGO: Final = re.compile(r"([0-9]{1,12})\s*(s|m|min|h|d)")
_SECONDS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}


FOLDER: Final = click.Path(path_type=Path, readable=False)
"""Of a folder that has a default: whether this user may read it is told in words that name no
option, which nobody gave."""

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
    type=click.IntRange(0, MOST),
    help="ask the devices first where what is known is older; 0: now",
)
"""For commands that show or judge what the agent knows."""


def _replaceable(
    _context: click.Context, _parameter: click.Parameter, output: Path | None
) -> Path | None:
    """Before the work begins, not after it."""
    if output is not None:
        require_replaceable(output)
    return output


def output_option(*, required: bool) -> Callable[[Function], Function]:
    """-o FILE, for commands that write one; where it is not required they can print instead."""
    words = "the file to write, whole or not at all"
    return click.option(
        "-o",
        "--output",
        metavar="FILE",
        required=required,
        type=click.Path(path_type=Path, dir_okay=False),
        callback=_replaceable,
        help=words if required else f"{words}; standard output without it",
    )


class Seconds(click.FloatRange):
    """A number of seconds; NaN lies in no range, though every comparison with it is false."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Take the option's text."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


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
    if _SEQ.fullmatch(text):
        return int(text), None
    ago = _AGO.fullmatch(text)
    if ago is not None:
        seconds = int(ago[1]) * _SECONDS[ago[2]]
        return 0, _text(datetime.fromtimestamp(max(time.time() - seconds, 0)).astimezone())
    try:
        # The zone of this host can lead out of the years that there are.
        moment = datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{text!r} is no age (10m, 2h, 3d), no time (2026-01-31T12:00) and no number",
            context,
            parameter,
        ) from None
    return 0, _text(moment)


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")


since_option = click.option(
    "--since",
    metavar="AGE|TIME|SEQ",
    callback=parse_since,
    help="not older than 10m (s, h, d), a time as 2026-01-31T12:00, or after that number",
)
"""Gives (sequence number, RFC 3339 time or None)."""
