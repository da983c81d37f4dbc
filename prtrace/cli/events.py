"""prtrace events."""

from __future__ import annotations

import heapq
import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import click

from prtrace.api.client import Client
from prtrace.cli.files import read_recordings, split
from prtrace.cli.history import find_unit, in_order
from prtrace.cli.options import MOST, json_option, since_option, socket_option
from prtrace.cli.text import cut, labelled, line, plain, width
from prtrace.errors import UsageError
from prtrace.state.event import Command, Event, nanoseconds

_STATUSES: Final = {
    "RESERVATION CONFLICT": "CONFLICT",
    "CHECK CONDITION": "CHECK",
    "TASK SET FULL": "SET FULL",
}
_ACTIONS: Final = {
    "REGISTER AND IGNORE EXISTING KEY": "REGISTER IGNORE",
    "REPLACE LOST RESERVATION": "REPLACE LOST",
    "REPORT CAPABILITIES": "READ CAPABILITY",
    "READ FULL STATUS": "READ FULL",
    "READ RESERVATION": "READ RESERVATN",
}
_FLAGS: Final = ("aptpl", "spec_i_pt", "all_tg_pt", "unreg")
_KEYED: Final = ("PR OUT",)
_LATE_NS: Final = 10_000_000_000
_INDENT: Final = 13
"""Columns: under the device."""


@click.command(
    "events",
    epilog="""\b
Examples:
  prtrace events --last 20               the newest twenty
  prtrace events /dev/sda --since 10m    what happened to it lately
  prtrace events --since 4711 --follow   after event 4711, and what comes
  prtrace events --json > events.jsonl   for `prtrace replay`
  prtrace events a.jsonl b.jsonl         what two hosts recorded
""",
)
@click.argument("words", metavar="[DEVICE|RECORDING]...", nargs=-1)
@click.option("-f", "--follow", is_flag=True, help="go on with what happens from now on")
@since_option
@click.option("--last", metavar="N", type=click.IntRange(0, MOST), help="only the newest N")
@click.option("-v", "--verbose", is_flag=True, help="everything that is known of each")
@json_option
@socket_option
def command(
    words: tuple[str, ...],
    *,
    follow: bool,
    since: tuple[int, str | None],
    last: int | None,
    verbose: bool,
    as_json: bool,
    socket: str,
) -> None:
    """List what happened, oldest first.

    Time, device, action, status, who asked, keys and type, what it changed.
    RECORDING is what record, gather or sos wrote, on one host or several;
    the agent is asked where none is named.
    """
    devices, files = split(words)
    if files:
        if follow or last is not None or since != (0, None):
            raise UsageError("--follow, --since and --last are for the agent's events")
        found = _recorded(files, devices)
    else:
        found = _events(Client(socket), tuple(devices), since, last, follow=follow)
    if as_json:
        for event in found:
            click.echo(json.dumps(event, separators=(",", ":")))
        return
    columns = width()
    day = ""
    if len(files) > 1:
        line("-- each host's own times, in the order that PRGENERATION allows --")
    for event in found if follow or files else _by_time(found):
        moment = _moment(event["time"])
        if moment.strftime("%x") != day:
            day = moment.strftime("%x")
            line(f"-- {moment:%A, %Y-%m-%d} --")
        for text in event_lines(event, moment, columns):
            line(text)
        if verbose:
            for text in _details(event):
                line(text)


def _recorded(files: list[Path], devices: list[str]) -> Iterator[Mapping[str, Any]]:
    """The events of recordings in their common order, each with the host that recorded it."""
    recordings = read_recordings(files)
    wanted = {find_unit(device, recordings) for device in devices}
    for host, event in in_order(recordings, wanted):
        yield {**event.to_json(), "host": host or None}


