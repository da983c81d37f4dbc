"""prtrace metrics."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import click

from prtrace.api.client import Client
from prtrace.cli.options import output_option, socket_option
from prtrace.cli.output import write_whole
from prtrace.errors import AgentUnreachableError
from prtrace.explain import metrics

_RECENT: Final = timedelta(minutes=10)
_EVENTS: Final = 20_000
"""The most events that are looked at for conflicts: in a storm, the newest."""
_READABLE: Final = 0o644
"""node_exporter reads the file as a user of its own."""


@click.command(
    "metrics",
    epilog="""\b
Exit status 5: no agent answers; prtrace_up is 0 then, and is written.
\b
Examples:
  prtrace metrics
  prtrace metrics -o /var/lib/prometheus/node-exporter/prtrace.prom
  prtrace metrics --details | grep prtrace_holder_info
""",
)
@output_option(required=False)
@click.option("--details", is_flag=True, help="every registration, holder and initiator port, too")
@socket_option
def command(*, output: Path | None, details: bool, socket: str) -> None:
    """Write the state as metrics for Prometheus.

    A timer that runs this each minute, and node_exporter's textfile
    collector, bring them to Prometheus; prtrace.rules.yml has alerts for
    them.  The alerts that compare hosts need --details on every host.  Keys
    and guests are in no metric: show names them.  Of a storm of conflicts,
    those in the newest 20,000 events are counted.
    """
    try:
        text = _ask(Client(socket), details=details)
    except AgentUnreachableError:
        _write(output, metrics.unreachable())
        raise
    _write(output, text)


def _ask(client: Client, *, details: bool) -> str:
    shown = client.call("Show")
    status = client.call("Status")["status"]
    since = (datetime.now(UTC) - _RECENT).isoformat(timespec="microseconds")
    events = (
        event
        for reply in client.stream("Events", since_time=since, last=_EVENTS)
        for event in reply.get("events") or ()
    )
    return metrics.metrics(shown, status, events, details=details)


def _write(output: Path | None, text: str) -> None:
    if output is None:
        click.echo(text, nl=False)
    else:
        write_whole(output, text, _READABLE)
