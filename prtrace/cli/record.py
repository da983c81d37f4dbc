"""prtrace record."""

from __future__ import annotations

import socket as sockets
from pathlib import Path

import click

from prtrace.api.client import Client
from prtrace.cli.anonymise import anonymise_option, anonymous
from prtrace.cli.history import paths_of
from prtrace.cli.options import output_option, since_option, socket_option
from prtrace.cli.output import write_whole
from prtrace.cli.ports import own_ports
from prtrace.cli.text import line, warn
from prtrace.explain.recording import Recording
from prtrace.state.event import Event


@click.command(
    "record",
    epilog="""\b
Examples:
  prtrace record -o node1.jsonl                   all that the agent has kept
  prtrace record -o node1.jsonl --since 3d        the last three days
  prtrace record /dev/sda > node1.jsonl           one unit, to standard output
  prtrace record -o x.jsonl --anonymise 'a word'  for people who need no names
""",
)
@click.argument("devices", metavar="[DEVICE]...", nargs=-1)
@output_option(required=False)
@since_option
@anonymise_option
@socket_option
def command(
    devices: tuple[str, ...],
    *,
    output: Path | None,
    since: tuple[int, str | None],
    anonymise: str | None,
    socket: str,
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
    shown = client.call("Show", devices=list(devices)) if devices else client.call("Show")
    recording = Recording(
        sockets.gethostname(),
        events,
        tuple(sorted(own_ports(client))),
        paths=tuple(path for unit in shown["units"] for path in paths_of(unit)),
    )
    if anonymise is not None:
        recording = anonymous(recording, anonymise)
    if output is None:
        for text in recording.lines():
            line(text)
        return
    write_whole(output, "".join(f"{text}\n" for text in recording.lines()))
    warn(f"{len(events)} events")
