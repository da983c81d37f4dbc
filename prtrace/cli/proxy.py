"""prtrace proxy."""

from __future__ import annotations

from pathlib import Path

import click

from prtrace.cli.options import log_options
from prtrace.errors import UsageError
from prtrace.linux import logs
from prtrace.prhelper.run import ProxyOptions, run
from prtrace.prhelper.service import Limits


def _mode(_context: click.Context, _option: click.Parameter, text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no octal mode") from error
    if not 0 <= mode <= 0o777:
        raise click.BadParameter(f"{text} is no mode of a socket")
    if mode & 0o007:
        raise click.BadParameter("every local user could connect")
    return mode


@click.command(
    epilog="""\b
Examples:
  qemu-system-x86_64 -object pr-manager-helper,id=pr,path=pr.sock …
  prtrace proxy --listen pr.sock
  prtrace proxy --listen pr.sock --upstream /run/helper.sock
""",
)
@click.option("--listen", type=click.Path(path_type=Path), help="socket for QEMU to connect to")
@click.option(
    "--upstream",
    type=click.Path(path_type=Path),
    help="socket of a qemu-pr-helper that executes the commands (default: prtrace does)",
)
@click.option(
    "--policy",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML file: what is hidden from which guest, and the same-host guard",
)
@click.option(
    "--run-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="where to say which guest a command is sent for; the agent reads it there",
)
@click.option("--socket-mode", default="0600", callback=_mode, help="octal  [default: 0600]")
@click.option(
    "--connections",
    type=click.IntRange(1, 65536),
    default=1024,
    show_default=True,
    help="clients at a time",
)
@click.option(
    "--connections-of-user",
    type=click.IntRange(1, 65536),
    default=512,
    show_default=True,
    help="clients of one user id at a time",
)
@log_options
def command(
    listen: Path | None,
    upstream: Path | None,
    policy: Path | None,
    run_dir: Path | None,
    socket_mode: int,
    connections: int,
    connections_of_user: int,
    *,
    log_level: str,
    log_format: str,
) -> None:
    """Stand between QEMU's pr-manager-helper and the device, in qemu-pr-helper's place."""
    if listen is not None and upstream is not None and listen.resolve() == upstream.resolve():
        raise UsageError("--listen and --upstream are the same socket")
    logs.set_up(log_level, log_format)
    run(
        ProxyOptions(
            socket=listen,
            upstream=upstream,
            policy=policy,
            run_dir=run_dir,
            socket_mode=socket_mode,
            limits=Limits(connections=connections, of_user=connections_of_user),
        )
    )
