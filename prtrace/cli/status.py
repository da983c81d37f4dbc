"""prtrace status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from prtrace.api.client import Client
from prtrace.cli.options import json_option, socket_option
from prtrace.cli.text import age, amount, document, labelled, line, table
from prtrace.errors import InDoubtError, PrtraceError


@click.command(
    "status",
    epilog="""\b
Exit status 1: the self-test failed, or nothing can be stored.
Exit status 4: units are in doubt.
\b
Examples:
  prtrace status
  prtrace status --json | jq .counters
""",
)
@json_option
@socket_option
def command(*, as_json: bool, socket: str) -> int:
    """Show how the agent is doing: engine, attach points, losses, self-test."""
    status: Mapping[str, Any] = Client(socket).call("Status")["status"]
    if as_json:
        document(status)
    else:
        for text in status_lines(status):
            line(text)
    return exit_status(status)


def exit_status(status: Mapping[str, Any]) -> int:
    """1 where the agent does not work, 4 where units are in doubt, else 0."""
    if status["self_test"]["result"] == "failed" or status["store"].get("problem"):
        return PrtraceError.exit_code
    return InDoubtError.exit_code if status["in_doubt"] else 0


def status_lines(status: Mapping[str, Any]) -> list[str]:
    """A prtrace.status/1 object as text."""
    ring, store, test = status["ring"], status["store"], status["self_test"]
    lines = labelled(
        "agent",
        f"prtrace {status['version']}, process {status['pid']}, up {age(status['since'])}",
        indent=0,
    )
    lines += labelled("engine", f"{status['engine']}, generation {status['generation']}", indent=0)
    if status.get("rss_bytes"):
        text = amount(status["rss_bytes"])
        if status.get("memory_bytes"):
            text += f"; the service with the programs' maps {amount(status['memory_bytes'])}"
        lines += labelled("memory", text, indent=0)
    detail = f" ({test['detail']})" if test.get("detail") else ""
    lines += labelled("self-test", f"{test['result']}{detail}", indent=0)
    doubt = f", {status['in_doubt']} in doubt" if status["in_doubt"] else ""
    lines += labelled(
        "units", f"{status['units']} over {status['nexuses']} nexuses{doubt}", indent=0
    )
    lines += labelled(
        "ring", f"{amount(ring['size'])}, {amount(ring['unread'])} waiting", indent=0
    )
    stored = "not known how much"
    if store["events"] is not None:
        stored = f"{store['events']} events, {amount(store['bytes'])}"
    lines += labelled("store", f"{store['path']}: {stored}", indent=0)
    if store.get("problem"):
        lines += labelled("", f"NOTHING IS STORED: {store['problem']}", indent=0)
    lines += _losses(status)
    lines += _attach(status)
    lines.append("counters")
    lines += table([(name, str(value)) for name, value in status["counters"].items()])
    return lines


def _losses(status: Mapping[str, Any]) -> list[str]:
    losses = status["loss"]
    if not losses:
        return labelled("lost", "nothing", indent=0)
    return [
        text
        for each in losses
        for text in labelled("LOST", f"{each['count']}: {each['cause']}", indent=0)
    ]


def _attach(status: Mapping[str, Any]) -> list[str]:
    points = status["attach"]
    missing = [point for point in points if not point["attached"]]
    lines = labelled(
        "attached", f"{len(points) - len(missing)} of {len(points)} programs", indent=0
    )
    if status.get("fallback"):
        lines += labelled("", f"one runs for every SCSI command: {status['fallback']}")
    for point in missing:
        lines += labelled("missing", f"{point['program']} ({point['section']})", indent=2)
        if point.get("why"):
            lines += labelled("", f"because: {point['why']}")
        if point.get("lost"):
            lines += labelled("", f"without it: {point['lost']}")
    return lines
