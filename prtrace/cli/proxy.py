"""prtrace proxy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from prtrace.cli.options import Function, log_options
from prtrace.errors import UsageError
from prtrace.linux import logs
from prtrace.prhelper.places import DEFAULT, Limits
from prtrace.prhelper.run import ProxyOptions, run


def _mode(_context: click.Context, _option: click.Parameter, text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not an octal mode") from error
    if not 0 <= mode <= 0o777:
        raise click.BadParameter(f"{text} is not a mode of a socket")
    if mode & 0o007:
        raise click.BadParameter("every local user could connect")
    return mode


def _guest_socket(
    _context: click.Context, _option: click.Parameter, texts: tuple[str, ...]
) -> tuple[tuple[str, Path], ...]:
    found = []
    for text in texts:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise click.BadParameter(f"{text!r} is not NAME=PATH")
        found.append((name, Path(path)))
    if len({name for name, _ in found}) < len(found):
        raise click.BadParameter("two sockets of one guest")
    return tuple(found)


def _limit(name: str, most: int, words: str) -> Callable[[Function], Function]:
    return click.option(name, type=click.IntRange(1, 65536), default=most, help=words)


@click.command(
    epilog="""\b
Examples:
  qemu-system-x86_64 -object pr-manager-helper,id=pr,path=/run/pr.sock …
  prtrace proxy --listen /run/pr.sock
  prtrace proxy --listen /run/pr.sock --upstream /run/qemu-pr-helper.sock
  prtrace proxy --guest-socket vm1=/run/1.sock --guest-socket vm2=/run/2.sock
""",
)
@click.option("--listen", type=click.Path(path_type=Path), help="socket for QEMU to connect to")
@click.option(
    "--guest-socket",
    "guest_sockets",
    metavar="NAME=PATH",
    multiple=True,
    callback=_guest_socket,
    help="a socket of one guest's own: who connects to it is that guest (several times)",
)
@click.option(
    "--control",
    type=click.Path(path_type=Path),
    help="socket by which root holds a guest's commands while it moves",
)
@click.option(
    "--upstream",
    type=click.Path(path_type=Path),
    help="socket of a qemu-pr-helper that executes the commands (default: prtrace does)",
)
@click.option(
    "--policy",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML file: what is hidden from which guest, and the same-host guard; read again on"
    " SIGHUP",
)
@click.option(
    "--run-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="where to say which guest a command is sent for (the agent reads it there), and to"
    " remember who uses which nexus",
)
@click.option("--socket-mode", default="0600", callback=_mode, help="octal")
@_limit("--connections", DEFAULT.connections, "clients at a time")
@_limit("--connections-of-user", DEFAULT.of_user, "of one user id")
@_limit("--connections-of-unit", DEFAULT.of_unit, "of one systemd unit (a guest, a login)")
@_limit("--connections-of-process", DEFAULT.of_process, "of one process")
@_limit("--arrivals-of-process", DEFAULT.arrivals, "new ones of one process a second")
@log_options
def command(
    *,
    listen: Path | None,
    upstream: Path | None,
    connections: int,
    connections_of_user: int,
    connections_of_unit: int,
    connections_of_process: int,
    arrivals_of_process: int,
    log_level: str,
    log_format: str,
    **others: Any,
) -> None:
    """Stand between QEMU's pr-manager-helper and the device, in qemu-pr-helper's place."""
    if listen is not None and upstream is not None and listen.resolve() == upstream.resolve():
        raise UsageError("--listen and --upstream are the same socket")
    logs.set_up(log_level, log_format)
    limits = Limits(
        connections, connections_of_user, connections_of_unit, connections_of_process,
        arrivals_of_process,
    )  # fmt: skip
    run(ProxyOptions(socket=listen, upstream=upstream, limits=limits, **others))
