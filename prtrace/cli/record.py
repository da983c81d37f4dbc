"""prtrace record."""

from __future__ import annotations

import os
import socket as sockets
from pathlib import Path

import click

from prtrace.api.client import Client
from prtrace.cli.options import parse_since, socket_option
from prtrace.cli.ports import own_ports
from prtrace.cli.text import line, warn
from prtrace.errors import UsageError
from prtrace.explain.recording import Recording
from prtrace.state.event import Event


@click.command(
    "record",
    epilog="""\b
Examples:
  prtrace record -o node1.jsonl                   all that the agent has kept
  prtrace record -o node1.jsonl --since 3d        the last three days
  prtrace record /dev/sda > node1.jsonl           one unit, to standard output
""",
)
@click.argument("devices", metavar="[DEVICE]...", nargs=-1)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="where to write; standard output without it",
)
@click.option(
    "--since",
    metavar="AGE|TIME|SEQ",
    callback=parse_since,
    help="not older than 10m (s, h, d), a time as 2026-01-31T12:00, or after that number",
)
@socket_option
def command(
    devices: tuple[str, ...], *, output: Path | None, since: tuple[int, str | None], socket: str
) -> None:
    """Write what this host's agent saw into a file that explain reads.

    The file has the host's name and its initiator ports, and events with
    everything that is known of them, guests and processes included.
    """
    client = Client(socket)
    since_seq, since_time = since
    events = tuple(
        Event.from_json(each)
        for reply in client.stream(
            "Events", devices=list(devices) or None, since_seq=since_seq, since_time=since_time
        )
        for each in reply.get("events", ())
    )
    recording = Recording(sockets.gethostname(), events, tuple(sorted(own_ports(client))))
    if output is None:
        for text in recording.lines():
            line(text)
        return
    try:
        with output.open("w", encoding="utf-8") as opened:
            opened.writelines(text + "\n" for text in recording.lines())
    except OSError as error:
        raise UsageError(f"{output}: {os.strerror(error.errno or 0)}") from error
    warn(f"{len(events)} events")
