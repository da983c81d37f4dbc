"""prtrace ports."""

from __future__ import annotations

import socket as sockets

import click

from prtrace.api.client import Client
from prtrace.cli.options import json_option, socket_option
from prtrace.cli.text import document, line, plain
from prtrace.errors import AgentUnreachableError
from prtrace.explain.ports import Ports


@click.command(
    "ports",
    epilog="""\b
Examples:
  prtrace ports                      the initiator ports of this host
  prtrace ports --json > node1.json  for the folder ports.d of every host
""",
)
@json_option
@socket_option
def command(*, as_json: bool, socket: str) -> None:
    """List the initiator ports of this host; without an agent as sysfs has them.

    The JSON of every host, collected into one folder, is what lets explain
    name the host that holds a reservation.
    """
    try:
        own = own_ports(Client(socket))
    except AgentUnreachableError:
        own = _in_sysfs()
    ports = Ports(sockets.gethostname(), own)
    if as_json:
        document(ports.to_json())
        return
    for port in sorted(ports.ports):
        line(plain(port))
    if not ports.ports:
        line("No initiator port of this host is known.")


def own_ports(client: Client) -> frozenset[str]:
    """The initiator ports of the agent's host, as far as sysfs names them."""
    return frozenset(
        path["initiator_port"]
        for unit in client.call("Show")["units"]
        for path in unit["nexuses"]
        if path["initiator_port"]
    )


def _in_sysfs() -> frozenset[str]:
    """What an agent would say if it ran: its user may read no more of them than anybody."""
    # Loads the reader of sysfs: only where no agent has read it.
    from prtrace.linux.units import scan

    ports = (device.nexus.initiator_port for device in scan().devices.values())
    return frozenset(filter(None, ports))
