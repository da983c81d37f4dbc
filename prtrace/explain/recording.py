"""A recording: what one host's agent saw, as a file that can be read anywhere (pure).

JSON lines.  The first is a header, {"schema": "prtrace.recording/1", "host": …, "ports": […],
"paths": {LU: [path, …]}}; the others are events (prtrace.event/1), ascending.  A file of events
alone is a recording, too, of a host that is not named.  What prtrace gather wrote has the output
of other programs as well, a line each: {"schema": "prtrace.gathered/1", "name": …,
"command": […], "status": …, "output": "…"}.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from prtrace.errors import MalformedError
from prtrace.model import LocalNexus
from prtrace.state.event import Command, Event, path_from_json, path_to_json

SCHEMA: Final = "prtrace.recording/1"
GATHERED: Final = "prtrace.gathered/1"


@dataclass(frozen=True, slots=True)
class Gathered:
    """What another program said, for people to read."""

    name: str
    command: tuple[str, ...]
    """What was run, or the file that was read."""
    status: int | None
    """The exit status; None where it did not end, or is not there."""
    output: str

    def to_json(self) -> dict[str, Any]:
        """The prtrace.gathered/1 object."""
        return {
            "schema": GATHERED,
            "name": self.name,
            "command": list(self.command),
            "status": self.status,
            "output": self.output,
        }


@dataclass(frozen=True, slots=True)
class Recording:
    """What one host recorded."""

    host: str
    """The host's name, "" where the file does not say."""
    events: tuple[Event, ...]
    """In the order of their numbers."""
    ports: tuple[str, ...] = ()
    """The host's own initiator ports, as far as it knows them."""
    gathered: tuple[Gathered, ...] = ()
    paths: tuple[LocalNexus, ...] = ()
    """The host's paths at the end: a recording that begins in the middle may tell none."""
    names: Mapping[str, str] = field(default_factory=dict)
    """The unit behind each name that no event has: of a sosreport, and not written."""

    def paths_of(self, lu: str) -> tuple[LocalNexus, ...]:
        """The paths that the unit had all the time, where no event tells its paths."""
        if any(event.command is Command.PATHS and event.lu == lu for event in self.events):
            return ()
        return tuple(path for path in self.paths if path.lu == lu)

    @classmethod
    def parse(cls, lines: Iterable[str | bytes], name: str) -> Self:
        """Read a recording; name is the file's, for messages.

        Raises MalformedError with the line that is wrong.
        """
        host = ""
        ports: tuple[str, ...] = ()
        paths: tuple[LocalNexus, ...] = ()
        events: list[Event] = []
        gathered: list[Gathered] = []
        begun = False
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                given = json.loads(line)
            except (ValueError, RecursionError) as error:
                what = f"this is not JSON: {error}"
                if not events and not host:
                    what += "; prtrace import makes a recording of a log or of what tools printed"
                raise MalformedError(f"{name}, line {number}", what) from None
            if isinstance(given, dict) and given.get("schema") == SCHEMA:
                if events or begun:
                    raise MalformedError(
                        f"{name}, line {number}",
                        "another recording begins here: give each file on its own",
                    )
                begun = True
                host, ports, paths = _header(given, f"{name}, line {number}")
                continue
            if isinstance(given, dict) and given.get("schema") == GATHERED:
                gathered.append(_gathered(given, f"{name}, line {number}"))
                continue
            try:
                event = Event.from_json(given)
            except MalformedError as error:
                raise MalformedError(f"{name}, line {number}", error.message) from None
            if events and event.seq <= events[-1].seq:
                raise MalformedError(
                    f"{name}, line {number}",
                    f"event {event.seq} comes after event {events[-1].seq}: sort the file by seq",
                )
            events.append(event)
        return cls(host, tuple(events), ports, tuple(gathered), paths)

    def lines(self) -> Iterator[str]:
        """The recording as parse() reads it."""
        paths: dict[str, list[dict[str, Any]]] = {}
        for path in self.paths:
            paths.setdefault(path.lu, []).append(path_to_json(path))
        yield json.dumps(
            {"schema": SCHEMA, "host": self.host, "ports": list(self.ports), "paths": paths}
        )
        for each in self.gathered:
            yield json.dumps(each.to_json())
        for event in self.events:
            yield json.dumps(event.to_json(), separators=(",", ":"))


def _gathered(given: dict[str, Any], where: str) -> Gathered:
    name, command, output = (given.get(each) for each in ("name", "command", "output"))
    status = given.get("status")
    words = isinstance(command, list) and all(isinstance(each, str) for each in command)
    texts = isinstance(name, str) and isinstance(output, str)
    if not (words and texts and isinstance(status, int | None)):
        raise MalformedError(where, "what was gathered has a name, a command, status and output")
    return Gathered(str(name), tuple(command or ()), status, str(output))


def _header(
    given: dict[str, Any], where: str
) -> tuple[str, tuple[str, ...], tuple[LocalNexus, ...]]:
    host, ports = given.get("host", ""), given.get("ports", [])
    if not isinstance(host, str) or not isinstance(ports, list):
        raise MalformedError(where, "host is a string and ports is a list of strings")
    if not all(isinstance(port, str) for port in ports):
        raise MalformedError(where, "ports is a list of strings")
    try:
        paths = tuple(
            path_from_json(lu, path)
            for lu, each in given.get("paths", {}).items()
            for path in each
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        raise MalformedError(where, "paths has a list of paths for each logical unit") from None
    return host, tuple(ports), paths