def event_lines(event: Mapping[str, Any], moment: datetime, columns: int) -> list[str]:
    """One event in at most so many columns; what does not fit in its first line is indented."""
    device = str(event["device"] or event["nexus"]).removeprefix("/dev/")
    action = str(event["action"] or event["command"])
    status = str(event["status"] or "")
    host = f"on {event['host']}" if event.get("host") else ""
    told = [host, _who(event), _keys(event), _asked_for(event), _change(event)]
    return textwrap.wrap(
        plain(
            f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03} "
            f"{cut(device, 9):<9} {cut(_ACTIONS.get(action, action), 15):<15} "
            f"{cut(_STATUSES.get(status, status), 8):<8} "
            + "  ".join(text for text in told if text)
        ),
        columns,
        subsequent_indent=" " * _INDENT,
        break_on_hyphens=False,
    )


def _events(
    client: Client,
    devices: tuple[str, ...],
    since: tuple[int, str | None],
    last: int | None,
    *,
    follow: bool,
) -> Iterator[Mapping[str, Any]]:
    """The events; comes back for the rest where the agent found this reader too slow."""
    since_seq, since_time = since
    gap: int | None = -1
    while gap is not None:
        gap = None
        for reply in client.stream(
            "Events",
            patient=follow,
            devices=list(devices) or None,
            since_seq=since_seq,
            since_time=since_time,
            last=last,
            follow=follow,
        ):
            yield from reply.get("events", ())
            gap = reply.get("gap")
        if gap is not None:
            since_seq, last = gap, None


def _by_time(events: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The events by when they happened: what is counted is told up to some seconds late."""
    waiting: list[tuple[int, int, Mapping[str, Any]]] = []
    # Two hosts' events may have the same time and the same number.
    for number, event in enumerate(events):
        at = nanoseconds(event["time"])
        heapq.heappush(waiting, (at, number, event))
        while waiting and waiting[0][0] < at - _LATE_NS:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]


def _who(event: Mapping[str, Any]) -> str:
    if event["guest"]:
        return f"guest {event['guest']}"
    return str(event.get("client_comm") or event["comm"] or "")


def _asked_for(event: Mapping[str, Any]) -> str:
    asked = _asked(event)
    return f"for {asked}" if asked else ""


def _keys(event: Mapping[str, Any]) -> str:
    if event["command"] not in _KEYED or event["key"] is None:
        return f"x{event['count']}" if event["count"] > 1 else ""
    keys = f"{int(event['key'], 16):x}"
    if event["sa_key"] is not None and int(event["sa_key"], 16):
        keys += f"→{int(event['sa_key'], 16):x}"
    return f"{keys} {event['type']}" if event["type"] else keys


def _change(event: Mapping[str, Any]) -> str:
    for name in ("problem", "sense", "reason", "effect"):
        if event[name] and event[name] != "none":
            return str(event[name])
    return ""


def _details(event: Mapping[str, Any]) -> list[str]:
    shown = (
        "seq", "lu", "nexus", "status", "host_byte", "key", "sa_key", "type", "sense", "problem",
        "reason", "effect", "attempts", "count", "guest", "uuid", "client_pid", "client_comm",
        "asked", "flags", "to", "relative_target_port", "generation", "keys",
        "pid", "comm", "path", "requested", "exe", "unit", "target",
    )  # fmt: skip
    told = {**event, "asked": _asked(event)}
    told["flags"] = " ".join(name for name in _FLAGS if event.get(name))
    told["to"] = " ".join(event.get("transport_ids") or ())
    return [
        text
        for name in shown
        if told.get(name) not in (None, "", 0)
        for text in labelled(name.replace("_", " "), str(told[name]), indent=_INDENT, column=25)
    ]


def _asked(event: Mapping[str, Any]) -> str:
    """What the client asked for, "" where that is what was issued."""
    if not event.get("asked"):
        return ""
    # Here: it is slow to import, and hardly ever needed.
    from prtrace.state.decode import decode

    wanted, _ = decode(
        Event(
            command=Command.PR_OUT,
            cdb=bytes.fromhex(event["asked"]),
            data=bytes.fromhex(event["asked_data"]),
        )
    )
    action = wanted.action or wanted.cdb.hex(" ")
    return f"{_ACTIONS.get(action, action)} {_keys(wanted.to_json())}".rstrip()


def _moment(time: str) -> datetime:
    """An event's time in this machine's zone."""
    return datetime.fromisoformat(time).astimezone()
