"""prtrace libvirt."""

from __future__ import annotations

from pathlib import Path

import click

from prtrace.cli.options import FOLDER, Seconds, log_options, socket_option
from prtrace.libvirt.machine import MovePolicy
from prtrace.libvirt.service import RUN_DIR, STATE_DIR, ServiceOptions, run
from prtrace.linux import logs


@click.command(
    "libvirt",
    epilog="""\b
Examples:
  prtrace libvirt                      beside libvirtd; Ctrl-C stops it
  prtrace libvirt --late-commit warn   holders may come without plugin
  prtrace libvirt --without-note warn  from hosts without prtrace, too
""",
)
@socket_option
@click.option(
    "--run-dir",
    type=FOLDER,
    default=RUN_DIR,
    help="where hook and plugin find this service",
)
@click.option(
    "--state-dir",
    type=FOLDER,
    default=STATE_DIR,
    help="what is remembered of moves",
)
@click.option(
    "--deadline",
    metavar="SECONDS",
    type=Seconds(0.5, 600),
    default=4.0,
    help="that a call of the agent may take: libvirt holds the guest's lock meanwhile",
)
@click.option(
    "--late-commit",
    type=click.Choice(("refuse", "warn")),
    default="refuse",
    help="whether a reservation that the guest alone holds may be taken over after it went on,"
    " without the lock plugin",
)
@click.option(
    "--without-note",
    type=click.Choice(("refuse", "warn")),
    default="refuse",
    help="whether a guest with a LUN may come from a source that wrote no note",
)
@log_options
def command(
    *,
    socket: str,
    run_dir: Path,
    state_dir: Path,
    deadline: float,
    late_commit: str,
    without_note: str,
    log_level: str,
    log_format: str,
) -> None:
    """Let libvirt's migrations take reservations along, in the foreground."""
    logs.set_up(log_level, log_format)
    policy = MovePolicy(without_note=without_note == "warn", late=late_commit == "warn")
    run(ServiceOptions(socket, run_dir, state_dir, deadline, policy))
