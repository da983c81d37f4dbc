"""prtrace agent."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import click

from prtrace.agent.options import (
    CLAIMS_DIR,
    ENGINES,
    RING_SIZE,
    STATE_DIR,
    USER,
    AgentOptions,
)
from prtrace.api.address import SOCKET, SOCKET_VARIABLE
from prtrace.cli.options import FOLDER, MOST, log_options
from prtrace.errors import UsageError
from prtrace.store.room import KEEP_BYTES, KEEP_EVENTS

_LEAST_KEPT = 1 << 20
_SUFFIXES = {"K": 10, "M": 20, "G": 30}


def _parse_size(context: click.Context, parameter: click.Parameter, text: str | int) -> int:
    """Bytes, or a number with K, M or G; a power of two from 4 KiB, as the kernel wants it."""
    size = _bytes(text)
    if not 4096 <= size <= 1 << 30 or size & (size - 1):
        raise click.BadParameter(
            f"{text!r} is no power of two between 4K and 1G", context, parameter
        )
    return size


def _parse_bytes(context: click.Context, parameter: click.Parameter, text: str | int) -> int:
    size = _bytes(text)
    if size < _LEAST_KEPT:
        raise click.BadParameter(f"{text!r} is no size of at least 1M", context, parameter)
    return size


def _bytes(text: str | int) -> int:
    """Bytes, or a number with K, M or G; 0 where it is neither."""
    digits, shift = str(text).upper().removesuffix("IB").removesuffix("B"), 0
    if digits[-1:] in _SUFFIXES:
        digits, shift = digits[:-1], _SUFFIXES[digits[-1]]
    return int(digits) << shift if digits.isdecimal() and len(digits) < 16 else 0


def _parse_mode(context: click.Context, parameter: click.Parameter, text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0o600 <= mode <= 0o666 or mode & 0o111:
        raise click.BadParameter(
            f"{text!r} is no mode between 0600 and 0666, without x", context, parameter
        )
    return mode


@click.command(
    "agent",
    epilog="""\b
Examples:
  prtrace agent                               as root; stops with Ctrl-C
  prtrace agent --engine bcc                  where the kernel has no BTF
  prtrace agent --read-in-doubt no            never send a command to a device
  prtrace agent --socket-group storage        let that group read, too
  prtrace agent --verify 300                  ask idle paths every 5 minutes
""",
)
@click.argument("devices", metavar="[DEVICE]...", nargs=-1)
@click.option(
    "--state-dir",
    type=FOLDER,
    default=STATE_DIR,
    help="where history and state are kept",
)
@click.option(
    "--socket",
    metavar="PATH",
    type=click.Path(path_type=Path),
    default=Path(SOCKET),
    envvar=SOCKET_VARIABLE,
    help="where to listen (LISTEN_FDS is used where it is set)",
)
@click.option(
    "--socket-mode",
    metavar="OCTAL",
    callback=_parse_mode,
    default="0660",
    help="who may connect, and so read",
)
@click.option(
    "--socket-group",
    metavar="GROUP",
    default="",
    show_default=False,
    help="the group of the socket",
)
@click.option(
    "--admin-group",
    metavar="GROUP",
    default="",
    show_default=False,
    help="who may change things, beside root",
)
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="auto",
    help="auto: core where the kernel has what it needs, else bcc",
)
@click.option(
    "--read-in-doubt",
    type=click.Choice(("yes", "no")),
    default="yes",
    help="whether PR IN may be sent to clear doubt up",
)
@click.option(
    "--verify",
    metavar="SECONDS",
    type=click.IntRange(1, MOST),
    help="read DEVICEs, or all, that often: over paths nobody has open or registered",
)
@click.option(
    "--ring-size",
    metavar="BYTES",
    callback=_parse_size,
    default=str(RING_SIZE),
    show_default="16M",
    help="the ring between kernel and agent",
)
@click.option(
    "--keep-events",
    type=click.IntRange(1000, MOST),
    default=KEEP_EVENTS,
    help="how many events the history keeps",
)
@click.option(
    "--keep-bytes",
    metavar="BYTES",
    callback=_parse_bytes,
    default=str(KEEP_BYTES),
    show_default="2G",
    help="how much of the disk the history may take",
)
@click.option(
    "--user",
    metavar="NAME",
    default=USER,
    help="as whom it reads what devices, processes and callers send",
)
@click.option(
    "--claims",
    metavar="DIR",
    type=FOLDER,
    multiple=True,
    default=(CLAIMS_DIR,),
    help="run directory of a prtrace proxy; can be given more than once",
)
@log_options
def command(
    devices: tuple[str, ...], *, read_in_doubt: str, verify: int | None, **others: Any
) -> None:
    """Watch this host in the foreground, keep the state, and serve it.

    Runs until SIGINT or SIGTERM.  What happens between two runs is not
    missed: the programs stay in the kernel.
    """
    if devices and verify is None:
        raise UsageError("a DEVICE says what --verify reads", hint="give --verify SECONDS")
    if verify is not None and read_in_doubt == "no":
        raise UsageError("--verify reads, and --read-in-doubt no forbids it", hint="drop one")
    options = AgentOptions(
        read_in_doubt=read_in_doubt == "yes", verify=verify or 0, verified=devices, **others
    )
    _prepare_imports()
    # Loads the engine's libraries: not before the options are known to be right.
    from prtrace.agent import service

    # What was imported stays: no collection ever needs to look at it.
    gc.freeze()
    gc.enable()
    service.run(options)


def _prepare_imports() -> None:
    """Keep OpenSSL out of this process: 5 of the 33 MiB that an agent has after its imports.

    asyncio and hashlib import it where they find it, and do without where the import fails; the
    agent speaks no TLS.  Python has no other way to say so.
    """
    gc.disable()
    for name in ("ssl", "_hashlib"):
        sys.modules.setdefault(name, cast(ModuleType, None))
